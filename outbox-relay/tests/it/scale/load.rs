//! Writers of events.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use aws_sdk_dynamodb::types::{PutRequest, WriteRequest};
use futures::stream::{self, StreamExt};
use tokio::task::JoinSet;

use super::p99;
use super::sends::Sends;
use crate::support::{Item, Stage, event};

/// Items of one BatchWriteItem.
const BATCH: usize = 25;

/// Number of concurrent batches.
const WRITERS: usize = 4;

/// Writers of one event a second each, each of an aggregate of its own, until it is dropped.
pub(super) struct SteadyLoad {
    committed: Arc<Mutex<HashMap<String, Instant>>>,
    writers: JoinSet<()>,
}

impl SteadyLoad {
    pub(super) fn start(stage: &Stage, rate: u32) -> Self {
        let committed = Arc::<Mutex<HashMap<String, Instant>>>::default();
        let mut writers = JoinSet::new();
        for n in 0..rate {
            let dynamodb = stage.dynamodb.clone();
            let committed = Arc::clone(&committed);
            writers.spawn(async move {
                let start = tokio::time::Instant::now() + Duration::from_secs(1) * n / rate;
                let mut ticks = tokio::time::interval_at(start, Duration::from_secs(1));
                for sequence in 1.. {
                    ticks.tick().await;
                    let aggregate = format!("steady-{n}");
                    let put = dynamodb.put_item().table_name("outbox");
                    let put = put.set_item(Some(event(&aggregate, sequence)));
                    put.send().await.unwrap();
                    let id = format!("{aggregate}:{sequence}");
                    committed.lock().unwrap().insert(id, Instant::now());
                }
            });
        }
        Self { committed, writers }
    }

    /// Ends the load. Returns the number of events.
    pub(super) async fn stop(&mut self) -> usize {
        self.writers.shutdown().await;
        self.committed.lock().unwrap().len()
    }

    /// Returns the number of events committed between `from` and `until`, and the 99th percentile
    /// of their times from commit to send. An event that was not sent by now counts with its age.
    pub(super) fn lag(&self, sends: &Sends, from: Instant, until: Instant) -> (usize, Duration) {
        let now = Instant::now();
        let lags: Vec<_> = self
            .committed
            .lock()
            .unwrap()
            .iter()
            .filter(|(_, at)| (from..until).contains(*at))
            .map(|(id, at)| {
                let sent = sends.first.get(id).copied().unwrap_or(now);
                sent.saturating_duration_since(*at)
            })
            .collect();
        (lags.len(), p99(lags))
    }
}

impl Stage {
    /// Writes `items` in this order, except that a few batches are concurrent, at most `rate` a
    /// second.
    pub(super) async fn write_paced(&self, items: impl IntoIterator<Item = Item>, rate: u32) {
        let mut pace = tokio::time::interval(Duration::from_secs(1) * 25 / rate);
        let batches = stream::iter(items).chunks(BATCH);
        let mut batches = std::pin::pin!(batches);
        let mut writers = JoinSet::new();
        while let Some(items) = batches.next().await {
            pace.tick().await;
            if writers.len() >= WRITERS {
                writers.join_next().await.unwrap().unwrap();
            }
            let requests = items.into_iter().map(|item| {
                let put = PutRequest::builder().set_item(Some(item)).build().unwrap();
                WriteRequest::builder().put_request(put).build()
            });
            let batch = self.dynamodb.batch_write_item();
            let batch = batch.request_items("outbox", requests.collect());
            writers.spawn(async move {
                let answer = batch.send().await.unwrap();
                assert!(answer.unprocessed_items.unwrap_or_default().is_empty());
            });
        }
        while let Some(written) = writers.join_next().await {
            written.unwrap();
        }
    }
}
