//! All processes of a run and their configuration.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use test_support::child_process::Spec;
use test_support::reserved_port::Reservation;
use test_support::signals::Stopping;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::error::ChaosError;
use super::history::Program;
use super::options::ChaosOptions;
use super::processes::{Member, ProcessConfig};
use super::proxy::{ActiveFaults, Proxy};
use super::recorder::Recorder;
use super::remote::Remote;

/// Number of requests that the API handles concurrently; its default. After a long outage more
/// requests arrive at once, and some are rejected.
pub(super) const API_CONCURRENCY: usize = 512;

/// Time limit for a metrics request. A healthy process responds at once.
const METRICS_WITHIN: Duration = Duration::from_secs(1);

/// Grace period after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// Visibility timeout: the messages of a killed worker are redelivered after this time.
const VISIBILITY: &str = "5s";

/// Read interval of the relays for a single shard, which bounds the latency that a run measures. In
/// proportion to the number of shards it costs the same: each read of a shard of the embedded cloud
/// reads the records of all.
const POLL_MIN: Duration = Duration::from_millis(5);

/// Interval and minimum age of the sweeper. Far below the defaults, so that a run of a minute
/// exercises it. Each sweep reads all pending events, and there are many after a fault phase.
const SWEEP_INTERVAL: &str = "5s";
const SWEEP_AFTER: &str = "3s";

/// All processes.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Reserved also while the API is not running.
    api: Reservation,
    /// In the order API, relays, workers.
    members: Vec<Member>,
    heal: CancellationToken,
}

impl Cluster {
    pub(super) async fn start(
        program: &Path,
        options: &ChaosOptions,
        backend: &Backend,
        recorder: &Arc<Recorder>,
        active_faults: &Arc<ActiveFaults>,
        stopping: &Stopping,
    ) -> Result<Self, ChaosError> {
        let api = Reservation::take(([127, 0, 0, 1], 0).into()).map_err(ChaosError::Port)?;
        let relays = (1..=options.relays).map(|n| (Program::OutboxRelay, format!("relay-{n}")));
        let workers =
            (1..=options.workers).map(|n| (Program::InventoryWorker, format!("worker-{n}")));
        let http = reqwest::Client::builder()
            .timeout(METRICS_WITHIN)
            .no_proxy()
            .build()?;
        let mut cluster = Self {
            api,
            members: Vec::new(),
            heal: CancellationToken::new(),
        };
        let all = std::iter::once((Program::OrderApi, "order-api".to_owned()));
        let joined = async {
            for (kind, name) in all.chain(relays).chain(workers) {
                let (remote, requests) = Remote::new(name, Arc::clone(recorder));
                let proxy = Proxy::start(active_faults, remote.clone())
                    .await
                    .map_err(ChaosError::Port)?;
                let mut environment = backend.environment(proxy.url());
                environment.extend(cluster.environment(options, kind));
                let worker = options.worker_program.as_ref();
                let config = ProcessConfig {
                    program: kind,
                    spec: Spec {
                        name: kind.name(),
                        program: worker
                            .filter(|_| kind == Program::InventoryWorker)
                            .map_or(program, PathBuf::as_path)
                            .to_owned(),
                        environment,
                        log_is_read: true,
                    },
                    proxy,
                    recorder: Arc::clone(recorder),
                    http: http.clone(),
                    grace: GRACE,
                    log_file: log_file(options.output.logs.as_deref(), &remote.name)?,
                    heal: cluster.heal.clone(),
                    force: stopping.force.clone(),
                };
                cluster
                    .members
                    .push(Member::start(config, remote, requests));
            }
            Ok(())
        };
        match joined.await {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.end().await;
                Err(error)
            }
        }
    }

    /// Returns the variables that are specific to `program`.
    fn environment(&self, options: &ChaosOptions, program: Program) -> Vec<(&'static str, String)> {
        let any_port = || "127.0.0.1:0".to_owned();
        let mut environment = match program {
            Program::OrderApi => vec![
                ("ORDER_API_LISTEN", self.api.address().to_string()),
                ("ORDER_API_ADMIN_LISTEN", any_port()),
                // There is no other instance to which clients could move.
                ("ORDER_API_DRAIN_DELAY", "0s".to_owned()),
                ("ORDER_API_MAX_CONCURRENCY", API_CONCURRENCY.to_string()),
            ],
            Program::OutboxRelay => vec![
                ("RELAY_ADMIN_LISTEN", any_port()),
                (
                    "RELAY_LEASE_DURATION",
                    humantime::format_duration(options.lease_duration).to_string(),
                ),
                ("RELAY_POLL_MIN", poll_min(options)),
                ("RELAY_SWEEP_INTERVAL", SWEEP_INTERVAL.to_owned()),
                ("RELAY_SWEEP_AFTER", SWEEP_AFTER.to_owned()),
            ],
            Program::InventoryWorker => vec![
                ("WORKER_ADMIN_LISTEN", any_port()),
                ("WORKER_VISIBILITY_TIMEOUT", VISIBILITY.to_owned()),
            ],
        };
        let grace = humantime::format_duration(GRACE).to_string();
        environment.extend([("SHUTDOWN_GRACE", grace), ("LOG_FORMAT", "json".to_owned())]);
        environment
    }

    pub(super) fn api_url(&self) -> String {
        self.api.url()
    }

    pub(super) async fn ready(&self) {
        join_all(self.members.iter().map(Member::ready)).await;
    }

    pub(super) fn remotes(&self) -> Vec<Remote> {
        let members = self.members.iter();
        members.map(|member| member.remote.clone()).collect()
    }

    /// Keeps every process running from now on.
    pub(super) fn heal(&self) {
        self.heal.cancel();
    }

    /// Stops all processes, including paused ones, and waits for their end.
    pub(super) async fn end(self) {
        join_all(self.members.into_iter().map(Member::end)).await;
    }
}

/// Returns the read interval of the relays.
fn poll_min(options: &ChaosOptions) -> String {
    let shards = match options.endpoints.dynamodb_endpoint {
        None => options.embedded.shards.get(),
        Some(_) => 1,
    };
    humantime::format_duration(POLL_MIN * shards).to_string()
}

/// Returns the log file of `process`, truncated.
fn log_file(folder: Option<&Path>, process: &str) -> Result<Option<PathBuf>, ChaosError> {
    let Some(folder) = folder else {
        return Ok(None);
    };
    let path = folder.join(format!("{process}.log"));
    let created = std::fs::create_dir_all(folder).and_then(|()| std::fs::File::create(&path));
    match created {
        Ok(_) => Ok(Some(path)),
        Err(source) => Err(ChaosError::Output { path, source }),
    }
}
