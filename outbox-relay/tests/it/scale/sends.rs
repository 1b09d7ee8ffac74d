//! Record of the messages that relays send, taken in front of SQS.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use serde_json::Value;
use test_support::{Call, Fault, Proxy};

use crate::support::Stage;

/// Proxy in front of SQS that records every entry of every batch.
pub(super) struct SqsRecorder {
    proxy: Proxy,
    sends: Arc<Mutex<Sends>>,
}

/// Messages in the order in which they were sent.
#[derive(Debug, Default)]
pub(super) struct Sends {
    /// First send of each event id.
    pub(super) first: HashMap<String, Instant>,
    /// Number of sends that were not the first of their event.
    pub(super) repeats: usize,
    /// Last sequence that was sent of each aggregate.
    last: HashMap<String, u64>,
    /// First sends that were not of the next sequence of their aggregate.
    pub(super) out_of_order: Vec<String>,
    pub(super) batches: usize,
}

impl SqsRecorder {
    pub(super) async fn start(stage: &Stage) -> Self {
        let proxy = Proxy::start(stage.cloud.sqs_url()).await.unwrap();
        let sends = Arc::<Mutex<Sends>>::default();
        let recorded = Arc::clone(&sends);
        proxy.rule(move |call| {
            if call.operation == "SendMessageBatch" {
                recorded.lock().unwrap().record(call);
            }
            Fault::Pass
        });
        Self { proxy, sends }
    }

    pub(super) fn url(&self) -> &str {
        self.proxy.url()
    }

    /// Waits until `count` different events whose id begins with `prefix` are sent.
    pub(super) async fn until_sent(&self, prefix: &str, count: usize, limit: Duration) {
        // Counting is not free for a large number of events.
        let mut polls = tokio::time::interval(Duration::from_millis(250));
        let began = Instant::now();
        loop {
            let sent = self.sends().count(prefix);
            if sent >= count {
                return;
            }
            polls.tick().await;
            assert!(
                began.elapsed() < limit,
                "{sent} of {count} are sent after {limit:?}"
            );
        }
    }

    /// Locks the record. The guard must not be held across an await.
    pub(super) fn sends(&self) -> MutexGuard<'_, Sends> {
        self.sends.lock().unwrap()
    }
}

impl Sends {
    fn record(&mut self, call: Call<'_>) {
        let at = Instant::now();
        let request: Value = serde_json::from_str(call.body).unwrap();
        self.batches += 1;
        for entry in request["Entries"].as_array().unwrap() {
            let body: Value = serde_json::from_str(entry["MessageBody"].as_str().unwrap()).unwrap();
            let id = body["id"].as_str().unwrap();
            if self.first.contains_key(id) {
                self.repeats += 1;
                continue;
            }
            self.first.insert(id.to_owned(), at);
            let aggregate = body["subject"].as_str().unwrap();
            let sequence: u64 = id.rsplit_once(':').unwrap().1.parse().unwrap();
            let last = self.last.entry(aggregate.to_owned()).or_default();
            if sequence != *last + 1 {
                self.out_of_order.push(format!("{id} after {last}"));
            }
            *last = sequence;
        }
    }

    /// Returns the number of different events whose id begins with `prefix`.
    pub(super) fn count(&self, prefix: &str) -> usize {
        let ids = self.first.keys();
        ids.filter(|id| id.starts_with(prefix)).count()
    }
}
