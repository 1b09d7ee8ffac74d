//! Queue port.

use async_trait::async_trait;
use outbox::message::REPLAY_ATTRIBUTE;
use outbox_relay::ports::{EntryFailure, EventKey, Queue, SendEntry, SendError};
use outbox_relay::routes::QueueRef;
use tokio::time::Instant;

use super::{Mutation, View};
use crate::world::Delivery;

/// Event of a message, and the number of its replay; 0 for a first publication.
type Message = (EventKey, u64);

fn message_of(entry: &SendEntry<'_>) -> Message {
    let body: serde_json::Value = serde_json::from_str(&entry.message.body).expect("a JSON body");
    let text = |name: &str| body[name].as_str().expect("a text").to_owned();
    let key = EventKey {
        aggregate_id: text("subject"),
        sequence: text("sequence").trim_start_matches('0').to_owned(),
    };
    let mut attributes = entry.message.attributes.iter();
    let replay = attributes.find(|(name, _)| *name == REPLAY_ATTRIBUTE);
    let replay = replay.map_or(0, |(_, number)| number.parse().expect("a number"));
    (key, replay)
}

type Answer = Result<Vec<Result<String, EntryFailure>>, SendError>;

impl View {
    /// Processes a batch that left its sender at `sent_at`, as the service does.
    fn receive(&self, queue: &str, messages: &[Message], sent_at: Instant) -> Answer {
        let unavailable = || SendError::Unavailable {
            kind: "simulated".to_owned(),
            message: "simulated".to_owned(),
        };
        if self.world().unavailable.contains(queue) || self.strikes("send failed", 0.05) {
            return Err(unavailable());
        }
        let refused = |code: &str| SendError::Refused {
            code: code.to_owned(),
            message: "simulated".to_owned(),
        };
        if self.strikes("send throttled", 0.02) {
            return Err(refused("RequestThrottled"));
        }
        let at_fault = |key: &EventKey| self.world().is_refused(key);
        if messages.iter().any(|(key, _)| at_fault(key)) && self.refuses_all() {
            return Err(refused("InvalidMessageContents"));
        }
        let answer_lost = self.strikes("send answer lost", 0.02);
        let answers = messages
            .iter()
            .map(|(key, replay)| {
                let at_fault = at_fault(key);
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
                let delivery = Delivery {
                    key: key.clone(),
                    replay: *replay,
                    sender: self.name.clone(),
                    sent_at,
                    at: Instant::now(),
                    answer_lost,
                };
                Ok(self.world().deliver(delivery))
            })
            .collect();
        if answer_lost {
            Err(unavailable())
        } else {
            Ok(answers)
        }
    }

    /// Decides at random whether the whole request is refused because of one entry, as some
    /// services do.
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
    async fn send(&self, queue: &QueueRef, entries: &[SendEntry<'_>]) -> Answer {
        assert!((1..=10).contains(&entries.len()));
        for entry in entries {
            self.world()
                .check_sender(&self.name, &self.instance, &message_of(entry).0);
        }
        if self.lacks(Mutation::NotWaitingForSends) {
            for entry in entries {
                let (view, message) = (self.clone(), message_of(entry));
                tokio::spawn(async move {
                    let sent_at = Instant::now();
                    view.travel().await;
                    let _ = view.receive("", &[message], sent_at);
                });
            }
            return Ok(entries.iter().map(|_| Ok("m".to_owned())).collect());
        }
        let (name, sent_at) = (queue.name().to_owned(), Instant::now());
        let messages: Vec<_> = entries.iter().map(message_of).collect();
        self.request(move |view| view.receive(&name, &messages, sent_at))
            .await
    }
}
