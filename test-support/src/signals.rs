//! The first SIGINT, SIGTERM or SIGHUP (the terminal was closed) asks for an
//! orderly stop, the second for an immediate one.

use std::io;
use std::time::{Duration, Instant};

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Signals this close together are one wish: some callers signal the process
/// and then its whole group.
const ONE_KEYSTROKE: Duration = Duration::from_millis(500);

/// What the signals ask for.
#[derive(Clone, Debug, Default)]
pub struct Stopping {
    /// Finish and stop.
    pub stop: CancellationToken,
    /// Stop now.
    pub force: CancellationToken,
}

/// From its creation on, the signals no longer end the process.
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

    /// Runs `work` to its end and meanwhile passes signals on to it.
    pub async fn during<T>(mut self, stopping: Stopping, work: impl Future<Output = T>) -> T {
        let pass_on = async {
            self.next().await;
            stopping.stop.cancel();
            let first = Instant::now();
            while first.elapsed() < ONE_KEYSTROKE {
                self.next().await;
            }
            stopping.force.cancel();
            std::future::pending().await
        };
        tokio::select! {
            outcome = work => outcome,
            never = pass_on => never,
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
