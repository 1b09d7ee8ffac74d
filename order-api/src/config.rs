//! Options of the program, each a flag and an environment variable.

use std::net::SocketAddr;
use std::time::Duration;

use outbox::Buckets;
use shared::aws::resource_names::parse_table;
use shared::runtime::descriptors::connections_within_limit;
use shared::runtime::server::Limits;
use shared::runtime::service::{ProcessOptions, RunError, parse_drain_delay, parse_duration};

use crate::auth::AuthOptions;

/// Upper bound on the bytes of requests that have not arrived completely, and of their buffers. A
/// request has at most 96 KiB, and usually arrives at once.
const MAX_ARRIVING_BYTES: usize = 8 * 1024 * 1024;

/// File descriptors besides connections: listeners, timers, the connection to a collector, and
/// connections that are being closed.
const OTHER_DESCRIPTORS: usize = 128;

/// Options of `order-api`.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address that the API listens on
    #[arg(long, env = "ORDER_API_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8080", value_parser = address)]
    pub listen: SocketAddr,

    /// Address of /healthz, /readyz and /metrics, which a full API port does not affect
    #[arg(long, env = "ORDER_API_ADMIN_LISTEN", value_name = "ADDRESS:PORT", default_value = "127.0.0.1:8083", value_parser = address)]
    pub admin_listen: SocketAddr,

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

    /// Idempotency keys that earlier releases stored without the customer: check returns their
    /// orders, and costs two more write units for each order with a key; set ignore 24 hours after
    /// the last process of an earlier release was stopped
    #[arg(long, env = "ORDER_API_UNSCOPED_KEYS", value_name = "POLICY", value_enum, default_value_t = UnscopedKeys::Check)]
    pub unscoped_keys: UnscopedKeys,

    /// Time limit for one request, after which the response is 504; 100ms to 5m, with its unit
    #[arg(long, env = "ORDER_API_REQUEST_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = request_timeout)]
    pub request_timeout: Duration,

    /// Maximum number of requests in flight, from the arrival of their body on; more are rejected
    /// with 503
    // Each holds a body of at most 64 KiB, so the default bounds bodies at 32 MiB.
    #[arg(long, env = "ORDER_API_MAX_CONCURRENCY", value_name = "REQUESTS", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_concurrency: u32,

    /// Maximum number of open connections to the API. At the limit, a new connection closes the
    /// one that has waited longest for its client
    #[arg(long, env = "ORDER_API_MAX_CONNECTIONS", value_name = "CONNECTIONS", default_value_t = 4_096, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_connections: u32,

    /// Maximum number of open connections from one IPv4 address or IPv6 /64 network, with the same
    /// effect. Behind a load balancer, every connection is from one of its addresses
    #[arg(long, env = "ORDER_API_MAX_CONNECTIONS_PER_ADDRESS", value_name = "CONNECTIONS", default_value_t = 2_048, value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub max_connections_per_address: u32,

    /// Time after SIGTERM or SIGINT for which requests are still accepted, while /readyz is red
    /// and responses have `Connection: close`; 0s to 5m. Make it longer than the load balancer
    /// takes to notice
    #[arg(long, env = "ORDER_API_DRAIN_DELAY", value_name = "DURATION", default_value = "0s", value_parser = parse_drain_delay)]
    pub drain_delay: Duration,

    #[command(flatten)]
    pub auth: AuthOptions,

    #[command(flatten)]
    pub process: ProcessOptions,
}

/// Policy for idempotency keys that earlier releases stored without the customer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum UnscopedKeys {
    /// Honour them: a request with such a key of the same customer creates no second order
    Check,
    /// Do not look for them: none is stored any more
    Ignore,
}

impl Config {
    /// Returns the options of the process.
    pub fn process(&self) -> ProcessOptions {
        ProcessOptions {
            drain_delay: self.drain_delay,
            ..self.process.clone()
        }
    }

    /// Returns the limits of the API port, which leave file descriptors for the admin port, for the
    /// requests to DynamoDB (one connection each) and for everything else.
    pub(crate) fn limits(&self) -> Limits {
        let others = Limits::ADMIN.connections + self.max_concurrency as usize + OTHER_DESCRIPTORS;
        Limits {
            connections: connections_within_limit(self.max_connections as usize, others),
            connections_per_address: self.max_connections_per_address as usize,
            arriving_bytes: MAX_ARRIVING_BYTES,
            // The handler answers 408 first.
            arrival_timeout: self.request_timeout + Duration::from_secs(5),
        }
    }

    /// Checks the options against each other.
    ///
    /// # Errors
    /// [`RunError::Usage`] if two options name the same address or the same table, or clients of
    /// other machines would not be authenticated.
    pub(crate) fn check(&self) -> Result<(), RunError> {
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            return Err(RunError::Usage(format!(
                "--listen and --admin-listen are both {}; each needs a port of its own",
                self.listen
            )));
        }
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
        self.auth.check(self.listen).map_err(RunError::Usage)
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
