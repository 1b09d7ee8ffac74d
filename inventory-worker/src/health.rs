//! Whether the worker makes progress, and whether it could do its work now.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use shared::runtime::health::{Check, Health, Report};
use tokio::time::Instant;

use crate::order_processor::OrderProcessor;
use crate::queue::Queue;

/// Without a sign of life for this long the process is to be restarted: a long
/// poll takes 20 seconds, and every request has a timeout of a few.
const STUCK_AFTER: Duration = Duration::from_secs(120);

/// Probes ask often, and all of them together cost one look a second.
const READY_FOR: Duration = Duration::from_secs(1);

/// One look takes this long at most, for the probe that waits for it.
const LOOK_WITHIN: Duration = Duration::from_secs(2);

/// When something was last brought to its end: a poll, an attempt at a message,
/// a look at the tables. Failing counts, because a failing worker is alive: in
/// an outage a restart would help nobody, and cost each message in hand a
/// receipt.
#[derive(Debug)]
pub(crate) struct Progress {
    last: Mutex<Instant>,
    /// Why the last poll failed; `None` when it did not.
    poll_failed: Mutex<Option<String>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            last: Mutex::new(Instant::now()),
            poll_failed: Mutex::default(),
        }
    }

    pub(crate) fn made(&self) {
        *locked(&self.last) = Instant::now();
    }

    /// A poll ended.
    pub(crate) fn polled(&self, failed: Option<&str>) {
        self.made();
        *locked(&self.poll_failed) = failed.map(str::to_owned);
    }

    /// Whether the last poll failed.
    pub(crate) fn poll_failed(&self) -> bool {
        locked(&self.poll_failed).is_some()
    }

    /// Whether polls get through, for `/readyz`: a queue can be there and
    /// refuse them.
    fn polls(&self) -> Check {
        match &*locked(&self.poll_failed) {
            None => Check::pass("polling"),
            Some(reason) => Check::fail("polling", reason),
        }
    }

    fn check(&self, now: Instant) -> Check {
        let last = *locked(&self.last);
        let age = now.saturating_duration_since(last);
        if age < STUCK_AFTER {
            Check::pass("progress")
        } else {
            let reason = format!("no poll and no message ended for {} s", age.as_secs());
            Check::fail("progress", reason)
        }
    }
}

/// A panic elsewhere leaves a time or a text, both fine.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The answers to `/healthz` and `/readyz`.
#[derive(Debug)]
pub(crate) struct WorkerHealth {
    pub sqs: aws_sdk_sqs::Client,
    pub queue: Arc<Queue>,
    pub settler: Arc<OrderProcessor>,
    /// Held while looking, so that many probes at once cost one look.
    pub seen: tokio::sync::Mutex<Option<(Instant, Report)>>,
}

impl WorkerHealth {
    async fn look(&self) -> Report {
        let queue = Check::queue(&self.sqs, self.queue.configured());
        let looks = async { tokio::join!(queue, self.settler.tables.check()) };
        match tokio::time::timeout(LOOK_WITHIN, looks).await {
            Ok((queue, tables)) => {
                let here = [self.settler.progress.polls(), self.settler.gate.check()];
                Report::new([queue].into_iter().chain(tables).chain(here))
            }
            Err(_) => Report::new([Check::fail(
                "queue and tables",
                format!("no answer within {} s", LOOK_WITHIN.as_secs()),
            )]),
        }
    }
}

#[async_trait]
impl Health for WorkerHealth {
    async fn live(&self) -> Report {
        Report::new([self.settler.progress.check(Instant::now())])
    }

    async fn ready(&self) -> Report {
        let mut seen = self.seen.lock().await;
        if let Some((at, report)) = &*seen
            && at.elapsed() < READY_FOR
        {
            return report.clone();
        }
        let report = self.look().await;
        *seen = Some((Instant::now(), report.clone()));
        report
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_stuck_after_two_minutes_without_any_end() {
        let progress = Progress::new();
        let started = *progress.last.lock().unwrap();
        let stuck = started + STUCK_AFTER;
        assert!(progress.check(stuck - Duration::from_millis(1)).ok);
        let check = progress.check(stuck);
        assert!(!check.ok);
        assert_eq!(
            check.reason.as_deref(),
            Some("no poll and no message ended for 120 s")
        );
    }
}
