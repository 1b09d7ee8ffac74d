//! Collects the history of a run from all its observers.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use outbox::timestamp::Timestamp;

use super::error::ChaosError;
use super::history::{Fault, History, Settings};

/// The history so far, and the run's clock.
#[derive(Debug)]
pub(super) struct Recorder {
    began: OnceLock<Began>,
    history: Mutex<History>,
    /// First reason why the history is incomplete.
    failure: Mutex<Option<ChaosError>>,
}

/// Start of the run, by the monotonic clock and by the wall clock.
#[derive(Clone, Copy, Debug)]
struct Began {
    instant: Instant,
    at: Timestamp,
}

impl Recorder {
    pub(super) fn new(settings: Settings) -> Self {
        Self {
            began: OnceLock::new(),
            history: Mutex::new(History {
                settings,
                ..History::default()
            }),
            failure: Mutex::default(),
        }
    }

    /// Starts the clock of the run, once everything is ready. Returns the start.
    pub(super) fn begin(&self) -> Instant {
        let began = *self.began.get_or_init(|| Began {
            instant: Instant::now(),
            at: Timestamp::now(),
        });
        self.write(|history| history.settings.started_at = began.at.to_string());
        began.instant
    }

    /// Returns the milliseconds since the start of the run; 0 before it.
    pub(super) fn now(&self) -> u64 {
        self.at(Instant::now())
    }

    /// Converts `instant` to milliseconds since the start of the run; 0 before it.
    pub(super) fn at(&self, instant: Instant) -> u64 {
        let began = self.began.get();
        began.map_or(0, |began| {
            millis(instant.saturating_duration_since(began.instant))
        })
    }

    /// Converts a stored timestamp to milliseconds since the start of the run. It comes from the
    /// wall clock of this machine.
    pub(super) fn since_start(&self, at: Timestamp) -> u64 {
        let began = self.began.get();
        let since = began.map_or(0, |began| at.as_millis() - began.at.as_millis());
        u64::try_from(since).unwrap_or(0)
    }

    /// Changes the history. The lock is held for `write` only.
    pub(super) fn write(&self, write: impl FnOnce(&mut History)) {
        write(&mut self.lock());
    }

    /// Reads the history.
    pub(super) fn read<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.lock())
    }

    /// Records that something could not be observed or stored. The run continues, but it fails.
    pub(super) fn fail(&self, error: ChaosError) {
        tracing::error!("{error}");
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }

    /// Returns the first failure.
    pub(super) fn take_failure(&self) -> Option<ChaosError> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }

    pub(super) fn fault(&self, fault: Fault) {
        self.write(|history| history.faults.push(fault));
    }

    /// Takes the history, sorted by time.
    pub(super) fn take(&self) -> History {
        let mut history = std::mem::take(&mut *self.lock());
        // Faults with a duration are recorded at their end.
        history.posts.sort_by_key(|post| post.at);
        history.steps.sort_by_key(|step| step.at);
        history.publishes.sort_by_key(|publish| publish.at);
        history.faults.sort_by_key(|fault| fault.at);
        history.lives.sort_by_key(|life| life.started);
        history
    }

    fn lock(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns whole milliseconds; 64 bits are sufficient for any run.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
