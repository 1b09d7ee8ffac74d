//! The processes under test. A task for each of them keeps it running, executes the commands of its
//! [`Remote`] and records its incarnations.

mod counters;
mod process_recorder;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use process_recorder::ProcessRecorder;
use test_support::child_process::Spec;
use test_support::supervisor::{Requests, RestartPolicy, Supervisor};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::history::Program;
use super::proxy::Proxy;
use super::recorder::Recorder;
use super::remote::Remote;

/// Delay before a process that ended by itself is started again.
const RESTART: RestartPolicy = RestartPolicy::Fixed(Duration::from_millis(500));

/// One supervised process, from its first start to the end of the run.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) remote: Remote,
    task: JoinHandle<()>,
    stop: CancellationToken,
    ready: watch::Receiver<Option<u64>>,
}

/// Configuration of a process and its supervisor.
#[derive(Debug)]
pub(super) struct ProcessConfig {
    pub(super) program: Program,
    pub(super) spec: Spec,
    pub(super) proxy: Proxy,
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
    pub(super) fn start(config: ProcessConfig, remote: Remote, requests: Requests) -> Self {
        let stop = CancellationToken::new();
        let (first_ready, ready) = watch::channel(None);
        let supervisor = Supervisor {
            restart: RESTART,
            grace: config.grace,
            requests,
            stop: stop.clone(),
            force: config.force,
            heal: config.heal,
        };
        let recorder = ProcessRecorder {
            program: config.program,
            name: remote.name.clone(),
            recorder: config.recorder,
            http: config.http,
            log_file: config.log_file,
            first_ready,
        };
        let (spec, proxy) = (config.spec, config.proxy);
        let name = remote.name.clone();
        let of_incarnation = move |incarnation| {
            proxy.set_incarnation(incarnation);
            let mut spec = spec.clone();
            if config.program == Program::OutboxRelay {
                // Each incarnation has another name, as on a new machine: its leases have to expire
                // before another relay, or the next incarnation, can acquire them.
                let instance = format!("{name}-{incarnation}");
                spec.environment.push(("RELAY_INSTANCE_ID", instance));
            }
            spec
        };
        let (events, received) = mpsc::unbounded_channel();
        let task = async move {
            tokio::join!(
                supervisor.run(of_incarnation, events),
                recorder.record(received),
            );
        };
        Self {
            remote,
            stop,
            ready,
            task: tokio::spawn(task),
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
