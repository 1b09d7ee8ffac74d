//! The admin port: health, metrics and the console.

use std::sync::Arc;

use async_trait::async_trait;
use shared::runtime::health::{Check, Health, Report};
use shared::runtime::service::{Context, RunError};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::console::Console;
use crate::engine::Status;
use crate::operate::Operator;

struct RelayHealth {
    status: Status,
    dynamodb: aws_sdk_dynamodb::Client,
    sqs: aws_sdk_sqs::Client,
    leases_table: String,
    queues: Vec<String>,
}

#[async_trait]
impl Health for RelayHealth {
    async fn live(&self) -> Report {
        self.status.live(Instant::now())
    }

    async fn ready(&self) -> Report {
        let mut report = self.status.ready();
        let queues = self
            .queues
            .iter()
            .map(|queue| Check::queue(&self.sqs, queue));
        let (table, queues) = tokio::join!(
            Check::table(&self.dynamodb, &self.leases_table),
            futures::future::join_all(queues),
        );
        report.checks.push(table);
        for queue in queues {
            // What the engine ran into says more.
            if !report.checks.iter().any(|check| check.name == queue.name) {
                report.checks.push(queue);
            }
        }
        report
    }
}

/// Binds the admin port and serves it until the returned task is aborted, so
/// that health can be asked while the relay stops.
pub(crate) async fn serve(
    config: &Config,
    context: &Context,
    instance: String,
    status: Status,
) -> Result<JoinHandle<()>, RunError> {
    let operator = Operator::new(&context.clients, config);
    let console = Console::new(config, instance, operator, status.clone());
    let health = RelayHealth {
        status,
        dynamodb: context.clients.dynamodb.clone(),
        sqs: context.clients.sqs.clone(),
        leases_table: config.leases_table.clone(),
        queues: config
            .routes
            .queues()
            .map(|queue| queue.as_str().to_owned())
            .collect(),
    };
    let router =
        shared::runtime::health::router(Arc::new(health), context.telemetry.metrics.clone())
            .merge(console.router());
    let listener = shared::runtime::server::bind(config.admin_listen).await?;
    Ok(tokio::spawn(async move {
        let serving = shared::runtime::server::serve(listener, router, CancellationToken::new());
        tokio::select! {
            served = serving => if let Err(error) = served {
                tracing::error!(%error, "the admin port failed");
            },
            () = console.watch() => {}
        }
    }))
}
