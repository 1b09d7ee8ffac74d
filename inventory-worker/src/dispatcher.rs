//! Runs the batches that the planner forms: each in a task of its own, as soon as its lanes are
//! free.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry::trace::TraceContextExt;
use shared::order::OrderPlaced;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::batch_planner::{Batch, BatchPlanner, Lanes};
use crate::batch_processor::{self, BatchProcessor};
use crate::job::{OrderJob, Submission};

/// The orders that wait and the batches that run.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    // Never locked across an await.
    planner: Mutex<BatchPlanner<Submission>>,
    processor: Arc<BatchProcessor>,
    tasks: TaskTracker,
    /// Cancelled when the time to finish is over.
    abandon: CancellationToken,
}

impl Dispatcher {
    pub(crate) fn new(
        processor: Arc<BatchProcessor>,
        tasks: TaskTracker,
        abandon: CancellationToken,
    ) -> Self {
        Self {
            planner: Mutex::new(BatchPlanner::new()),
            processor,
            tasks,
            abandon,
        }
    }

    /// Submits orders that arrived together. The messages of those that have to wait are parked.
    pub(crate) fn submit(self: &Arc<Self>, orders: Vec<(Arc<OrderPlaced>, Submission)>) {
        let batches = {
            let mut planner = self.planner();
            let added: Vec<u64> = orders
                .into_iter()
                .map(|(order, submission)| planner.add(order, submission))
                .collect();
            let batches = planner.start();
            for arrival in added {
                if let Some(job) = planner.waiting_mut(arrival) {
                    job.payload.park();
                }
            }
            batches
        };
        self.spawn_all(batches);
    }

    fn spawn_all(self: &Arc<Self>, batches: Vec<Batch<Submission>>) {
        for batch in batches {
            let span = batch_span(&batch.jobs);
            let dispatcher = Arc::clone(self);
            let run = async move {
                let lanes = LanesInUse {
                    dispatcher: Arc::clone(&dispatcher),
                    lanes: batch.lanes,
                };
                let run = dispatcher.run(batch.jobs, lanes);
                // The outcome of an attempt that is cut off here is unknown; it is determined at
                // the next delivery of each message.
                dispatcher.abandon.run_until_cancelled(run).await;
            };
            self.tasks.spawn(run.instrument(span));
        }
    }

    async fn run(self: &Arc<Self>, jobs: Vec<OrderJob>, lanes: LanesInUse) {
        let ended = self.processor.process(jobs).await;
        if ended.gave_up {
            batch_processor::release(&mut self.planner().take_waiting());
        }
        match ended.pause {
            Some(pause) => {
                for job in ended.undecided {
                    self.put_back_after(pause, job);
                }
            }
            None => {
                let mut planner = self.planner();
                for job in ended.undecided {
                    planner.put_back(job);
                }
            }
        }
        drop(lanes);
    }

    /// Plans an order again after a pause during which it holds back no other.
    fn put_back_after(self: &Arc<Self>, pause: Duration, job: OrderJob) {
        let dispatcher = Arc::clone(self);
        self.tasks.spawn(async move {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = dispatcher.processor.stop.cancelled() => {
                    batch_processor::release(&mut vec![job]);
                    return;
                }
            }
            let batches = {
                let mut planner = dispatcher.planner();
                planner.put_back(job);
                planner.start()
            };
            dispatcher.spawn_all(batches);
        });
    }

    fn planner(&self) -> MutexGuard<'_, BatchPlanner<Submission>> {
        // No code that holds the lock panics half-way.
        self.planner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The lanes of a running batch. They are freed when it ends, also by a panic, and the orders that
/// wait for them start.
struct LanesInUse {
    dispatcher: Arc<Dispatcher>,
    lanes: Lanes,
}

impl Drop for LanesInUse {
    fn drop(&mut self) {
        let batches = {
            let mut planner = self.dispatcher.planner();
            planner.release(std::mem::take(&mut self.lanes));
            planner.start()
        };
        self.dispatcher.spawn_all(batches);
    }
}

/// Returns the span of a batch's requests: that of its first message. The spans of the others link
/// to it.
fn batch_span(jobs: &[OrderJob]) -> Span {
    let Some((first, others)) = jobs.split_first() else {
        return Span::none();
    };
    let span = first.payload.span.clone();
    if !others.is_empty() {
        let context = span.context().span().span_context().clone();
        for job in others {
            job.payload.span.add_link(context.clone());
        }
    }
    span
}
