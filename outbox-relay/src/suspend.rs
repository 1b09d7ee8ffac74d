//! Time for which the machine was suspended.

use std::time::Duration;

/// Returns the time for which the machine was suspended since it was started. Always zero on
/// operating systems other than Linux, which have no such clock.
pub(crate) fn suspended() -> Duration {
    #[cfg(target_os = "linux")]
    {
        use nix::time::{ClockId, clock_gettime};
        let read = |clock| clock_gettime(clock).map(Duration::from);
        let monotonic = read(ClockId::CLOCK_MONOTONIC).unwrap_or_default();
        let since_start = read(ClockId::CLOCK_BOOTTIME).unwrap_or_default();
        since_start.saturating_sub(monotonic)
    }
    #[cfg(not(target_os = "linux"))]
    Duration::ZERO
}
