//! The relay's options.

use std::net::SocketAddr;
use std::time::Duration;

use outbox::Buckets;
use outbox_admin::{AggregateTables, Settings};
use shared::aws::resource_names::parse_table;
use shared::runtime::service::{ProcessOptions, RunError, parse_duration, parse_duration_within};

use crate::console_options::ConsoleOptions;
use crate::engine::OnFailure;
use crate::routes::Routes;

/// Shortest retention of published events: the 24 h for which DynamoDB Streams keeps a record, and
/// a margin for clocks.
const MIN_RETENTION: Duration = Duration::from_secs(25 * 3600);

/// Options and environment of `outbox-relay`.
#[derive(Clone, Debug, clap::Args)]
pub struct Config {
    /// Address of the console, `/healthz`, `/readyz` and `/metrics`. An address
    /// that other machines can reach requires RELAY_ADMIN_TOKEN or
    /// RELAY_ADMIN_TOKEN_FILE.
    #[arg(
        long,
        env = "RELAY_ADMIN_LISTEN",
        value_name = "ADDRESS",
        default_value = "127.0.0.1:8081"
    )]
    pub admin_listen: SocketAddr,

    #[command(flatten)]
    pub console: ConsoleOptions,

    /// Queues of the events: comma-separated `event type pattern=queue
    /// name or URL`; `*` matches any characters, the first match decides. The
    /// target `!quarantine` quarantines events of the type. Events of a type
    /// without a route are deferred until a relay has one.
    #[arg(
        long,
        env = "RELAY_ROUTES",
        value_name = "ROUTES",
        default_value = "order.*=order-events"
    )]
    pub routes: Routes,

    /// Treatment of the later events of an aggregate when one is quarantined:
    /// they are sent (`pass`), or wait in the table until it is retried or
    /// discarded (`hold`).
    #[arg(
        long,
        env = "RELAY_ON_FAILURE",
        value_name = "MODE",
        value_enum,
        default_value_t,
        global = true
    )]
    pub on_failure: OnFailure,

    /// Name of the group of relays that share the shards of a stream. Their
    /// leases and checkpoints are stored under this name. One group owns an
    /// outbox table: a relay of another one exits with code 64.
    #[arg(
        long,
        env = "RELAY_CONSUMER_GROUP",
        value_name = "NAME",
        default_value = "default",
        value_parser = parse_name,
        global = true
    )]
    pub consumer_group: String,

    /// Name of this instance in the lease table; unique among running instances.
    /// A process that restarts with the same name reacquires its leases after a
    /// quarter of the lease duration.
    /// [default: host, pid and a random part]
    #[arg(long, env = "RELAY_INSTANCE_ID", value_name = "NAME", value_parser = parse_name)]
    pub instance_id: Option<String>,

    /// Time without a heartbeat of the owner after which a lease is taken over
    /// (1s to 5m).
    #[arg(long, env = "RELAY_LEASE_DURATION", value_name = "DURATION", default_value = "10s", value_parser = parse_lease_duration, global = true)]
    pub lease_duration: Duration,

    /// Interval between two reads of a shard whose pages are not nearly full (1ms
    /// to RELAY_POLL_MAX). A shorter one reduces the lag and costs more reads.
    #[arg(long, env = "RELAY_POLL_MIN", value_name = "DURATION", default_value = "50ms", value_parser = parse_poll)]
    pub poll_min: Duration,

    /// Longest interval between two reads of an idle shard (at most 10s).
    #[arg(long, env = "RELAY_POLL_MAX", value_name = "DURATION", default_value = "200ms", value_parser = parse_poll)]
    pub poll_max: Duration,

    /// Time that a published event stays in the outbox table (at least 25h).
    #[arg(long, env = "RELAY_RETENTION", value_name = "DURATION", default_value = "7d", value_parser = parse_retention)]
    pub retention: Duration,

    /// Interval between two sweeps of the pending events (at least 100ms); longer,
    /// up to a minute more, while a backlog cannot be published.
    #[arg(long, env = "RELAY_SWEEP_INTERVAL", value_name = "DURATION", default_value = "30s", value_parser = parse_sweep)]
    pub sweep_interval: Duration,

    /// Age from which a pending event is swept, that is, published without the
    /// stream; all readers of the stream must be past it by then (at least
    /// 100ms).
    #[arg(long, env = "RELAY_SWEEP_AFTER", value_name = "DURATION", default_value = "60s", value_parser = parse_sweep)]
    pub sweep_after: Duration,

    /// The outbox table.
    #[arg(
        long,
        env = "OUTBOX_TABLE",
        value_name = "TABLE",
        default_value = "outbox",
        value_parser = parse_table,
        global = true
    )]
    pub outbox_table: String,

    /// Index partitions over which pending events are spread (1 to 256). Not
    /// fewer than any writer uses: no sweep and no list finds an event beyond
    /// this number. To raise it, restart the relays with the new number, then
    /// the writers; never lower it.
    #[arg(
        long,
        env = "OUTBOX_BUCKETS",
        value_name = "NUMBER",
        default_value_t = Buckets::default(),
        global = true
    )]
    pub outbox_buckets: Buckets,

    /// The table of leases and checkpoints.
    #[arg(
        long,
        env = "LEASES_TABLE",
        value_name = "TABLE",
        default_value = "relay_leases",
        value_parser = parse_table,
        global = true
    )]
    pub leases_table: String,

    /// Tables of aggregates, to show the consumer's result beside an event:
    /// comma-separated `aggregate type=table`. The table has the aggregate's id
    /// as its only key; `status` and `updated_at` of the item are shown.
    #[arg(
        long,
        env = "RELAY_AGGREGATE_TABLES",
        value_name = "TABLES",
        default_value = "",
        global = true
    )]
    pub aggregate_tables: AggregateTables,

    /// Base URL of Jaeger's pages, such as `http://localhost:16686`, for links
    /// to traces.
    #[arg(long, env = "JAEGER_UI_URL", value_name = "URL", value_parser = parse_page, global = true)]
    pub jaeger_ui_url: Option<String>,

    #[command(flatten)]
    pub process: ProcessOptions,
}

impl Config {
    /// Checks the options against each other.
    ///
    /// # Errors
    /// [`RunError::Usage`] if other machines could use the console without a token, or guess it,
    /// both tables are the same, or RELAY_POLL_MIN exceeds RELAY_POLL_MAX.
    pub fn check(&self) -> Result<(), RunError> {
        self.console
            .tokens(self.admin_listen)
            .map_err(RunError::Usage)?;
        if self.outbox_table == self.leases_table {
            return Err(RunError::Usage(format!(
                "OUTBOX_TABLE and LEASES_TABLE are both `{}`; they must be two tables",
                self.outbox_table
            )));
        }
        if self.poll_min > self.poll_max {
            return Err(RunError::Usage(format!(
                "RELAY_POLL_MIN is {}, longer than RELAY_POLL_MAX, which is {}: lower the one or raise the other",
                humantime::format_duration(self.poll_min),
                humantime::format_duration(self.poll_max)
            )));
        }
        Ok(())
    }

    /// Returns the part of the options that operators' commands and the console need.
    pub fn admin_settings(&self) -> Settings {
        Settings {
            outbox_table: self.outbox_table.clone(),
            buckets: self.outbox_buckets,
            leases_table: self.leases_table.clone(),
            consumer_group: self.consumer_group.clone(),
            lease_duration: self.lease_duration,
            failed_events_block: self.on_failure == OnFailure::Hold,
            aggregate_tables: self.aggregate_tables.clone(),
            queues: self
                .routes
                .queues()
                .map(|queue| queue.as_str().to_owned())
                .collect(),
            jaeger_ui_url: self.jaeger_ui_url.clone(),
        }
    }

    /// Returns the configured instance id, or a unique one.
    pub fn instance(&self) -> String {
        self.instance_id.clone().unwrap_or_else(|| {
            format!(
                "{}-{}-{:08x}",
                gethostname::gethostname().to_string_lossy(),
                std::process::id(),
                fastrand::u32(..)
            )
        })
    }
}

/// Parses the name of a consumer group or an instance. It is part of keys, and `|` separates the
/// group from the stream in the lease table, so that few characters are allowed.
fn parse_name(text: &str) -> Result<String, String> {
    let plain = text
        .bytes()
        .all(|c| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-'));
    if plain && (1..=128).contains(&text.len()) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 128 characters of A-Z a-z 0-9 . _ -".to_owned())
    }
}

/// Parses the base URL of links and removes trailing slashes.
fn parse_page(text: &str) -> Result<String, String> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '<' | '>' | '\\' | '`');
    match rest {
        Some(host) if !host.trim_matches('/').is_empty() && host.chars().all(plain) => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("must be a URL such as http://localhost:16686".to_owned()),
    }
}

fn parse_lease_duration(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_secs(1), Duration::from_secs(300))
}

/// Parses the retention of published events. A relay that reads the stream again after a takeover
/// recognises a published event by its item.
fn parse_retention(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < MIN_RETENTION {
        return Err(
            "must be at least 25h: the stream keeps an event for 24 h, and an event that the \
             stream repeats after its item was deleted could not be recognised as published"
                .to_owned(),
        );
    }
    Ok(duration)
}

/// Parses a sweep interval or age. A sweep reads the index: with a shorter interval the relay would
/// do little else.
fn parse_sweep(text: &str) -> Result<Duration, String> {
    let duration = parse_duration(text)?;
    if duration < Duration::from_millis(100) {
        return Err("must be at least 100ms".to_owned());
    }
    Ok(duration)
}

fn parse_poll(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_millis(1), Duration::from_secs(10))
}
