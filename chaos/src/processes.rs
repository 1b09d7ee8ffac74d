//! The processes under test. A task for each of them keeps it running, injects the scheduled faults
//! into it and records its incarnations.

mod gaps;
mod process_recorder;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use process_recorder::ProcessSupervisor;
use test_support::child_process::Spec;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::history::{FaultKind, Program};
use super::kill_switch::KillRequests;
use super::proxy::Proxy;
use super::recorder::Recorder;

/// Handle of a process: sends commands to its supervisor.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) name: String,
    commands: mpsc::Sender<Request>,
}

/// A command for a supervisor. The response is `true` if there was a process to apply it to.
#[derive(Debug)]
struct Request {
    command: Command,
    done: oneshot::Sender<bool>,
}

#[derive(Debug)]
enum Command {
    Kill {
        /// Kind to be recorded; `None` if the kill is part of a larger fault.
        kind: Option<FaultKind>,
        pause: Duration,
    },
    Term {
        pause: Duration,
    },
    Stop {
        lasting: Duration,
    },
    /// Ends pauses and restarts the process.
    Revive,
}

impl Remote {
    /// Creates the handle of a process and the receiver for its supervisor.
    pub(super) fn new(name: String) -> (Self, Requests) {
        // Commands are executed one at a time, and the sender waits for the result.
        let (commands, received) = mpsc::channel(8);
        (Self { name, commands }, Requests(received))
    }

    /// Sends SIGKILL; the process is started again after `pause`. Returns once the signal is sent,
    /// with `false` if no process was running.
    pub(super) async fn kill(&self, kind: Option<FaultKind>, pause: Duration) -> bool {
        self.send(Command::Kill { kind, pause }).await
    }

    /// Sends SIGTERM; the process is started again `pause` after its end.
    pub(super) async fn terminate(&self, pause: Duration) -> bool {
        self.send(Command::Term { pause }).await
    }

    /// Sends SIGSTOP, and SIGCONT after `lasting`.
    pub(super) async fn stop(&self, lasting: Duration) -> bool {
        self.send(Command::Stop { lasting }).await
    }

    /// Sends SIGCONT to a paused process; starts one that is not running.
    pub(super) async fn revive(&self) {
        self.send(Command::Revive).await;
    }

    async fn send(&self, command: Command) -> bool {
        let (done, hit) = oneshot::channel();
        let given = self.commands.send(Request { command, done }).await;
        // The supervisor ends with the run.
        given.is_ok() && hit.await.unwrap_or(false)
    }
}

/// Receiver of the commands of a [`Remote`].
#[derive(Debug)]
pub(super) struct Requests(mpsc::Receiver<Request>);

/// One supervised process, from its first start to the end of the run.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) remote: Remote,
    task: JoinHandle<()>,
    stop: CancellationToken,
    ready: watch::Receiver<Option<u64>>,
}

/// Configuration of a supervisor.
#[derive(Debug)]
pub(super) struct SupervisorConfig {
    pub(super) program: Program,
    pub(super) spec: Spec,
    pub(super) proxy: Proxy,
    /// Kill requests of the proxy.
    pub(super) kills: KillRequests,
    pub(super) recorder: Arc<Recorder>,
    /// Client for the metrics of the process.
    pub(super) http: reqwest::Client,
    /// Grace period of the process.
    pub(super) grace: Duration,
    /// File for a copy of the log.
    pub(super) log_file: Option<PathBuf>,
    /// Cancelled at the end of the faults: paused processes continue, others are started.
    pub(super) heal: CancellationToken,
    /// Cancelled when processes must be killed instead of stopped.
    pub(super) force: CancellationToken,
}

impl Member {
    pub(super) fn start(config: SupervisorConfig, remote: Remote, requests: Requests) -> Self {
        let stop = CancellationToken::new();
        let (first_ready, ready) = watch::channel(None);
        let supervisor = ProcessSupervisor {
            config,
            name: remote.name.clone(),
            requests: requests.0,
            stop: stop.clone(),
            first_ready,
        };
        Self {
            remote,
            stop,
            ready,
            task: tokio::spawn(supervisor.keep_running()),
        }
    }

    /// Waits until the process has been ready once.
    pub(super) async fn ready(&self) {
        let mut ready = self.ready.clone();
        // The supervisor ends early if the run is stopped.
        let _ = ready.wait_for(Option::is_some).await;
    }

    /// Sends SIGTERM and waits for the end of the process.
    pub(super) async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(process = self.remote.name, %error, "a process supervisor panicked");
        }
    }
}
