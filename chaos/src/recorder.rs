//! Gathers the history of a run from everything that sees a part of it.

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
    /// Why the history is not whole, the first reason.
    failure: Mutex<Option<ChaosError>>,
}

/// The start of the run, by the clock that nobody sets and by the wall's.
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

    /// The run begins, now that everything is ready; returns when that was.
    pub(super) fn begin(&self) -> Instant {
        let began = *self.began.get_or_init(|| Began {
            instant: Instant::now(),
            at: Timestamp::now(),
        });
        self.write(|history| history.settings.started_at = began.at.to_string());
        began.instant
    }

    /// Milliseconds since the start of the run; 0 before it.
    pub(super) fn now(&self) -> u64 {
        let began = self.began.get();
        began.map_or(0, |began| millis(began.instant.elapsed()))
    }

    /// A stored time in milliseconds since the start of the run. It is by the
    /// wall clock of whoever stored it, which is this machine.
    pub(super) fn since_start(&self, at: Timestamp) -> u64 {
        let began = self.began.get();
        let since = began.map_or(0, |began| at.as_millis() - began.at.as_millis());
        u64::try_from(since).unwrap_or(0)
    }

    /// Adds to the history. The lock is held for `write` only.
    pub(super) fn write(&self, write: impl FnOnce(&mut History)) {
        write(&mut self.lock());
    }

    /// Looks at the history.
    pub(super) fn read<T>(&self, read: impl FnOnce(&History) -> T) -> T {
        read(&self.lock())
    }

    /// Something could not be seen or kept. The run goes on, but it cannot
    /// pass any more.
    pub(super) fn fail(&self, error: ChaosError) {
        tracing::error!("{error}");
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }

    /// The first failure, if there was one.
    pub(super) fn take_failure(&self) -> Option<ChaosError> {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.take()
    }

    pub(super) fn fault(&self, fault: Fault) {
        self.write(|history| history.faults.push(fault));
    }

    /// The whole history, sorted by time; nothing is left here.
    pub(super) fn take(&self) -> History {
        let mut history = std::mem::take(&mut *self.lock());
        // What lasts is noted when it ends.
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

/// Whole milliseconds; 64 bits of them are longer than anything runs.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
