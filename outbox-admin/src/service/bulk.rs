//! Retries and replays many events: in sequence order within an aggregate, several aggregates
//! concurrently. An operation may be interrupted at any point and repeated. When it is cancelled it
//! ends between two changes, so that its counts are exact.

use std::collections::BTreeMap;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use futures::StreamExt;
use outbox::Status;
use outbox_store::dynamodb::EventChange;
use outbox_store::{EventFilter, EventKey, EventState, PageToken};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

use super::event::EventView;
use super::{OperateError, Operator};

/// Upper bound on concurrent changes.
const MAX_CHANGES: usize = 16;

/// Events per page of the list.
const PAGE: usize = 500;

/// Pauses between attempts at one change while DynamoDB does not answer or throttles; together with
/// the attempts, about ten seconds.
const BACKOFF: ExponentialBuilder = ExponentialBuilder::new()
    .with_min_delay(Duration::from_millis(50))
    .with_max_delay(Duration::from_secs(1))
    .with_max_times(7)
    .with_jitter();

/// Progress of an operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// Changed by this call.
    pub changed: u64,
    /// Already in another state, because of another process.
    pub unchanged: u64,
    /// Left unchanged: the change does not fit into DynamoDB's 400 KB.
    pub too_large: u64,
}

impl Tally {
    fn add(&mut self, acted: &EventChange) {
        if acted.changed {
            self.changed += 1;
        } else {
            self.unchanged += 1;
        }
    }

    pub fn seen(&self) -> u64 {
        self.changed + self.unchanged + self.too_large
    }
}

/// Result of an operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bulk {
    pub tally: Tally,
    /// Reason why the operation ended early. Changes that were made remain; other events are
    /// unchanged.
    pub stopped_by: Option<Stopped>,
}

/// Reason why an operation ended early.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stopped {
    /// The operation was cancelled.
    #[error("interrupted")]
    Interrupted,
    #[error(transparent)]
    Failed(#[from] OperateError),
}

impl Operator {
    /// Retries every failed event that matches `filter`, the oldest first, until `stop`. Calls
    /// `progress` after every few events.
    pub async fn retry_failed(
        &self,
        filter: &EventFilter,
        stop: &CancellationToken,
        mut progress: impl FnMut(Tally),
    ) -> Bulk {
        let filter = EventFilter {
            state: Some(EventState::Failed),
            newest_first: false,
            ..filter.clone()
        };
        let mut tally = Tally::default();
        let mut after = None;
        loop {
            let (events, next) = match self.page(&filter, after.as_ref(), stop).await {
                Ok(page) => page,
                Err(stopped) => return Bulk::stopped(tally, stopped),
            };
            let mut by_aggregate: BTreeMap<String, Vec<EventView>> = BTreeMap::new();
            for event in events {
                by_aggregate
                    .entry(event.stored.aggregate_id.clone())
                    .or_default()
                    .push(event);
            }
            // A failure ends the other aggregates as well, each after its current change.
            let ending = stop.child_token();
            let mut stopped_by = None;
            let mut changes = futures::stream::iter(by_aggregate.into_values())
                .map(|events| self.retry_in_order(events, &ending))
                .buffer_unordered(MAX_CHANGES);
            while let Some((acted, ended)) = changes.next().await {
                acted.iter().for_each(|acted| tally.add(acted));
                if let Err(stopped) = ended {
                    stopped_by.get_or_insert(stopped);
                    ending.cancel();
                }
                progress(tally);
            }
            if let Some(stopped) = stopped_by {
                return Bulk::stopped(tally, stopped);
            }
            match next {
                None => return Bulk::complete(tally),
                next => after = next,
            }
        }
    }

    /// Replays an aggregate's published events from `from_sequence` on, until `stop`. Events in
    /// other states and events that are too large to be changed are left unchanged.
    pub async fn replay_aggregate(
        &self,
        aggregate_id: &str,
        from_sequence: u64,
        stop: &CancellationToken,
        mut progress: impl FnMut(Tally),
    ) -> Bulk {
        let filter = EventFilter {
            aggregate_id: Some(aggregate_id.to_owned()),
            from_sequence: Some(from_sequence),
            ..EventFilter::default()
        };
        let mut tally = Tally::default();
        let mut after = None;
        loop {
            let (events, next) = match self.page(&filter, after.as_ref(), stop).await {
                Ok(page) => page,
                Err(stopped) => return Bulk::stopped(tally, stopped),
            };
            for event in events {
                // Failed and discarded events need no request.
                if event.stored.status.as_deref() == Some(Status::Published.as_str()) {
                    let key = event.key();
                    match retry_while_unavailable(stop, || self.replay(&key)).await {
                        Ok(acted) => tally.add(&acted),
                        Err(Stopped::Failed(OperateError::TooLarge(_))) => tally.too_large += 1,
                        Err(stopped) => return Bulk::stopped(tally, stopped),
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
        filter: &EventFilter,
        after: Option<&PageToken>,
        stop: &CancellationToken,
    ) -> Result<(Vec<EventView>, Option<PageToken>), Stopped> {
        let listing = retry_while_unavailable(stop, || self.list(filter, PAGE, after)).await?;
        Ok((listing.events, listing.next))
    }

    /// Retries the events of one aggregate, so that an earlier one is pending before a later one.
    /// Returns the changes that were made, whether or not it ended early.
    async fn retry_in_order(
        &self,
        mut events: Vec<EventView>,
        stop: &CancellationToken,
    ) -> (Vec<EventChange>, Result<(), Stopped>) {
        events.sort_by_key(|event| event.stored.sequence.parse::<u64>().unwrap_or(u64::MAX));
        let keys: Vec<EventKey> = events.iter().map(EventView::key).collect();
        let mut acted = Vec::with_capacity(keys.len());
        for key in &keys {
            match retry_while_unavailable(stop, || self.retry(key)).await {
                Ok(one) => acted.push(one),
                Err(stopped) => return (acted, Err(stopped)),
            }
        }
        (acted, Ok(()))
    }
}

impl Bulk {
    fn complete(tally: Tally) -> Self {
        Self {
            tally,
            stopped_by: None,
        }
    }

    fn stopped(tally: Tally, by: Stopped) -> Self {
        Self {
            tally,
            stopped_by: Some(by),
        }
    }
}

/// Repeats `act` with backoff while DynamoDB is unavailable. Starts no attempt after `stop`, and
/// completes the current one.
async fn retry_while_unavailable<T, F>(
    stop: &CancellationToken,
    mut act: impl FnMut() -> F,
) -> Result<T, Stopped>
where
    F: Future<Output = Result<T, OperateError>>,
{
    let mut pauses = BACKOFF.build();
    while !stop.is_cancelled() {
        match (act().await, pauses.next()) {
            (Err(OperateError::Unavailable(_)), Some(pause)) => {
                stop.run_until_cancelled(tokio::time::sleep(pause)).await;
            }
            (outcome, _) => return Ok(outcome?),
        }
    }
    Err(Stopped::Interrupted)
}
