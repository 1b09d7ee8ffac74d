//! The tables and the consumer group that operators work on.

use std::time::Duration;

use crate::service::AggregateTables;

/// Configuration of the operator's service. A program fills it from its own options.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the outbox table.
    pub outbox_table: String,
    /// Name of the table of leases and checkpoints.
    pub leases_table: String,
    /// Consumer group whose leases are shown.
    pub consumer_group: String,
    /// Lease duration of the relays: an owner without a heartbeat for this long is silent.
    pub lease_duration: Duration,
    /// Tables in which aggregates are stored, to show the consumer's result beside an event.
    pub aggregate_tables: AggregateTables,
    /// Base URL of Jaeger's pages, without a trailing slash, for links to traces.
    pub jaeger_ui_url: Option<String>,
}
