//! The first SIGINT, SIGTERM or SIGHUP (the terminal was closed) requests an orderly stop, the
//! second an immediate one.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals within this interval count as one: some callers signal the process and then its whole
/// group.
const SAME_REQUEST_WITHIN: Duration = Duration::from_millis(500);

/// Stop requests by signals.
#[derive(Clone, Debug, Default)]
pub struct Stopping {
    /// Cancelled to finish the work and stop.
    pub stop: CancellationToken,
    /// Cancelled to stop immediately.
    pub force: CancellationToken,
}

/// Signal handlers. Once created, the signals no longer end the process.
#[derive(Debug)]
pub struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hang_up: Signal,
}

impl Signals {
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    /// Runs `work` and cancels `stopping` at signals meanwhile.
    pub async fn during<T>(mut self, stopping: Stopping, work: impl Future<Output = T>) -> T {
        let forward = async {
            self.next().await;
            stopping.stop.cancel();
            let first = Instant::now();
            while first.elapsed() < SAME_REQUEST_WITHIN {
                self.next().await;
            }
            stopping.force.cancel();
            std::future::pending().await
        };
        tokio::select! {
            outcome = work => outcome,
            never = forward => never,
        }
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hang_up.recv() => {}
        }
    }
}
