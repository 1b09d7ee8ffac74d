//! Wall clocks of a run, which follow the paused time of tokio.

use std::time::Duration;

use outbox::timestamp::Timestamp;
use tokio::time::Instant;

use crate::run::MAX_INSTANCES;

/// Wall-clock time at the start of a run.
const EPOCH_MILLIS: i64 = 1_800_000_000_000;

thread_local! {
    /// Milliseconds by which the clocks of the instances were set.
    static STEPS: std::cell::Cell<[i64; MAX_INSTANCES]> = const { std::cell::Cell::new([0; MAX_INSTANCES]) };
    static STARTED: std::cell::Cell<Option<Instant>> = const { std::cell::Cell::new(None) };
}

/// Starts the clocks of a run on this thread.
pub(crate) fn start_clock() {
    STARTED.set(Some(Instant::now()));
    STEPS.set([0; MAX_INSTANCES]);
}

/// Returns the time of the services and of the writers.
pub(crate) fn clock() -> Timestamp {
    ahead_by(0)
}

/// Clocks of the instances: one is exact, one is fast and one is slow, until they are set.
pub(crate) const CLOCKS: [fn() -> Timestamp; MAX_INSTANCES] = [
    || ahead_by(STEPS.get()[0]),
    || ahead_by(1_700 + STEPS.get()[1]),
    || ahead_by(-900 + STEPS.get()[2]),
];

/// Sets the clock of an instance wrong by minutes.
pub(crate) fn set_clock(instance: usize, minutes: i64) {
    let mut steps = STEPS.get();
    steps[instance] = minutes * 60_000;
    STEPS.set(steps);
}

fn ahead_by(millis: i64) -> Timestamp {
    let elapsed = STARTED
        .get()
        .map_or(Duration::ZERO, |start| start.elapsed());
    let elapsed = i64::try_from(elapsed.as_millis()).unwrap_or(0);
    Timestamp::from_millis(EPOCH_MILLIS + elapsed + millis)
}
