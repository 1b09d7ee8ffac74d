//! The handle by which faults reach a process: sends commands to its supervisor and records those
//! that ended it.

use std::sync::Arc;
use std::time::Duration;

use test_support::supervisor::{Command, Commands, Requests};
use tokio::time::Instant;

use super::history::{Fault, FaultKind};
use super::recorder::Recorder;

/// Handle of a process.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) name: String,
    commands: Commands,
    recorder: Arc<Recorder>,
}

impl Remote {
    /// Creates the handle of a process and the receiver for its supervisor.
    pub(super) fn new(name: String, recorder: Arc<Recorder>) -> (Self, Requests) {
        let (commands, requests) = Commands::new();
        let remote = Self {
            name,
            commands,
            recorder,
        };
        (remote, requests)
    }

    /// Sends SIGKILL; the process is started again after `pause`. Returns once the signal is sent,
    /// with `false` if the process was not running or was already ending. Records a fault of
    /// `kind`; `None` if the kill is part of a larger fault.
    pub(super) async fn kill(&self, kind: Option<FaultKind>, pause: Duration) -> bool {
        let killed = self.commands.send(Command::Kill { delay: pause }).await;
        if let (Some(at), Some(kind)) = (killed, kind) {
            self.note(kind, at);
        }
        killed.is_some()
    }

    /// Sends SIGTERM; the process is started again `pause` after its end.
    pub(super) async fn terminate(&self, pause: Duration) -> bool {
        let terminated = self.commands.send(Command::Terminate { delay: pause });
        let terminated = terminated.await;
        if let Some(at) = terminated {
            self.note(FaultKind::Term, at);
        }
        terminated.is_some()
    }

    /// Sends SIGSTOP, and SIGCONT after `lasting`. The pause is recorded when it is over.
    pub(super) async fn stop(&self, lasting: Duration) -> bool {
        let paused = self.commands.send(Command::Pause { lasting }).await;
        paused.is_some()
    }

    /// Sends SIGCONT to a paused process; starts one that is not running.
    pub(super) async fn revive(&self) {
        self.commands.send(Command::Revive).await;
    }

    fn note(&self, kind: FaultKind, at: Instant) {
        self.recorder.fault(Fault {
            at: self.recorder.at(at.into_std()),
            until: None,
            kind,
            process: Some(self.name.clone()),
            service: None,
            operation: None,
            queue: None,
        });
    }
}
