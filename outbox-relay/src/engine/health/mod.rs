//! Health of the instance: what `/healthz`, `/readyz`, the gauges and the console report (the "no
//! silence" guarantee).

pub(crate) mod backlog_monitor;
pub(crate) mod publish_history;
mod queue_outages;
pub(crate) mod status;
pub(crate) mod table_health;

use std::time::Duration;

/// Minimum interval between two warnings about the same failure, of requests that are repeated
/// several times a second.
pub(crate) const WARNING_INTERVAL: Duration = Duration::from_secs(60);
