//! A channel by which the fault proxy kills the process that it serves.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};

/// Kills one process; its supervisor receives the request.
#[derive(Clone, Debug)]
pub(super) struct KillSwitch(mpsc::Sender<KillRequest>);

/// Requests sent by the [`KillSwitch`] of one process.
pub(super) type KillRequests = mpsc::Receiver<KillRequest>;

/// A request to send SIGKILL.
#[derive(Debug)]
pub(super) struct KillRequest {
    /// Time until the process is started again.
    pub(super) pause: Duration,
    /// Receives `true` once the signal is sent, `false` if the process was not running or was
    /// already ending.
    pub(super) done: oneshot::Sender<bool>,
}

impl KillSwitch {
    /// Creates a switch and the receiver for the supervisor.
    pub(super) fn new() -> (Self, KillRequests) {
        // Each request waits for its response, so requests hardly ever queue up.
        let (requests, received) = mpsc::channel(8);
        (Self(requests), received)
    }

    /// Sends SIGKILL; the process is started again after `pause`. Returns once the signal is sent,
    /// with `false` if the process was not running or was already ending.
    pub(super) async fn kill(&self, pause: Duration) -> bool {
        let (done, killed) = oneshot::channel();
        let sent = self.0.send(KillRequest { pause, done }).await;
        // The supervisor ends with the run.
        sent.is_ok() && killed.await.unwrap_or(false)
    }
}
