//! The admin port: health, metrics and the console.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_admin::service::Operator;
use outbox_admin::web::{
    ActivitySlot, Console, PublishedEvent, RelayView, RelayViewSource, ViewedUpTo,
};
use shared::runtime::health::{self, Check, Health, Report};
use shared::runtime::server::{self, Limits, Server};
use shared::runtime::service::{Context, RunError};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::engine::{EngineStatus, HistorySlot, PublishRecord, SLOT_SECONDS};

struct RelayHealth {
    status: EngineStatus,
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
            // A failure that the engine met is more specific.
            if !report.checks.iter().any(|check| check.name == queue.name) {
                report.checks.push(queue);
            }
        }
        report
    }
}

/// Binds the admin port and serves it until the returned task is aborted, so that health checks are
/// answered while the relay stops.
pub(crate) async fn serve(
    config: &Config,
    context: &Context,
    instance: String,
    status: EngineStatus,
) -> Result<JoinHandle<()>, RunError> {
    let settings = config.admin_settings();
    let operator = Operator::new(&context.clients, &settings);
    let view = {
        let status = status.clone();
        RelayViewSource::new(move |up_to| view(&status, up_to))
    };
    let tokens = config.console.tokens(config.admin_listen);
    let tokens = tokens.map_err(RunError::Usage)?;
    let hosts = config.console.admin_hosts.clone();
    let console = Console::new(&settings, tokens, hosts, instance, operator, view);
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
    let router = health::router(
        Arc::new(health),
        context.telemetry.metrics.clone(),
        context.stop.clone(),
    )
    .merge(console.router());
    let server = Server {
        listener: server::bind(config.admin_listen).await?,
        router,
        limits: Limits::ADMIN,
        draining: CancellationToken::new(),
        stop: CancellationToken::new(),
    };
    Ok(tokio::spawn(async move {
        tokio::join!(server.serve(), console.poll_tables());
    }))
}

/// Copies what the console shows of the engine.
fn view(status: &EngineStatus, up_to: ViewedUpTo) -> RelayView {
    let (published, last_published) = status.published_after(up_to.published);
    RelayView {
        live: status.live(Instant::now()),
        ready: status.ready(),
        published: published.iter().map(|sent| published_event(sent)).collect(),
        last_published,
        slot_seconds: SLOT_SECONDS,
        slots: status
            .slots_from(up_to.slots_from)
            .into_iter()
            .map(activity_slot)
            .collect(),
    }
}

fn published_event(sent: &PublishRecord) -> PublishedEvent {
    PublishedEvent {
        aggregate_id: sent.key.aggregate_id.clone(),
        sequence: sent.key.sequence.clone(),
        event_id: sent.event_id.clone(),
        event_type: sent.event_type.clone(),
        queue: sent.queue.clone(),
        path: sent.path,
        occurred_at: sent.occurred_at,
        published_at: sent.published_at,
    }
}

fn activity_slot(slot: HistorySlot) -> ActivitySlot {
    ActivitySlot {
        start: slot.start,
        published: slot.published,
        quarantined: slot.quarantined,
        lag_count: slot.lag_count,
        lag_total_ms: slot.lag_total_ms,
        lag_max_ms: slot.lag_max_ms,
        pending: slot.pending,
    }
}
