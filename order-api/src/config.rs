//! Options of the program, each a flag and an environment variable.

use std::net::SocketAddr;
use std::time::Duration;

use outbox::Buckets;
use shared::aws::resource_names::parse_table;
use shared::runtime::service::{ProcessOptions, RunError, parse_duration};

/// Options of `order-api`.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address that the API listens on
    #[arg(long, env = "ORDER_API_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,

    /// DynamoDB table of the orders
    #[arg(long, env = "ORDERS_TABLE", value_name = "TABLE", default_value = "orders", value_parser = parse_table)]
    pub orders_table: String,

    /// DynamoDB table of the events (the outbox)
    #[arg(long, env = "OUTBOX_TABLE", value_name = "TABLE", default_value = "outbox", value_parser = parse_table)]
    pub outbox_table: String,

    /// Index partitions over which pending events are spread (1 to 256). Raise it on the relays
    /// first: they do not sweep or list an event beyond their own number. Never lower it
    #[arg(long, env = "OUTBOX_BUCKETS", value_name = "NUMBER", default_value_t = Buckets::default())]
    pub outbox_buckets: Buckets,

    /// DynamoDB table of the idempotency keys
    #[arg(long, env = "IDEMPOTENCY_TABLE", value_name = "TABLE", default_value = "idempotency_keys", value_parser = parse_table)]
    pub idempotency_table: String,

    /// Time limit for one request, after which the response is 504; 100ms to 5m, with its unit
    #[arg(long, env = "ORDER_API_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = request_timeout)]
    pub request_timeout: Duration,

    /// Maximum number of requests in flight; more are rejected with 503
    // Each holds a body of at most 64 KiB, so the default bounds bodies at 32 MiB.
    #[arg(long, env = "ORDER_API_MAX_CONCURRENCY", value_name = "REQUESTS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_concurrency: u32,

    #[command(flatten)]
    pub process: ProcessOptions,
}

impl Config {
    /// Checks the options against each other.
    ///
    /// # Errors
    /// [`RunError::Usage`] if two options name the same table.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        let tables = [
            ("--orders-table", &self.orders_table),
            ("--outbox-table", &self.outbox_table),
            ("--idempotency-table", &self.idempotency_table),
        ];
        for (n, (option, table)) in tables.iter().enumerate() {
            if let Some((other, _)) = tables[..n].iter().find(|(_, name)| name == table) {
                return Err(RunError::Usage(format!(
                    "{other} and {option} both name the table `{table}`; each table needs a name of its own"
                )));
            }
        }
        Ok(())
    }
}

fn address(text: &str) -> Result<SocketAddr, &'static str> {
    text.parse()
        .map_err(|_| "write an IP address and a port, such as 127.0.0.1:8080")
}

fn request_timeout(text: &str) -> Result<Duration, String> {
    let timeout = parse_duration(text)?;
    // Below a round trip to DynamoDB no request could succeed; above 5 minutes no client and no
    // load balancer waits.
    if (Duration::from_millis(100)..=Duration::from_secs(300)).contains(&timeout) {
        Ok(timeout)
    } else {
        Err("must be from 100ms to 5m".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    fn config(arguments: &[&str]) -> Result<Config, clap::Error> {
        Cli::try_parse_from([&["order-api"], arguments].concat()).map(|cli| cli.config)
    }

    #[test]
    fn equal_table_names_are_rejected_and_both_options_named() {
        assert!(config(&[]).unwrap().check().is_ok());
        let twice = config(&["--outbox-table", "orders"]).unwrap();
        let reason = twice.check().unwrap_err().to_string();
        assert!(
            reason.contains("--orders-table and --outbox-table"),
            "{reason}"
        );
    }

    #[test]
    fn invalid_values_are_rejected() {
        for wrong in [
            ["--listen", "localhost"],
            ["--listen", "127.0.0.1:65536"],
            ["--orders-table", "ab"],
            ["--outbox-buckets", "0"],
            ["--outbox-buckets", "257"],
            ["--orders-table", "a table"],
            ["--request-timeout", "10"],
            ["--request-timeout", "99ms"],
            ["--request-timeout", "301s"],
            ["--max-concurrency", "0"],
            ["--max-concurrency", "65537"],
        ] {
            assert!(config(&wrong).is_err(), "{wrong:?}");
        }
    }
}
