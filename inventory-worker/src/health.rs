//! Health checks of the worker: liveness by progress, readiness by its dependencies.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use shared::runtime::denials::Denials;
use shared::runtime::health::{Check, Health, Report};
use tokio::time::Instant;

use crate::batch_processor::BatchProcessor;
use crate::queue::Queue;

/// Period for which a readiness report is reused, so that any number of probes costs one check a
/// second.
const READINESS_TTL: Duration = Duration::from_secs(1);

/// Time limit for one readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The answers to `/healthz` and `/readyz`.
#[derive(Debug)]
pub(crate) struct WorkerHealth {
    pub sqs: aws_sdk_sqs::Client,
    /// Of requests that no other check makes.
    pub denials: Arc<Denials>,
    pub queue: Arc<Queue>,
    pub processor: Arc<BatchProcessor>,
    /// The last readiness report and its time. Locked during a check, so that concurrent probes
    /// share one.
    pub last: tokio::sync::Mutex<Option<(Instant, Report)>>,
}

impl WorkerHealth {
    async fn check_readiness(&self) -> Report {
        let processor = &self.processor;
        let queue = Check::queue(&self.sqs, self.queue.configured());
        let checks = async { tokio::join!(queue, processor.store.check()) };
        match tokio::time::timeout(CHECK_TIMEOUT, checks).await {
            Ok((queue, tables)) => {
                let local = [
                    processor.progress.check_polling(),
                    processor.breaker.check(),
                ];
                let denials = self.denials.checks();
                let checks = [queue].into_iter().chain(tables).chain(local);
                Report::new(checks.chain(denials))
            }
            Err(_) => Report::new([Check::fail(
                "queue and tables",
                format!("no response within {} s", CHECK_TIMEOUT.as_secs()),
            )]),
        }
    }
}

#[async_trait]
impl Health for WorkerHealth {
    async fn live(&self) -> Report {
        Report::new([self.processor.progress.check(Instant::now())])
    }

    async fn ready(&self) -> Report {
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < READINESS_TTL
        {
            return report.clone();
        }
        let report = self.check_readiness().await;
        *last = Some((Instant::now(), report.clone()));
        report
    }
}
