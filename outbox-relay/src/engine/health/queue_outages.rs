//! Queues that do not accept messages, and the log lines about them: a failing queue is probed
//! several times a second, so only some of the failures are logged as warnings.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::WARNING_INTERVAL;
use crate::routes::QueueRef;

/// Failing queues.
#[derive(Debug, Default)]
pub(super) struct QueueOutages(BTreeMap<QueueRef, Outage>);

#[derive(Debug)]
struct Outage {
    since: Instant,
    /// Kind of the failure that was logged last, and the time of the log line.
    warned: Option<(String, Instant)>,
    /// Reason of the last failure.
    reason: String,
}

impl QueueOutages {
    /// Records that a request with `count` messages failed, with a warning if it is the first, a
    /// failure of another kind, or the first for a minute.
    pub(super) fn record_failure(
        &mut self,
        queue: &QueueRef,
        kind: &str,
        reason: String,
        count: usize,
        now: Instant,
    ) {
        let outage = self.0.entry(queue.clone()).or_insert_with(|| Outage {
            since: now,
            warned: None,
            reason: String::new(),
        });
        let is_repeated = outage
            .warned
            .as_ref()
            .is_some_and(|(of, at)| of == kind && now < *at + WARNING_INTERVAL);
        if !is_repeated {
            tracing::warn!(
                queue = queue.as_str(),
                kind,
                count,
                reason,
                failing_seconds = (now - outage.since).as_secs(),
                "send failed; retrying until the queue accepts messages"
            );
            outage.warned = Some((kind.to_owned(), now));
        }
        outage.reason = reason;
    }

    /// Records that the queue accepted messages.
    pub(super) fn record_success(&mut self, queue: &QueueRef, now: Instant) {
        if let Some(outage) = self.0.remove(queue) {
            tracing::info!(
                queue = queue.as_str(),
                failed_seconds = (now - outage.since).as_secs(),
                "the queue accepts messages again"
            );
        }
    }

    /// Returns `true` if the last request to the queue failed.
    pub(super) fn contains(&self, queue: &QueueRef) -> bool {
        self.0.contains_key(queue)
    }

    /// Forgets queues that are not in use.
    pub(super) fn retain(&mut self, is_in_use: impl Fn(&QueueRef) -> bool) {
        self.0.retain(|queue, _| is_in_use(queue));
    }

    /// Returns the failing queues, each with the reason of its last failure.
    pub(super) fn reasons(&self) -> impl Iterator<Item = (&QueueRef, &str)> {
        let outages = self.0.iter();
        outages.map(|(queue, outage)| (queue, outage.reason.as_str()))
    }
}
