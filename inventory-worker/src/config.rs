//! Options of the worker, each a flag and an environment variable. An invalid value is rejected
//! here, before anything starts.

use std::net::SocketAddr;
use std::time::Duration;

use shared::aws::resource_names::{parse_queue, parse_table};
use shared::runtime::service::{ProcessOptions, RunError, parse_duration};

/// The longest visibility timeout that SQS accepts, and the longest total after all extensions.
pub(crate) const MAX_VISIBILITY: Duration = Duration::from_secs(12 * 60 * 60);

/// Options of the worker.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Worker")]
pub struct Config {
    /// Address of /healthz, /readyz and /metrics: an IP address and a port
    #[arg(
        long,
        env = "WORKER_ADMIN_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8082"
    )]
    pub admin_listen: SocketAddr,

    /// SQS queue to receive events from: its name or its URL
    #[arg(long, env = "WORKER_QUEUE", value_name = "QUEUE", default_value = "order-events", value_parser = parse_queue)]
    pub queue: String,

    /// Maximum number of messages in progress and of requests to DynamoDB, 1 to 1000. Up to 1000
    /// further messages wait for others that need the same SKUs, or for another attempt
    #[arg(long, env = "WORKER_CONCURRENCY", value_name = "MESSAGES", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub concurrency: u16,

    /// Visibility timeout of received messages, in whole seconds, 1s to 12h. It is extended while
    /// a message is in flight; after a crash the messages in flight are redelivered after this
    /// time
    #[arg(long, env = "WORKER_VISIBILITY_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = parse_visibility)]
    pub visibility_timeout: Duration,

    /// DynamoDB table of the orders
    #[arg(long, env = "ORDERS_TABLE", value_name = "TABLE", default_value = "orders", value_parser = parse_table)]
    pub orders_table: String,

    /// DynamoDB table of the inventory
    #[arg(long, env = "INVENTORY_TABLE", value_name = "TABLE", default_value = "inventory", value_parser = parse_table)]
    pub inventory_table: String,

    #[command(flatten)]
    pub process: ProcessOptions,
}

impl Config {
    /// Checks the options against each other.
    ///
    /// # Errors
    /// [`RunError::Usage`] if two options name the same table.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        if self.orders_table == self.inventory_table {
            return Err(RunError::Usage(format!(
                "--orders-table and --inventory-table both name the table `{}`; each table needs a name of its own",
                self.orders_table
            )));
        }
        Ok(())
    }
}

fn parse_visibility(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    if timeout.subsec_nanos() == 0 && (Duration::from_secs(1)..=MAX_VISIBILITY).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("must be whole seconds from 1s to 12h".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_visibility_timeout_is_whole_seconds_from_1s_to_12h() {
        for ok in ["1s", "30s", "12h"] {
            assert!(parse_visibility(ok).is_ok(), "{ok}");
        }
        for wrong in ["", "0s", "999ms", "1500ms", "12h 1s", "30"] {
            assert!(parse_visibility(wrong).is_err(), "{wrong}");
        }
    }
}
