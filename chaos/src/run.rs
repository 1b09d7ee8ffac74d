//! One run: start everything, let it go wrong for a while, heal it, wait until
//! it is settled, stop everything, and judge what was seen.

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

/// Processes start within a second or so; on a busy machine they take longer.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// A relay has at most this many events sent and not marked: 16 batches of 10
/// under way, and those that wait for their mark.
const IN_FLIGHT: usize = 16 * 10 + outbox_relay::policy::send_scheduler::MAX_UNMARKED;

/// Runs it all. Leaves no process and no table, however it ends.
///
/// # Errors
/// [`ChaosError::Violated`] when something did not hold, the others when that
/// could not be found out.
pub async fn run(
    program: PathBuf,
    options: ChaosOptions,
    stopping: Stopping,
) -> Result<(), ChaosError> {
    // Short enough to be typed.
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let backend = Backend::open(&options.endpoints).await?;
    let judged = match observe(&program, &options, seed, &backend, &stopping).await {
        Ok(seen) => conclude(&options, seen),
        Err(error) => Err(error),
    };
    // The verdict is out by now, whatever becomes of tables and queues.
    match (judged, backend.close(&stopping.force).await) {
        (Err(first), Err(second)) => {
            tracing::error!("{second}");
            Err(first)
        }
        (judged, closed) => judged.and(closed.map_err(Into::into)),
    }
}

/// A run that came to its end, and what went wrong with looking at it.
struct Seen {
    history: History,
    failure: Option<ChaosError>,
}

/// Works until the first Ctrl-C.
async fn unless_stopped<T>(
    stopping: &Stopping,
    work: impl Future<Output = Result<T, ChaosError>>,
) -> Result<T, ChaosError> {
    let outcome = stopping.stop.run_until_cancelled(work).await;
    outcome.unwrap_or(Err(ChaosError::Interrupted))
}

/// What was asked for, and the bounds it is judged by.
fn settings(
    options: &ChaosOptions,
    seed: u64,
    backend: &Backend,
    isolated: Vec<FaultKind>,
) -> Settings {
    Settings {
        seed,
        duration_ms: millis(options.duration),
        rate: options.rate,
        relays: options.relays.into(),
        workers: options.workers.into(),
        faults: options.faults.clone(),
        isolated,
        endpoint: backend.endpoint(),
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
) -> Result<Seen, ChaosError> {
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
        seed,
        &options.faults,
    ));
    let acted = async {
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
        let acted = unless_stopped(stopping, act).await;
        // However that ended: processes in bad weather take long to end.
        active_faults.end_faults();
        cluster.end().await;
        acted
    };
    let acted = acted.await;
    active_faults.close().await;
    let drained = acted?;
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
    Ok(Seen { history, failure })
}

/// Load and faults, and the time after them until all is settled; returns how
/// long that took, or `None` when it is not. When the service fails, load and
/// faults end early, and the recorder knows why.
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
    let calm = CancellationToken::new();
    let settled = CancellationToken::new();
    let queue_url = backend.queue_url(&backend.chaos_queue).await?;
    let began = Instant::from_std(recorder.begin());
    let end_of_faults = began + options.duration;
    let fault_injector = FaultInjector {
        began,
        recorder: Arc::clone(recorder),
        active_faults: Arc::clone(active_faults),
        processes: cluster.remotes(),
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
        let over = calm.run_until_cancelled(tokio::time::sleep_until(end_of_faults));
        over.await;
        calm.cancel();
        Instant::now()
    };
    let faults = async {
        fault_injector.run(schedule, calm.clone()).await;
        cluster.heal();
    };
    let work = async {
        let writing = async {
            let written = sequences.run((options.rate / 2).max(1), calm.clone()).await;
            if let Err(error) = written {
                recorder.fail(error.into());
                // Nobody answers these clients any more either.
                give_up.cancel();
            }
        };
        let ((), ended, (), ()) = tokio::join!(
            writing,
            timer,
            faults,
            orders.run(options.rate, calm.clone(), options.drain_limit),
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

/// Judges the run, and says so: first to whoever looks, then to every file,
/// whatever becomes of the others.
///
/// # Errors
/// The first thing that went wrong; violations only when nothing did.
fn conclude(options: &ChaosOptions, seen: Seen) -> Result<(), ChaosError> {
    let Seen { history, failure } = seen;
    let violations = checkers::check(&history);
    let report = Report::of(&history, &violations);
    // Standard output may be closed; that is no reason to fail.
    let _ = io::stdout().write_all(report.to_text().as_bytes());
    let Output {
        report: json,
        html,
        history: everything,
        ..
    } = &options.output;
    let written = [
        write(json.as_deref(), || report.to_json().map_err(Into::into)),
        write(html.as_deref(), || Ok(report.to_html())),
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
