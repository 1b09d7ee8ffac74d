//! Retry and replay of many events: in the order of sequence within an
//! aggregate, aggregates side by side. Ending it at any point is harmless, and
//! so is doing it again.

use std::collections::BTreeMap;

use futures::StreamExt;
use serde::Serialize;
use shared::outbox::Status;

use super::change::Acted;
use super::cursor::Cursor;
use super::event::EventView;
use super::filter::{Filter, State};
use super::{OperateError, Operator};
use crate::decide::backoff;
use crate::ports::EventKey;

/// Changes under way at once.
const MAX_CHANGES: usize = 16;

/// Events listed at once.
const PAGE: usize = 500;

/// Attempts at one change while DynamoDB does not answer or throttles; with
/// their pauses, about ten seconds.
const MAX_ATTEMPTS: u32 = 8;

/// How far it has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Changed by this call.
    pub changed: u64,
    /// Already in another state, by somebody else.
    pub unchanged: u64,
}

impl Tally {
    fn add(&mut self, acted: &Acted) {
        if acted.changed {
            self.changed += 1;
        } else {
            self.unchanged += 1;
        }
    }

    pub fn seen(&self) -> u64 {
        self.changed + self.unchanged
    }
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulk {
    pub tally: Tally,
    /// Why it ended early. What is done is done; the rest is as it was.
    pub stopped_by: Option<OperateError>,
}

impl Operator {
    /// Retries every failed event that matches `filter`, the oldest first.
    /// `progress` hears of every few.
    pub async fn retry_failed(&self, filter: &Filter, mut progress: impl FnMut(Tally)) -> Bulk {
        let filter = Filter {
            state: Some(State::Failed),
            newest_first: false,
            ..filter.clone()
        };
        let mut tally = Tally::default();
        let mut after = None;
        loop {
            let (events, next) = match self.page(&filter, after.as_ref()).await {
                Ok(page) => page,
                Err(error) => return Bulk::stopped(tally, error),
            };
            let mut by_aggregate: BTreeMap<String, Vec<EventView>> = BTreeMap::new();
            for event in events {
                by_aggregate
                    .entry(event.aggregate_id.clone())
                    .or_default()
                    .push(event);
            }
            let mut changes = futures::stream::iter(by_aggregate.into_values())
                .map(|events| self.retry_in_order(events))
                .buffer_unordered(MAX_CHANGES);
            while let Some(acted) = changes.next().await {
                match acted {
                    Ok(acted) => acted.iter().for_each(|acted| tally.add(acted)),
                    Err(error) => return Bulk::stopped(tally, error),
                }
                progress(tally);
            }
            match next {
                None => return Bulk::complete(tally),
                next => after = next,
            }
        }
    }

    /// Sends an aggregate's published events again, from `from_sequence` on;
    /// those in other states are left as they are.
    pub async fn replay_aggregate(
        &self,
        aggregate_id: &str,
        from_sequence: u64,
        mut progress: impl FnMut(Tally),
    ) -> Bulk {
        let filter = Filter {
            aggregate_id: Some(aggregate_id.to_owned()),
            from_sequence: Some(from_sequence),
            ..Filter::default()
        };
        let mut tally = Tally::default();
        let mut after = None;
        loop {
            let (events, next) = match self.page(&filter, after.as_ref()).await {
                Ok(page) => page,
                Err(error) => return Bulk::stopped(tally, error),
            };
            for event in events {
                // Failed and discarded ones cost no request.
                if event.status.as_deref() == Some(Status::Published.as_str()) {
                    let key = event.key();
                    match patiently(|| self.replay(&key)).await {
                        Ok(acted) => tally.add(&acted),
                        Err(error) => return Bulk::stopped(tally, error),
                    }
                } else {
                    tally.unchanged += 1;
                }
                progress(tally);
            }
            match next {
                None => return Bulk::complete(tally),
                next => after = next,
            }
        }
    }

    async fn page(
        &self,
        filter: &Filter,
        after: Option<&Cursor>,
    ) -> Result<(Vec<EventView>, Option<Cursor>), OperateError> {
        let listing = patiently(|| self.list(filter, PAGE, after)).await?;
        Ok((listing.events, listing.next))
    }

    /// One aggregate's events: an earlier one is pending before a later one.
    async fn retry_in_order(&self, mut events: Vec<EventView>) -> Result<Vec<Acted>, OperateError> {
        events.sort_by_key(|event| event.sequence.parse::<u64>().unwrap_or(u64::MAX));
        let keys: Vec<EventKey> = events.iter().map(EventView::key).collect();
        let mut acted = Vec::with_capacity(keys.len());
        for key in &keys {
            acted.push(patiently(|| self.retry(key)).await?);
        }
        Ok(acted)
    }
}

impl Bulk {
    fn complete(tally: Tally) -> Self {
        Self {
            tally,
            stopped_by: None,
        }
    }

    fn stopped(tally: Tally, error: OperateError) -> Self {
        Self {
            tally,
            stopped_by: Some(error),
        }
    }
}

/// Tries again, for a while, what DynamoDB had no answer to.
async fn patiently<T, F>(mut act: impl FnMut() -> F) -> Result<T, OperateError>
where
    F: Future<Output = Result<T, OperateError>>,
{
    let mut failures = 0;
    loop {
        match act().await {
            Err(OperateError::Unavailable(_)) if failures + 1 < MAX_ATTEMPTS => {
                failures += 1;
                tokio::time::sleep(backoff::delay(failures, fastrand::f64())).await;
            }
            outcome => return outcome,
        }
    }
}
