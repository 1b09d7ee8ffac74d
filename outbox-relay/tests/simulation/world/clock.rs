//! Wall clocks of a run, which follow the paused time of tokio.

use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::time::Instant;

use crate::run::MAX_INSTANCES;

/// Wall-clock time at the start of a run.
const EPOCH_MILLIS: i64 = 1_800_000_000_000;

thread_local! {
    static STARTED: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// Starts the clocks of a run on this thread.
pub(crate) fn start_clock() {
    STARTED.set(Some(Instant::now()));
}

/// Returns the time of the services and of the writers.
pub(crate) fn clock() -> Timestamp {
    ahead_by(0)
}

/// Clocks of the instances: one is exact, one is fast and one is slow.
pub(crate) const CLOCKS: [fn() -> Timestamp; MAX_INSTANCES] =
    [|| ahead_by(0), || ahead_by(1_700), || ahead_by(-900)];

fn ahead_by(millis: i64) -> Timestamp {
    let elapsed = STARTED
        .get()
        .map_or(Duration::ZERO, |start| start.elapsed());
    let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(0);
    Timestamp::from_millis(EPOCH_MILLIS + elapsed + millis)
}
