//! The queues.

use async_trait::async_trait;
use outbox_relay::ports::{EntryFailure, EventKey, Queue, SendEntry, SendError};
use outbox_relay::routes::QueueRef;

use super::{Mutation, View};

fn key_of(entry: &SendEntry<'_>) -> EventKey {
    let sequence = entry
        .deduplication
        .rsplit(':')
        .next()
        .expect("ids have a colon");
    EventKey {
        aggregate_id: entry.group.to_owned(),
        sequence: sequence.to_owned(),
    }
}

impl View {
    /// Some services refuse a whole request for the sake of one entry.
    fn refuses_all(&self) -> bool {
        let mut world = self.world();
        let all = world.random.bool();
        if all {
            world.faults.note("batch refused");
        }
        all
    }
}

#[async_trait]
impl Queue for View {
    async fn send(
        &self,
        queue: &QueueRef,
        entries: &[SendEntry<'_>],
    ) -> Result<Vec<Result<String, EntryFailure>>, SendError> {
        assert!((1..=10).contains(&entries.len()));
        for entry in entries {
            self.world()
                .check_sender(&self.name, &self.instance, &key_of(entry));
        }
        if self.lacks(Mutation::NotWaitingForSends) {
            for entry in entries {
                let (view, key) = (self.clone(), key_of(entry));
                tokio::spawn(async move {
                    view.travel().await;
                    view.world().deliver(&view.name, key);
                });
            }
            return Ok(entries.iter().map(|_| Ok("m".to_owned())).collect());
        }
        self.travel().await;
        let unavailable = || SendError::Unavailable {
            kind: "simulated".to_owned(),
            message: "simulated".to_owned(),
        };
        if self.world().away.contains(queue.name()) || self.strikes("send failed", 0.05) {
            return Err(unavailable());
        }
        let refused = |code: &str| SendError::Refused {
            code: code.to_owned(),
            message: "simulated".to_owned(),
        };
        if self.strikes("send throttled", 0.02) {
            return Err(refused("RequestThrottled"));
        }
        let at_fault = |entry: &SendEntry<'_>| self.world().is_refused(&key_of(entry));
        if entries.iter().any(at_fault) && self.refuses_all() {
            return Err(refused("InvalidMessageContents"));
        }
        let answers = entries
            .iter()
            .map(|entry| {
                let at_fault = at_fault(entry);
                if at_fault || self.strikes("entry failed", 0.03) {
                    let code = if at_fault {
                        "InvalidMessageContents"
                    } else {
                        "InternalError"
                    };
                    return Err(EntryFailure {
                        code: code.to_owned(),
                        message: "simulated".to_owned(),
                        sender_fault: at_fault,
                    });
                }
                let mut world = self.world();
                world.deliver(&self.name, key_of(entry));
                Ok(format!("m-{}", world.deliveries.len()))
            })
            .collect();
        let lost = self.strikes("send answer lost", 0.02);
        self.travel().await;
        if lost {
            Err(unavailable())
        } else {
            Ok(answers)
        }
    }
}
