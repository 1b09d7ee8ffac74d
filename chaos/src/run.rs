//! One run: starts everything, injects faults, ends the faults, waits until the system is settled,
//! stops everything and checks the history.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use test_support::signals::Stopping;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::cluster::{API_CONCURRENCY, Cluster};
use super::error::ChaosError;
use super::fault_injector::FaultInjector;
use super::history::{FaultKind, History, Settings};
use super::options::{ChaosOptions, Output};
use super::order_workload::OrderWorkload;
use super::proxy::ActiveFaults;
use super::recorder::{Recorder, millis};
use super::report::Report;
use super::schedule::{Plan, Schedule};
use super::sequence_workload::{Consumer, SequenceWorkload};
use super::{checkers, progress};

/// Time limit for the start of all processes. They start within a second or so; on a busy machine
/// it takes longer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Upper bound on the events of one relay that are sent and not yet marked: 16 batches of 10 in
/// flight, and the events that wait for their mark.
const IN_FLIGHT: usize = 16 * 10 + outbox_relay::policy::mark_queue::MAX_UNMARKED;

/// Runs `program` as the services, injects faults and checks the result. No process and no table is
/// left, regardless of the outcome.
///
/// # Errors
/// [`ChaosError::Violated`] if a guarantee did not hold; any other error if that could not be
/// determined.
pub async fn run(
    program: PathBuf,
    options: ChaosOptions,
    stopping: Stopping,
) -> Result<(), ChaosError> {
    // A short seed is easy to type.
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let backend = Backend::open(&options.endpoints, options.embedded).await?;
    let judged = match observe(&program, &options, seed, &backend, &stopping).await {
        Ok(completed) => conclude(&options, completed),
        Err(error) => Err(error),
    };
    // The verdict is printed by now, even if tables and queues cannot be deleted.
    match (judged, backend.close(&stopping.force).await) {
        (Err(first), Err(second)) => {
            tracing::error!("{second}");
            Err(first)
        }
        (judged, closed) => judged.and(closed.map_err(Into::into)),
    }
}

/// A completed run, and the first failure to observe it.
struct Completed {
    history: History,
    failure: Option<ChaosError>,
}

/// Runs `work` until the first Ctrl-C.
async fn unless_stopped<T>(
    stopping: &Stopping,
    work: impl Future<Output = Result<T, ChaosError>>,
) -> Result<T, ChaosError> {
    let outcome = stopping.stop.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(ChaosError::Interrupted))
}

/// Returns the configuration of the run and the bounds that it is checked against.
fn settings(
    options: &ChaosOptions,
    seed: u64,
    backend: &Backend,
    isolated: Vec<FaultKind>,
) -> Settings {
    let endpoint = backend.endpoint();
    let embedded = endpoint.is_none().then_some(options.embedded);
    Settings {
        seed,
        duration_ms: millis(options.duration),
        rate: options.rate,
        relays: options.relays.into(),
        workers: options.workers.into(),
        faults: options.faults.clone(),
        isolated,
        endpoint,
        shards: embedded.map(|cloud| cloud.shards.get()),
        split_every_ms: embedded.and_then(|cloud| cloud.split_interval().map(millis)),
        lease_duration_ms: millis(options.lease_duration),
        api_concurrency: API_CONCURRENCY,
        drain_limit_ms: millis(options.drain_limit),
        in_flight_bound: IN_FLIGHT,
        memory_limit_bytes: options.memory_limit * 1024 * 1024,
        ..Settings::default()
    }
}

async fn observe(
    program: &Path,
    options: &ChaosOptions,
    seed: u64,
    backend: &Backend,
    stopping: &Stopping,
) -> Result<Completed, ChaosError> {
    let prepare = async {
        backend.prepare().await?;
        Ok(backend.stock().await?)
    };
    let before = unless_stopped(stopping, prepare).await?;
    eprintln!(
        "chaos: seed {seed}, {} relays, {} workers, {} orders/s for {}",
        options.relays,
        options.workers,
        options.rate,
        humantime::format_duration(options.duration)
    );
    let schedule = Schedule::new(seed, &plan(options));
    let settings = settings(options, seed, backend, schedule.isolated.clone());
    let recorder = Arc::new(Recorder::new(settings));
    let active_faults = Arc::new(ActiveFaults::new(
        Arc::clone(&recorder),
        backend.upstream(),
        backend.fidelity(),
        seed,
        &options.faults,
    ));
    let outcome = async {
        let cluster = Cluster::start(
            program,
            options,
            backend,
            &recorder,
            &active_faults,
            stopping,
        )
        .await?;
        let act = act(
            options,
            schedule,
            backend,
            &recorder,
            &active_faults,
            &cluster,
        );
        let outcome = unless_stopped(stopping, act).await;
        // Faults end in any case: with faults, processes take long to stop.
        active_faults.end_faults();
        cluster.end().await;
        outcome
    };
    let outcome = outcome.await;
    active_faults.close().await;
    let drained = outcome?;
    let end = async { Ok(backend.end(&recorder, &before, drained).await?) };
    let end = unless_stopped(stopping, end).await;
    let failure = recorder.take_failure();
    let end = match (end, failure) {
        (Ok(end), failure) => Ok((end, failure)),
        (Err(error @ ChaosError::Interrupted), _) | (Err(error), None) => Err(error),
        (Err(error), Some(first)) => {
            tracing::error!("{error}");
            Err(first)
        }
    };
    let (end, failure) = end?;
    let mut history = recorder.take();
    history.end = end;
    Ok(Completed { history, failure })
}

/// Runs workloads and faults, then waits until everything is settled. Returns the time that this
/// took, or `None` if the system did not settle in time. If a service fails, workloads and faults
/// end early, and the recorder has the reason.
async fn act(
    options: &ChaosOptions,
    schedule: Schedule,
    backend: &Backend,
    recorder: &Arc<Recorder>,
    active_faults: &Arc<ActiveFaults>,
    cluster: &Cluster,
) -> Result<Option<u64>, ChaosError> {
    tokio::time::timeout(READY_WITHIN, cluster.ready())
        .await
        .map_err(|_| ChaosError::NotReady(READY_WITHIN.as_secs()))?;
    let seed = recorder.read(|history| history.settings.seed);
    let faults_over = CancellationToken::new();
    let settled = CancellationToken::new();
    let queue_url = backend.queue_url(&backend.chaos_queue).await?;
    let began = Instant::from_std(recorder.begin());
    let end_of_faults = began + options.duration;
    let fault_injector = FaultInjector {
        began,
        recorder: Arc::clone(recorder),
        active_faults: Arc::clone(active_faults),
        processes: cluster.remotes(),
        queues: backend.queues().map(str::to_owned),
    };
    let orders = OrderWorkload::new(cluster.api_url(), Arc::clone(recorder), seed)?;
    let give_up = orders.give_up.clone();
    let sequences = SequenceWorkload {
        clients: backend.clients.clone(),
        outbox_table: backend.names.outbox_table.clone(),
        recorder: Arc::clone(recorder),
        seed,
    };
    let consumer = Consumer {
        sqs: backend.clients.sqs.clone(),
        queue_url,
        recorder: Arc::clone(recorder),
    };

    let timer = async {
        let over = faults_over.run_until_cancelled(tokio::time::sleep_until(end_of_faults));
        over.await;
        faults_over.cancel();
        Instant::now()
    };
    let faults = async {
        fault_injector.run(schedule, faults_over.clone()).await;
        cluster.heal();
    };
    let work = async {
        let writing = async {
            let written = sequences
                .run((options.rate / 2).max(1), faults_over.clone())
                .await;
            if let Err(error) = written {
                recorder.fail(error.into());
                // These clients will not get a response either.
                give_up.cancel();
            }
        };
        let ((), ended, (), ()) = tokio::join!(
            writing,
            timer,
            faults,
            orders.run(options.rate, faults_over.clone(), options.drain_limit),
        );
        let is_settled = backend.settled(ended + options.drain_limit).await;
        settled.cancel();
        match is_settled {
            Ok(is_settled) => is_settled.then(|| millis(ended.elapsed())),
            Err(error) => {
                recorder.fail(error.into());
                None
            }
        }
    };
    let progress = progress::show(Arc::clone(recorder), options.duration, settled.clone());
    let (drained, (), ()) = tokio::join!(work, consumer.run(settled.clone()), progress);
    Ok(drained)
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

/// Checks the history and reports the result: first on standard output, then in every file, even if
/// one of them fails.
///
/// # Errors
/// The first failure; violations count only without a failure.
fn conclude(options: &ChaosOptions, completed: Completed) -> Result<(), ChaosError> {
    let Completed { history, failure } = completed;
    let violations = checkers::check(&history);
    let report = Report::of(&history, &violations);
    // A closed standard output is not an error.
    let _ = io::stdout().write_all(report.to_text().as_bytes());
    let Output {
        report: json,
        html,
        history: everything,
        ..
    } = &options.output;
    let written = [
        write(json.as_deref(), || report.to_json().map_err(Into::into)),
        write(html.as_deref(), || report.to_html().map_err(Into::into)),
        write(everything.as_deref(), || {
            serde_json::to_string(&history).map_err(Into::into)
        }),
    ];
    let mut failed = failure
        .into_iter()
        .chain(written.into_iter().filter_map(Result::err));
    let first = failed.next();
    failed.for_each(|error| tracing::error!("{error}"));
    match (first, violations.len()) {
        (Some(error), _) => Err(error),
        (None, 0) => Ok(()),
        (None, count) => Err(ChaosError::Violated(count)),
    }
}

/// Writes a file if `path` is given.
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
