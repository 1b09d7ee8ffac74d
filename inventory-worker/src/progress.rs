//! Progress of the worker, for its health checks.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use shared::runtime::health::Check;
use tokio::time::Instant;

/// Time without progress after which the process should be restarted. A long poll takes 20 seconds,
/// and every request has a timeout of a few.
const STALLED_AFTER: Duration = Duration::from_secs(120);

/// Time at which a poll, an attempt at a message or a probe of the tables last ended.
///
/// Failures count as progress, because a failing worker is alive: during an outage a restart would
/// not help, and would cost each message in flight a receive.
#[derive(Debug)]
pub(crate) struct Progress {
    last: Mutex<Instant>,
    /// Reason for which the last poll failed; `None` if it succeeded.
    poll_error: Mutex<Option<String>>,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self {
            last: Mutex::new(Instant::now()),
            poll_error: Mutex::default(),
        }
    }

    /// Records that something ended just now.
    pub(crate) fn record(&self) {
        *locked(&self.last) = Instant::now();
    }

    /// Records the end of a poll, with its error.
    pub(crate) fn record_poll(&self, error: Option<&str>) {
        self.record();
        *locked(&self.poll_error) = error.map(str::to_owned);
    }

    /// Returns `true` if the last poll failed.
    pub(crate) fn poll_failed(&self) -> bool {
        locked(&self.poll_error).is_some()
    }

    /// Returns the check of polling for `/readyz`: a queue can exist and deny its messages.
    pub(crate) fn check_polling(&self) -> Check {
        match &*locked(&self.poll_error) {
            None => Check::pass("polling"),
            Some(reason) => Check::fail("polling", reason),
        }
    }

    /// Returns the check of progress for `/healthz`.
    pub(crate) fn check(&self, now: Instant) -> Check {
        let last = *locked(&self.last);
        let age = now.saturating_duration_since(last);
        if age < STALLED_AFTER {
            Check::pass("progress")
        } else {
            let reason = format!("no poll and no message ended for {} s", age.as_secs());
            Check::fail("progress", reason)
        }
    }
}

/// Locks `value`. A panic in another task leaves a time or a text, and both remain valid.
fn locked<T>(value: &Mutex<T>) -> MutexGuard<'_, T> {
    value.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_progress_check_fails_after_two_minutes_without_an_end() {
        let progress = Progress::new();
        let started = *progress.last.lock().unwrap();
        let stalled = started + STALLED_AFTER;
        assert!(progress.check(stalled - Duration::from_millis(1)).ok);
        let check = progress.check(stalled);
        assert!(!check.ok);
        assert_eq!(
            check.reason.as_deref(),
            Some("no poll and no message ended for 120 s")
        );
    }
}
