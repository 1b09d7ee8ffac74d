//! Commands for a supervised process.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

/// A command for a supervised process.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Sends SIGKILL; the process is started again after `delay`.
    Kill { delay: Duration },
    /// Sends SIGTERM; the process is started again `delay` after its end.
    Terminate { delay: Duration },
    /// Sends SIGSTOP, and SIGCONT after `lasting`.
    Pause { lasting: Duration },
    /// Sends SIGCONT to a paused process, and starts one that is not running.
    Revive,
}

/// Sends commands to one supervisor.
#[derive(Clone, Debug)]
pub struct Commands(mpsc::Sender<Request>);

/// Receiver of the commands of one supervisor.
#[derive(Debug)]
pub struct Requests(mpsc::Receiver<Request>);

#[derive(Debug)]
pub(super) struct Request {
    pub(super) command: Command,
    /// Receives the time of the signal, or `None` if the command did not apply.
    pub(super) done: oneshot::Sender<Option<Instant>>,
}

impl Commands {
    /// Creates the sender and the receiver for the supervisor.
    pub fn new() -> (Self, Requests) {
        // Commands are executed one at a time, and the sender waits for the result.
        let (commands, received) = mpsc::channel(8);
        (Self(commands), Requests(received))
    }

    /// Executes `command`. Returns the time of the signal, or `None` if there was no process to
    /// apply it to: it is not running, it is already ending, or the supervisor has ended.
    pub async fn send(&self, command: Command) -> Option<Instant> {
        let (done, executed) = oneshot::channel();
        self.0.send(Request { command, done }).await.ok()?;
        executed.await.ok().flatten()
    }
}

impl Requests {
    pub(super) async fn recv(&mut self) -> Option<Request> {
        self.0.recv().await
    }
}
