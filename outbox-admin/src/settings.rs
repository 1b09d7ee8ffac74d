//! The tables and the consumer group that operators work on.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use outbox::Buckets;
use shared::aws::resource_names::parse_table;

/// Configuration of the operator's service. A program fills it from its own options.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the outbox table.
    pub outbox_table: String,
    /// Index partitions over which the table's pending events are spread.
    pub buckets: Buckets,
    /// Name of the table of leases and checkpoints.
    pub leases_table: String,
    /// Consumer group whose leases are shown.
    pub consumer_group: String,
    /// Lease duration of the relays: an owner without a heartbeat for this long is not alive.
    pub lease_duration: Duration,
    /// A failed event blocks the later events of its aggregate until it is retried or discarded.
    pub failed_events_block: bool,
    /// Tables in which aggregates are stored, to show the consumer's result beside an event.
    pub aggregate_tables: AggregateTables,
    /// Queues whose dead letters are shown, by name or URL.
    pub queues: Vec<String>,
    /// Base URL of Jaeger's pages, without a trailing slash, for links to traces.
    pub jaeger_ui_url: Option<String>,
}

/// Table of each aggregate type: `RELAY_AGGREGATE_TABLES`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AggregateTables(Arc<BTreeMap<String, String>>);

impl AggregateTables {
    /// Returns the table of `aggregate_type`, if one is configured.
    pub(crate) fn table_of(&self, aggregate_type: &str) -> Option<&str> {
        self.0.get(aggregate_type).map(String::as_str)
    }
}

impl FromStr for AggregateTables {
    type Err = String;

    /// `order=orders,invoice=invoices`; empty for none.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let pairs = text.split(',').filter(|pair| !pair.trim().is_empty());
        pairs
            .map(|pair| {
                let (aggregate_type, table) = pair
                    .split_once('=')
                    .filter(|(aggregate_type, _)| !aggregate_type.trim().is_empty())
                    .ok_or_else(|| format!("`{pair}` is not `aggregate type=table`"))?;
                let table =
                    parse_table(table.trim()).map_err(|reason| format!("`{pair}`: {reason}"))?;
                Ok((aggregate_type.trim().to_owned(), table))
            })
            .collect::<Result<_, _>>()
            .map(|tables| Self(Arc::new(tables)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_name_a_type_and_a_table() {
        let tables: AggregateTables = "order=orders, invoice=the.invoices".parse().unwrap();
        assert_eq!(tables.table_of("order"), Some("orders"));
        assert_eq!(tables.table_of("invoice"), Some("the.invoices"));
        assert_eq!(tables.table_of("other"), None);
        assert_eq!("".parse(), Ok(AggregateTables::default()));
        for wrong in ["order", "=orders", "order=", "order=a b"] {
            assert!(wrong.parse::<AggregateTables>().is_err(), "{wrong}");
        }
    }
}
