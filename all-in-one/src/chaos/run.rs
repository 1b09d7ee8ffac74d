//! One run: start everything, let it go wrong for a while, heal it, wait until
//! it is settled, stop everything, and judge what was seen.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::{History, Program, Settings};
use super::injector::Injector;
use super::load::Load;
use super::observe::Unreadable;
use super::options::{ChaosOptions, Output};
use super::processes::{Keeper, Member, Remote};
use super::proxy::{Proxy, Weather};
use super::recorder::{Recorder, millis};
use super::report::Report;
use super::schedule::{Plan, Schedule};
use super::steps::{Consumer, NotWritten, Steps};
use super::target::{Target, TargetError};
use super::{check, progress};
use crate::child::Spec;
use crate::ports::Reservation;
use crate::signals::Stopping;

/// How many requests the API works on at once, which is its default. After a
/// long outage more than that come back at once, and some are refused.
const API_CONCURRENCY: usize = 512;

/// What a process has for finishing its work after SIGTERM.
const GRACE: Duration = Duration::from_secs(5);

/// Messages of a killed worker come back after this.
const VISIBILITY: &str = "5s";

/// The sweeper looks for what the stream no longer has. Far below its defaults,
/// so that it has work in a run of a minute; still so late that it only ever
/// finds what the stream has lost.
const SWEEP_INTERVAL: &str = "1s";
const SWEEP_AFTER: &str = "2s";

/// Processes start within a second or so; on a busy machine they take longer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A relay has at most this many events sent and not marked: 16 batches of 10
/// under way, and those that wait for their mark.
const IN_FLIGHT: usize = 16 * 10 + outbox_relay::decide::schedule::MAX_UNMARKED;

/// Why a run came to no good end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ChaosError {
    #[error("{0}")]
    Target(#[from] TargetError),
    #[error("this program's own file cannot be found: {0}")]
    Program(io::Error),
    #[error("no port is free: {0}")]
    Port(io::Error),
    #[error("clients could not be made: {0}")]
    Clients(#[from] reqwest::Error),
    #[error("the processes were not ready within {} s", READY_WITHIN.as_secs())]
    NotReady,
    #[error("{0}")]
    Steps(#[from] NotWritten),
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("{} could not be written: {source}", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("interrupted; nothing was checked")]
    Interrupted,
    #[error("{0} violations of what must always hold")]
    Violated(usize),
}

/// Runs it all. Leaves no process and no table, however it ends.
///
/// # Errors
/// [`ChaosError::Violated`] when something did not hold, the others when that
/// could not be found out.
pub(crate) async fn run(options: ChaosOptions, stopping: Stopping) -> Result<(), ChaosError> {
    // Short enough to be typed.
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let target = Target::open(&options.endpoints).await?;
    let outcome = observe(&options, seed, &target, &stopping).await;
    let closed = target.close().await;
    let history = outcome?;
    closed?;
    conclude(&options, &history)
}

/// What was asked for, and the bounds it is judged by.
fn settings(options: &ChaosOptions, seed: u64, target: &Target) -> Settings {
    Settings {
        seed,
        duration_ms: millis(options.duration),
        rate: options.rate,
        relays: options.relays.into(),
        workers: options.workers.into(),
        faults: options.faults.clone(),
        endpoint: target.endpoint(),
        lease_duration_ms: millis(options.lease_duration),
        api_concurrency: API_CONCURRENCY,
        drain_limit_ms: millis(options.drain_limit),
        in_flight_bound: IN_FLIGHT,
        memory_limit_bytes: options.memory_limit * 1024 * 1024,
        ..Settings::default()
    }
}

async fn observe(
    options: &ChaosOptions,
    seed: u64,
    target: &Target,
    stopping: &Stopping,
) -> Result<History, ChaosError> {
    target.prepare().await?;
    let before = target.stock().await?;
    eprintln!(
        "chaos: seed {seed}, {} relays, {} workers, {} orders/s for {}",
        options.relays,
        options.workers,
        options.rate,
        humantime::format_duration(options.duration)
    );
    let recorder = Arc::new(Recorder::new(settings(options, seed, target)));
    let weather = Arc::new(Weather::new(
        Arc::clone(&recorder),
        target.upstream(),
        seed,
        &options.faults,
    ));
    let crew = Crew::start(options, target, &recorder, &weather, stopping).await?;
    let drained = tokio::select! {
        drained = act(options, seed, target, &recorder, &weather, &crew) => drained,
        () = stopping.stop.cancelled() => Err(ChaosError::Interrupted),
    };
    crew.end().await;
    weather.close().await;
    let end = target.end(&recorder, &before, drained?).await?;
    let mut history = recorder.take();
    history.end = end;
    Ok(history)
}

/// Load and faults, and the time after them until all is settled; returns how
/// long that took.
async fn act(
    options: &ChaosOptions,
    seed: u64,
    target: &Target,
    recorder: &Arc<Recorder>,
    weather: &Arc<Weather>,
    crew: &Crew,
) -> Result<Option<u64>, ChaosError> {
    tokio::time::timeout(READY_WITHIN, crew.ready())
        .await
        .map_err(|_| ChaosError::NotReady)?;
    let calm = CancellationToken::new();
    let settled = CancellationToken::new();
    let queue_url = target.queue_url(&target.chaos_queue).await?;
    let began = Instant::from_std(recorder.begin());
    let end_of_faults = began + options.duration;
    let injector = Injector {
        began,
        recorder: Arc::clone(recorder),
        weather: Arc::clone(weather),
        processes: crew.remotes(),
    };
    let load = Load::new(crew.api.url(), Arc::clone(recorder), seed)?;
    let steps = Steps {
        clients: target.clients.clone(),
        outbox_table: target.names.outbox_table.clone(),
        recorder: Arc::clone(recorder),
        seed,
    };
    let consumer = Consumer {
        sqs: target.clients.sqs.clone(),
        queue_url,
        recorder: Arc::clone(recorder),
    };
    let schedule = Schedule::new(seed, &plan(options));

    let timer = async {
        tokio::time::sleep_until(end_of_faults).await;
        calm.cancel();
    };
    let faults = async {
        injector.run(schedule, calm.clone()).await;
        crew.heal();
    };
    let work = async {
        let (written, (), (), ()) = tokio::join!(
            steps.run((options.rate / 2).max(1), calm.clone()),
            timer,
            faults,
            load.run(options.rate, calm.clone(), options.drain_limit),
        );
        written?;
        let deadline = end_of_faults + options.drain_limit;
        let settled = target.settled(deadline).await?;
        Ok(settled.then(|| millis(end_of_faults.elapsed())))
    };
    let work = async {
        let outcome = work.await;
        settled.cancel();
        outcome
    };
    let progress = progress::show(Arc::clone(recorder), options.duration, settled.clone());
    let (drained, (), ()) = tokio::join!(work, consumer.run(settled.clone()), progress);
    drained
}

fn plan(options: &ChaosOptions) -> Plan<'_> {
    Plan {
        duration: options.duration,
        relays: options.relays.into(),
        workers: options.workers.into(),
        lease_duration: options.lease_duration,
        faults: &options.faults,
    }
}

/// All processes.
struct Crew {
    /// Kept while the API is dead.
    api: Reservation,
    /// In the order in which they are ended: what is accepted last is published
    /// and worked off.
    members: Vec<Member>,
    heal: CancellationToken,
}

impl Crew {
    async fn start(
        options: &ChaosOptions,
        target: &Target,
        recorder: &Arc<Recorder>,
        weather: &Arc<Weather>,
        stopping: &Stopping,
    ) -> Result<Self, ChaosError> {
        let program = std::env::current_exe().map_err(ChaosError::Program)?;
        let api = Reservation::take(([127, 0, 0, 1], 0).into()).map_err(ChaosError::Port)?;
        let relays = (1..=options.relays).map(|n| (Program::OutboxRelay, format!("relay-{n}")));
        let workers =
            (1..=options.workers).map(|n| (Program::InventoryWorker, format!("worker-{n}")));
        let mut crew = Self {
            api,
            members: Vec::new(),
            heal: CancellationToken::new(),
        };
        let all = std::iter::once((Program::OrderApi, "order-api".to_owned()));
        for (kind, name) in all.chain(relays).chain(workers) {
            let (remote, orders) = Remote::new(name);
            let proxy = Proxy::start(weather, remote.clone())
                .await
                .map_err(ChaosError::Port)?;
            let mut environment = target.environment(proxy.url());
            environment.extend(crew.environment(options, kind));
            let worker = options.worker_program.as_ref();
            let keeper = Keeper {
                program: kind,
                spec: Spec {
                    name: sub_command(kind),
                    program: worker
                        .filter(|_| kind == Program::InventoryWorker)
                        .unwrap_or(&program)
                        .clone(),
                    environment,
                    log_is_read: true,
                },
                proxy,
                recorder: Arc::clone(recorder),
                grace: GRACE,
                log_file: log_file(options.output.logs.as_deref(), &remote.name)?,
                heal: crew.heal.clone(),
                force: stopping.force.clone(),
            };
            crew.members.push(Member::start(keeper, remote, orders));
        }
        Ok(crew)
    }

    /// What only processes of this kind are told.
    fn environment(&self, options: &ChaosOptions, program: Program) -> Vec<(&'static str, String)> {
        let any_port = || "127.0.0.1:0".to_owned();
        let mut environment = match program {
            Program::OrderApi => vec![
                ("ORDER_API_LISTEN", self.api.address().to_string()),
                ("ORDER_API_MAX_CONCURRENCY", API_CONCURRENCY.to_string()),
            ],
            Program::OutboxRelay => vec![
                ("RELAY_ADMIN_LISTEN", any_port()),
                (
                    "RELAY_LEASE_DURATION",
                    humantime::format_duration(options.lease_duration).to_string(),
                ),
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

    async fn ready(&self) {
        join_all(self.members.iter().map(Member::ready)).await;
    }

    fn remotes(&self) -> Vec<Remote> {
        let members = self.members.iter();
        members.map(|member| member.remote.clone()).collect()
    }

    /// From now on every process runs.
    fn heal(&self) {
        self.heal.cancel();
    }

    /// Ends one process after the other; none is left when this returns.
    async fn end(self) {
        for member in self.members {
            member.end().await;
        }
    }
}

const fn sub_command(program: Program) -> &'static str {
    match program {
        Program::OrderApi => "order-api",
        Program::OutboxRelay => "outbox-relay",
        Program::InventoryWorker => "inventory-worker",
    }
}

/// Where the log of `process` goes, emptied.
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

/// Judges the run, and says so.
fn conclude(options: &ChaosOptions, history: &History) -> Result<(), ChaosError> {
    let violations = check::check(history);
    let report = Report::of(history, &violations);
    let Output {
        report: json,
        html,
        history: everything,
        ..
    } = &options.output;
    write(json.as_deref(), || report.to_json().map_err(Into::into))?;
    write(html.as_deref(), || Ok(report.to_html()))?;
    write(everything.as_deref(), || {
        serde_json::to_string(history).map_err(Into::into)
    })?;
    // Standard output may be closed; that is no reason to fail.
    let _ = io::stdout().write_all(report.to_text().as_bytes());
    match violations.len() {
        0 => Ok(()),
        count => Err(ChaosError::Violated(count)),
    }
}

/// Writes a file, when one is asked for.
fn write(
    path: Option<&Path>,
    content: impl FnOnce() -> io::Result<String>,
) -> Result<(), ChaosError> {
    let Some(path) = path else { return Ok(()) };
    let written = content().and_then(|content| std::fs::write(path, content));
    written.map_err(|source| ChaosError::Output {
        path: path.to_owned(),
        source,
    })
}
