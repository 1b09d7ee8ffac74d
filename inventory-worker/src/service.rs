//! Puts the worker together, runs it, and takes it apart again.
//!
//! Stopping, in this order: polling ends; messages in flight finish, or are made
//! visible again when their time is over; what is done is deleted; the admin
//! server, which answered until now, stops.

use std::sync::Arc;
use std::time::Duration;

use shared::runtime::service::{Context, RunError};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::batch_deleter;
use crate::circuit_breaker::CircuitBreaker;
use crate::concurrency::ConcurrencyLimit;
use crate::config::Config;
use crate::handler::Handler;
use crate::health::{Progress, WorkerHealth};
use crate::inventory_store::InventoryStore;
use crate::metrics::Metrics;
use crate::order_processor::OrderProcessor;
use crate::poller::Poller;
use crate::queue::Queue;
use crate::queue_depth::{QueueDepthMonitor, QueueDepths};

/// One polling loop gets ten messages per round trip, enough to keep this many
/// slots busy.
const SLOTS_PER_POLL: u16 = 64;

/// However many slots: an idle worker holds this many connections open.
const MOST_POLLS: u16 = 8;

/// The part of the grace period that giving back and deleting may need, at most.
const CLEAN_UP: Duration = Duration::from_secs(3);

/// Runs the worker until `context.stop`, or until it cannot go on.
///
/// # Errors
/// When the options contradict each other, when its address is taken, or when a part of it ended by
/// itself: then the process had better start anew.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    config.check()?;
    let listener = shared::runtime::server::bind(config.admin_listen).await?;
    let sqs = context.clients.sqs.clone();
    let queue = Arc::new(Queue::new(sqs.clone(), config.queue));
    let slots = ConcurrencyLimit::new(config.concurrency);
    let settler = Arc::new(OrderProcessor {
        tables: InventoryStore {
            dynamodb: context.clients.dynamodb.clone(),
            orders: config.orders_table,
            inventory: config.inventory_table,
        },
        gate: CircuitBreaker::new(),
        progress: Progress::new(),
        stop: context.stop.clone(),
    });
    let health = WorkerHealth {
        sqs: sqs.clone(),
        queue: Arc::clone(&queue),
        settler: Arc::clone(&settler),
        seen: tokio::sync::Mutex::default(),
    };
    let server_stop = CancellationToken::new();
    let mut server = tokio::spawn(shared::runtime::server::serve(
        listener,
        shared::runtime::health::router(Arc::new(health), context.telemetry.metrics.clone()),
        server_stop.clone(),
    ));

    let meter = opentelemetry::global::meter("inventory-worker");
    let depths = QueueDepths::default();
    depths.observe(&meter, queue.name());
    let survey = QueueDepthMonitor::new(sqs.clone(), Arc::clone(&queue), depths);
    let _survey = AbortOnDropHandle::new(tokio::spawn(survey.run()));

    let (done, finished) = mpsc::channel(usize::from(config.concurrency));
    let mut deleter = tokio::spawn(batch_deleter::run(sqs.clone(), finished, slots.clone()));
    let abandon = CancellationToken::new();
    let tasks = TaskTracker::new();
    let receiver = Poller {
        sqs: sqs.clone(),
        queue: Arc::clone(&queue),
        slots,
        visibility_timeout: config.visibility_timeout,
        worker: Arc::new(Handler {
            sqs,
            settler,
            metrics: Metrics::new(&meter),
            queue_name: queue.name().to_owned(),
            visibility_timeout: config.visibility_timeout,
            done,
            abandon: abandon.clone(),
        }),
        tasks: tasks.clone(),
        stop: context.stop.clone(),
    };
    tracing::info!(
        queue = queue.name(),
        concurrency = config.concurrency,
        "worker started"
    );
    let mut polls = JoinSet::new();
    for _ in 0..config.concurrency.div_ceil(SLOTS_PER_POLL).min(MOST_POLLS) {
        polls.spawn(receiver.clone().run());
    }
    // The loops and the tasks hold the only senders: when they are gone, the
    // deleter ends.
    drop(receiver);

    let broken = tokio::select! {
        // First, because the parts end too when the process is to stop.
        biased;
        () = context.stop.cancelled() => None,
        Some(Err(error)) = polls.join_next() => Some(ended("receiving", Err(error))),
        outcome = &mut deleter => Some(ended("deleting", outcome)),
        outcome = &mut server => Some(ended("the admin server", outcome.map(drop))),
    };
    // In-flight messages are given back either way.
    context.stop.cancel();
    let deadline = Instant::now() + context.grace;
    let finish_by = deadline - CLEAN_UP.min(context.grace / 4);
    tracing::info!(
        messages = tasks.len(),
        "stopping, messages in flight finish"
    );

    while polls.join_next().await.is_some() {}
    tasks.close();
    if timeout_at(finish_by, tasks.wait()).await.is_err() {
        tracing::warn!(
            messages = tasks.len(),
            "messages did not finish in time and are given back"
        );
        abandon.cancel();
    }
    let cleaned_up = timeout_at(deadline, async {
        tasks.wait().await;
        if broken.is_none() {
            // Its end is all that matters; a panic was printed.
            let _ = (&mut deleter).await;
            server_stop.cancel();
            let _ = (&mut server).await;
        }
    });
    if cleaned_up.await.is_err() {
        tracing::warn!("stopped before everything was given back or deleted");
    }
    match broken {
        None => {
            tracing::info!("worker stopped");
            Ok(())
        }
        Some(error) => Err(error),
    }
}

fn ended(what: &str, outcome: Result<(), JoinError>) -> RunError {
    RunError::Failed(match outcome {
        Ok(()) => format!("{what} ended by itself"),
        Err(error) => format!("{what} ended: {error}"),
    })
}
