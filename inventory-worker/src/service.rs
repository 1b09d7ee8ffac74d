//! Starts the parts of the worker, runs them, and stops them.
//!
//! Stopping, in this order: polling ends; messages in flight finish, or are released when their
//! time is over; finished messages are deleted; the admin server, which responded until now, stops.

use std::sync::Arc;
use std::time::Duration;

use shared::runtime::denials::Denials;
use shared::runtime::server::{self, Limits, Server};
use shared::runtime::service::{Context, RunError};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

use crate::batch_deleter;
use crate::batch_processor::BatchProcessor;
use crate::circuit_breaker::CircuitBreaker;
use crate::concurrency::ConcurrencyLimit;
use crate::config::Config;
use crate::dispatcher::Dispatcher;
use crate::handler::Handler;
use crate::health::WorkerHealth;
use crate::inventory_store::InventoryStore;
use crate::metrics::Metrics;
use crate::poller::Poller;
use crate::progress::Progress;
use crate::queue::Queue;
use crate::queue_depth::{QueueDepthMonitor, QueueDepths};
use crate::visibility::VisibilityExtender;

/// Permits per polling loop. One loop receives ten messages per round trip, enough to keep this
/// many permits in use.
const PERMITS_PER_POLLER: u16 = 64;

/// Upper bound on polling loops, and so on the connections that an idle worker holds open.
const MAX_POLLERS: u16 = 8;

/// The part of the grace period reserved for releasing and deleting messages, at most.
const CLEAN_UP: Duration = Duration::from_secs(3);

/// Runs the worker until `context.stop`, or until a part of it fails.
///
/// # Errors
/// [`RunError::Usage`] if the options contradict each other. [`RunError::Failed`] if the address
/// cannot be bound, or if a part of the worker ended by itself and the process should be restarted.
pub async fn run(config: Config, context: Context) -> Result<(), RunError> {
    config.check()?;
    let listener = server::bind(config.admin_listen).await?;
    let sqs = context.clients.sqs.clone();
    let queue = Arc::new(Queue::new(sqs.clone(), config.queue));
    let limit = ConcurrencyLimit::new(config.concurrency);
    let meter = opentelemetry::global::meter("inventory-worker");
    let processor = Arc::new(BatchProcessor {
        store: InventoryStore {
            dynamodb: context.clients.dynamodb.clone(),
            orders: config.orders_table,
            inventory: config.inventory_table,
        },
        breaker: CircuitBreaker::new(),
        progress: Progress::new(),
        metrics: Metrics::new(&meter, queue.name()),
        limit: limit.clone(),
        stop: context.stop.clone(),
    });
    processor.breaker.register_gauge(&meter);
    limit.register_gauge(&meter);
    let denials = Arc::new(Denials::default());
    let health = WorkerHealth {
        sqs: sqs.clone(),
        denials: Arc::clone(&denials),
        queue: Arc::clone(&queue),
        processor: Arc::clone(&processor),
        last: tokio::sync::Mutex::default(),
    };
    let server_stop = CancellationToken::new();
    let server = Server {
        listener,
        router: shared::runtime::health::router(
            Arc::new(health),
            context.telemetry.metrics.clone(),
            context.stop.clone(),
        ),
        limits: Limits::ADMIN,
        draining: CancellationToken::new(),
        stop: server_stop.clone(),
    };
    let mut server = tokio::spawn(server.serve());

    let depths = QueueDepths::default();
    depths.register_gauges(&meter, queue.name());
    let monitor = QueueDepthMonitor::new(
        sqs.clone(),
        Arc::clone(&queue),
        depths,
        Arc::clone(&denials),
    );
    let _monitor = AbortOnDropHandle::new(tokio::spawn(monitor.run()));

    let (deletes, to_delete) = mpsc::channel(usize::from(config.concurrency));
    let mut deleter = tokio::spawn(batch_deleter::run(
        sqs.clone(),
        to_delete,
        limit.clone(),
        Arc::clone(&denials),
    ));
    let visibility = Arc::new(VisibilityExtender::new(
        sqs.clone(),
        config.visibility_timeout,
        denials,
    ));
    let visibility_stop = CancellationToken::new();
    let mut extender = tokio::spawn({
        let (visibility, stop) = (Arc::clone(&visibility), visibility_stop.clone());
        async move { visibility.run(stop).await }
    });
    let _prober = AbortOnDropHandle::new(tokio::spawn({
        let processor = Arc::clone(&processor);
        async move {
            let BatchProcessor {
                breaker,
                store,
                progress,
                ..
            } = &*processor;
            breaker.run(store, progress).await;
        }
    }));
    let abandon = CancellationToken::new();
    let tasks = TaskTracker::new();
    let dispatcher = Dispatcher::new(Arc::clone(&processor), tasks.clone(), abandon.clone());
    let poller = Poller {
        sqs,
        queue: Arc::clone(&queue),
        limit: limit.clone(),
        visibility_timeout: config.visibility_timeout,
        handler: Arc::new(Handler {
            processor,
            dispatcher: Arc::new(dispatcher),
            visibility,
            queue_name: queue.name().to_owned(),
            deletes,
            tasks: tasks.clone(),
            abandon: abandon.clone(),
        }),
        stop: context.stop.clone(),
    };
    tracing::info!(
        queue = queue.name(),
        concurrency = config.concurrency,
        "worker started"
    );
    let mut pollers = JoinSet::new();
    let poller_count = config.concurrency.div_ceil(PERMITS_PER_POLLER);
    for _ in 0..poller_count.min(MAX_POLLERS) {
        pollers.spawn(poller.clone().run());
    }
    // The pollers and the messages' tasks hold the only senders: the deleter ends after them.
    drop(poller);

    let failure = tokio::select! {
        // First, because the other parts end as well when the process is to stop.
        biased;
        () = context.stop.cancelled() => None,
        Some(Err(error)) = pollers.join_next() => Some(part_ended("polling", Err(error))),
        outcome = &mut deleter => Some(part_ended("deleting", outcome)),
        outcome = &mut extender => Some(part_ended("extending visibility timeouts", outcome)),
        outcome = &mut server => Some(part_ended("the admin server", outcome)),
    };
    // Messages in flight are finished or released either way.
    context.stop.cancel();
    let deadline = Instant::now() + context.grace;
    let finish_by = deadline - CLEAN_UP.min(context.grace / 4);
    tracing::info!(
        messages = limit.in_flight(),
        "stopping; finishing the messages in flight"
    );

    while pollers.join_next().await.is_some() {}
    tasks.close();
    if timeout_at(finish_by, tasks.wait()).await.is_err() {
        tracing::warn!(
            messages = limit.in_flight(),
            "messages did not finish in time; releasing them"
        );
        abandon.cancel();
    }
    let cleaned_up = timeout_at(deadline, async {
        tasks.wait().await;
        if failure.is_none() {
            // Only the end of the task matters; the panic hook has printed a panic.
            let _ = (&mut deleter).await;
            visibility_stop.cancel();
            let _ = (&mut extender).await;
            server_stop.cancel();
            let _ = (&mut server).await;
        }
    });
    if cleaned_up.await.is_err() {
        tracing::warn!(
            "the grace period ended before all messages were released or deleted; \
             they will be redelivered after their visibility timeout"
        );
    }
    match failure {
        None => {
            tracing::info!("worker stopped");
            Ok(())
        }
        Some(error) => Err(error),
    }
}

fn part_ended(part: &str, outcome: Result<(), JoinError>) -> RunError {
    RunError::Failed(match outcome {
        Ok(()) => format!("{part} ended unexpectedly"),
        Err(error) => format!("{part} failed: {error}"),
    })
}
