//! The processes under test: each kept running by a task of its own, which also
//! does to it what the schedule says, and notes its lives.

mod gaps;
mod process_supervisor;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use process_supervisor::ProcessSupervisor;
use test_support::child_process::Spec;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::history::{FaultKind, Program};
use super::kill_switch::KillRequests;
use super::proxy::Proxy;
use super::recorder::Recorder;

/// Reaches a process through its keeper.
#[derive(Clone, Debug)]
pub(super) struct Remote {
    pub(super) name: String,
    orders: mpsc::Sender<Order>,
}

/// What a keeper is told to do, and whether there was a process to do it to.
#[derive(Debug)]
struct Order {
    what: Command,
    done: oneshot::Sender<bool>,
}

#[derive(Debug)]
enum Command {
    Kill {
        /// How it is noted; `None` when it is part of something larger.
        kind: Option<FaultKind>,
        pause: Duration,
    },
    Term {
        pause: Duration,
    },
    Stop {
        lasting: Duration,
    },
    /// Whatever was done to it is over.
    Revive,
}

impl Remote {
    /// The process's name, and where its keeper gets its orders.
    pub(super) fn new(name: String) -> (Self, Orders) {
        // One order at a time is worked on; who gives one waits for it.
        let (orders, received) = mpsc::channel(8);
        (Self { name, orders }, Orders(received))
    }

    /// SIGKILL; the process is started again after `pause`. Returns once the
    /// signal is sent, with `false` when no process was running.
    pub(super) async fn kill(&self, kind: Option<FaultKind>, pause: Duration) -> bool {
        self.order(Command::Kill { kind, pause }).await
    }

    /// SIGTERM; the process is started again `pause` after its end.
    pub(super) async fn terminate(&self, pause: Duration) -> bool {
        self.order(Command::Term { pause }).await
    }

    /// SIGSTOP, and SIGCONT after `lasting`.
    pub(super) async fn stop(&self, lasting: Duration) -> bool {
        self.order(Command::Stop { lasting }).await
    }

    /// SIGCONT to one that is stopped; one that is dead is started at once.
    pub(super) async fn revive(&self) {
        self.order(Command::Revive).await;
    }

    async fn order(&self, what: Command) -> bool {
        let (done, hit) = oneshot::channel();
        let given = self.orders.send(Order { what, done }).await;
        // The keeper is gone when the run is over.
        given.is_ok() && hit.await.unwrap_or(false)
    }
}

/// The keeper's end of a [`Remote`].
#[derive(Debug)]
pub(super) struct Orders(mpsc::Receiver<Order>);

/// One process, from its first start to the end of the run.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) remote: Remote,
    task: JoinHandle<()>,
    stop: CancellationToken,
    ready: watch::Receiver<Option<u64>>,
}

/// What a keeper works with.
#[derive(Debug)]
pub(super) struct SupervisorConfig {
    pub(super) program: Program,
    pub(super) spec: Spec,
    pub(super) proxy: Proxy,
    /// From the proxy.
    pub(super) kills: KillRequests,
    pub(super) recorder: Arc<Recorder>,
    /// Asks the process for its metrics.
    pub(super) http: reqwest::Client,
    /// What the process has for finishing its work.
    pub(super) grace: Duration,
    /// Its log goes here too.
    pub(super) log_file: Option<PathBuf>,
    /// From then on nothing is done to it any more: what is stopped goes on,
    /// what is dead is started.
    pub(super) heal: CancellationToken,
    /// Kill rather than wait.
    pub(super) force: CancellationToken,
}

impl Member {
    pub(super) fn start(config: SupervisorConfig, remote: Remote, orders: Orders) -> Self {
        let stop = CancellationToken::new();
        let (first_ready, ready) = watch::channel(None);
        let supervisor = ProcessSupervisor {
            config,
            name: remote.name.clone(),
            orders: orders.0,
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

    /// Waits until it has been ready once.
    pub(super) async fn ready(&self) {
        let mut ready = self.ready.clone();
        // The keeper is gone when the run is stopped early.
        let _ = ready.wait_for(Option::is_some).await;
    }

    /// SIGTERM, and waits for its end.
    pub(super) async fn end(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(process = self.remote.name, %error, "a keeper failed");
        }
    }
}
