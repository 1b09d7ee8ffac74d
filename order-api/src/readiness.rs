//! `/readyz`: whether the three tables can be reached.

use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use futures::future::join_all;
use shared::runtime::health::{Check, Health, Report};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::config::Config;

/// A report is given again for this long, so that probes, however many, cost
/// three requests a second at most.
const FRESH: Duration = Duration::from_secs(1);

/// A probe wants its answer within a second or two.
const PATIENCE: Duration = Duration::from_secs(2);

pub(crate) struct Readiness {
    dynamodb: Client,
    tables: [String; 3],
    /// Held while the tables are asked: probes that arrive meanwhile wait for
    /// the same answer instead of asking too.
    last: Mutex<Option<(Instant, Report)>>,
}

impl Readiness {
    pub(crate) fn new(config: &Config, dynamodb: Client) -> Self {
        Self {
            dynamodb,
            tables: [
                config.orders_table.clone(),
                config.outbox_table.clone(),
                config.idempotency_table.clone(),
            ],
            last: Mutex::new(None),
        }
    }

    async fn check(&self, table: &str) -> Check {
        timeout(PATIENCE, Check::table(&self.dynamodb, table))
            .await
            .unwrap_or_else(|_| Check::fail(format!("table {table}"), "DynamoDB does not answer"))
    }
}

#[async_trait]
impl Health for Readiness {
    /// Requests depend on nothing that could get stuck in this process: as long
    /// as this is answered, it makes progress.
    async fn live(&self) -> Report {
        Report::new([Check::pass("serving")])
    }

    async fn ready(&self) -> Report {
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < FRESH
        {
            return report.clone();
        }
        let report = Report::new(join_all(self.tables.iter().map(|table| self.check(table))).await);
        *last = Some((Instant::now(), report.clone()));
        report
    }
}
