//! `/readyz`: checks that the three tables exist and respond, that AWS denied no request a short
//! time ago, and that clients can be authenticated.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::Client;
use futures::future::join_all;
use shared::runtime::denials::Denials;
use shared::runtime::health::{Check, Health, Report};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::auth::Guard;
use crate::config::Config;

/// Period for which a report is reused, so that any number of probes costs at most three requests a
/// second.
const REPORT_TTL: Duration = Duration::from_secs(1);

/// Time limit for one check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

pub(crate) struct Readiness {
    guard: Arc<Guard>,
    dynamodb: Client,
    denials: Arc<Denials>,
    tables: [String; 3],
    /// Locked during a check: probes that arrive meanwhile wait for the same report instead of
    /// sending requests of their own.
    last: Mutex<Option<(Instant, Report)>>,
}

impl Readiness {
    pub(crate) fn new(
        config: &Config,
        guard: Arc<Guard>,
        dynamodb: Client,
        denials: Arc<Denials>,
    ) -> Self {
        Self {
            guard,
            dynamodb,
            denials,
            tables: [
                config.orders_table.clone(),
                config.outbox_table.clone(),
                config.idempotency_table.clone(),
            ],
            last: Mutex::new(None),
        }
    }

    async fn check(&self, table: &str) -> Check {
        timeout(CHECK_TIMEOUT, Check::table(&self.dynamodb, table))
            .await
            .unwrap_or_else(|_| Check::fail(format!("table {table}"), "DynamoDB does not respond"))
    }
}

#[async_trait]
impl Health for Readiness {
    /// Returns a report that passes. Requests depend on nothing that could stall in this process:
    /// as long as it responds to this one, it makes progress.
    async fn live(&self) -> Report {
        Report::new([Check::pass("serving")])
    }

    async fn ready(&self) -> Report {
        let mut last = self.last.lock().await;
        if let Some((at, report)) = &*last
            && at.elapsed() < REPORT_TTL
        {
            return report.clone();
        }
        let tables = join_all(self.tables.iter().map(|table| self.check(table))).await;
        let denials = self.denials.checks();
        let checks = tables.into_iter().chain(denials).chain(self.guard.check());
        let report = Report::new(checks);
        *last = Some((Instant::now(), report.clone()));
        report
    }
}
