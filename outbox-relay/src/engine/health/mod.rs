//! Health of the instance: what `/healthz`, `/readyz`, the gauges and the console report (the "no
//! silence" guarantee).

pub(crate) mod backlog_monitor;
pub(crate) mod publish_history;
mod queue_outages;
pub(crate) mod status;
pub(crate) mod table_health;
