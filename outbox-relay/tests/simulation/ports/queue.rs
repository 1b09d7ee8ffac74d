//! Queue port.

use std::time::Duration;

use async_trait::async_trait;
use outbox::message::{MAX_MESSAGE_BYTES, REPLAY_ATTRIBUTE};
use outbox_relay::ports::{EntryFailure, EventKey, Queue, SendEntry, SendError};
use outbox_relay::routes::QueueRef;
use tokio::time::Instant;

use super::{Mutation, View};
use crate::world::Delivery;

/// Message of a batch, as the service receives it.
#[derive(Clone, Debug)]
struct Message {
    key: EventKey,
    /// Number of the replay; 0 for a first publication.
    replay: u64,
    deduplication: String,
}

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
    Message {
        key,
        replay,
        deduplication: entry.deduplication.to_owned(),
    }
}

fn event_id_of(entry: &SendEntry<'_>) -> String {
    let body: serde_json::Value = serde_json::from_str(&entry.message.body).expect("a JSON body");
    body["id"].as_str().expect("a text").to_owned()
}

fn unavailable() -> SendError {
    SendError::Unavailable {
        kind: "simulated".to_owned(),
        message: "simulated".to_owned(),
    }
}

fn entry_failure(sender_fault: bool) -> EntryFailure {
    let code = if sender_fault {
        "InvalidMessageContents"
    } else {
        "InternalError"
    };
    EntryFailure {
        code: code.to_owned(),
        message: "simulated".to_owned(),
        sender_fault,
    }
}

fn is_fifo(queue: &str) -> bool {
    queue.ends_with(".fifo")
}

/// Returns the name of a queue in the setup, whether it is a FIFO queue or not.
fn logical(queue: &str) -> &str {
    queue.strip_suffix(".fifo").unwrap_or(queue)
}

type Answer = Result<Vec<Result<String, EntryFailure>>, SendError>;

impl View {
    /// Processes a batch that left its sender at `sent_at`, as the service does.
    fn receive(
        &self,
        queue: &str,
        messages: &[Message],
        sent_at: Instant,
        is_lost: bool,
    ) -> Answer {
        if self.world().unavailable.contains(logical(queue)) || self.strikes("send failed", 0.05) {
            if self.lacks(Mutation::OutageRejects) {
                return Ok(messages.iter().map(|_| Err(entry_failure(true))).collect());
            }
            self.log_failure(messages);
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
        if messages.iter().any(|message| at_fault(&message.key)) && self.refuses_all() {
            return Err(refused("InvalidMessageContents"));
        }
        let answer_lost = is_lost || self.strikes("send answer lost", 0.02);
        let answers = messages
            .iter()
            .map(|message| {
                let at_fault = at_fault(&message.key);
                if at_fault || self.strikes("entry failed", 0.03) {
                    return Err(entry_failure(at_fault));
                }
                let delivery = Delivery {
                    key: message.key.clone(),
                    replay: message.replay,
                    sender: self.name.clone(),
                    sent_at,
                    at: Instant::now(),
                    answer_lost,
                    is_late: is_lost,
                };
                let deduplication = is_fifo(queue).then_some(&*message.deduplication);
                Ok(self.world().deliver(delivery, deduplication))
            })
            .collect();
        if answer_lost {
            Err(unavailable())
        } else {
            Ok(answers)
        }
    }

    fn log_failure(&self, messages: &[Message]) {
        let name = |message: &Message| {
            let EventKey {
                aggregate_id,
                sequence,
            } = &message.key;
            format!("{aggregate_id}:{sequence}")
        };
        let names: Vec<_> = messages.iter().map(name).collect();
        let line = format!("{} fails to send {}", self.name, names.join(", "));
        self.world().log(line);
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
        let bytes: usize = entries.iter().map(|entry| entry.message.size()).sum();
        let limit = if self.lacks(Mutation::LargeBatches) {
            MAX_MESSAGE_BYTES / 2
        } else {
            MAX_MESSAGE_BYTES
        };
        if bytes > limit {
            let violation = format!("batches: {} sends {bytes} bytes at once", self.name);
            self.world().violations.push(violation);
        }
        for entry in entries {
            self.world()
                .check_sender(&self.name, &message_of(entry).key);
        }
        if self.lacks(Mutation::NotWaitingForSends) {
            for entry in entries {
                let (view, message) = (self.clone(), message_of(entry));
                tokio::spawn(async move {
                    let sent_at = Instant::now();
                    view.travel().await;
                    let _ = view.receive("", &[message], sent_at, false);
                });
            }
            return Ok(entries.iter().map(|_| Ok("m".to_owned())).collect());
        }
        let (name, sent_at) = (queue.name().to_owned(), Instant::now());
        let mut messages: Vec<_> = entries.iter().map(message_of).collect();
        if self.lacks(Mutation::DeduplicationByEventId) {
            for (message, entry) in messages.iter_mut().zip(entries) {
                message.deduplication = event_id_of(entry);
            }
        }
        let is_slow = self.world().setup.slow_queue == Some(logical(&name));
        if is_slow && self.strikes("slow queue", 1.0) {
            let millis = self.world().random.u64(500..4_000);
            tokio::time::sleep(Duration::from_millis(millis)).await;
        }
        self.request(Some(Err(unavailable())), move |view, is_lost| {
            view.receive(&name, &messages, sent_at, is_lost)
        })
        .await
    }
}
