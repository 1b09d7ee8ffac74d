//! Sub-commands and options. The sub-commands of the services have the options of the services.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::process::ExitCode;
use std::time::Duration;

use chaos::ChaosOptions;
use clap::{Args, Parser, Subcommand};
use local_cloud::{MAX_SHARDS, ShardOptions};
use outbox::Buckets;
use shared::provision::ResourceNames;
use shared::runtime::service::{ProcessOptions, parse_duration_within};

/// Retention of DynamoDB Streams.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// Runs the whole system on this machine: DynamoDB, SQS and the three services.
///
/// The default sub-command is `up`.
#[derive(Debug, Parser)]
#[command(name = "all-in-one", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// Parses the command line of this process. Returns the exit code if there is nothing to run.
    pub fn from_arguments() -> Result<Self, ExitCode> {
        let mut arguments: Vec<_> = std::env::args_os().collect();
        insert_up(&mut arguments);
        shared::runtime::service::parse_from(arguments)
    }
}

/// Inserts `up` if no sub-command is given: without arguments, or if an option is first. Options of
/// `up` beside the sub-commands would have the same effect, but then an invalid environment
/// variable of `up` would stop every sub-command.
fn insert_up(arguments: &mut Vec<OsString>) {
    let is_up = match arguments.get(1).map(|first| first.to_string_lossy()) {
        None => !arguments.is_empty(),
        Some(first) => {
            first.starts_with('-') && !["-h", "--help", "-V", "--version"].contains(&&*first)
        }
    };
    if is_up {
        arguments.insert(1, "up".into());
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything and keep it running until Ctrl-C (the default).
    Up(Box<UpOptions>),
    /// Start only the embedded DynamoDB and SQS, until Ctrl-C.
    Cloud(CloudCommand),
    /// Create missing tables and queues at the endpoint configured by the AWS SDK's variables.
    Provision(ProvisionCommand),
    /// Run the whole system with injected faults and check that no guarantee is violated: exits
    /// with 0 if all hold, with 1 if not.
    Chaos(Box<ChaosOptions>),
    /// Run the HTTP API.
    OrderApi(Box<order_api::Config>),
    /// Run the relay, or one of its commands for operators.
    OutboxRelay(Box<outbox_relay::cli::Cli>),
    /// Run the worker.
    InventoryWorker(Box<inventory_worker::Config>),
    /// Exit with 0 if a URL responds with success; for container health checks.
    Healthcheck {
        /// URL, such as `http://127.0.0.1:8080/readyz`.
        url: String,
    },
}

/// Options of `up`. The three listening addresses are those of the services, so that a port in use
/// is reported before anything starts.
#[derive(Clone, Debug, Args)]
pub struct UpOptions {
    #[command(flatten)]
    pub cloud: CloudOptions,

    /// Listening address of order-api.
    #[arg(
        long,
        env = "ORDER_API_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8080",
        help_heading = "Services"
    )]
    pub order_api_listen: SocketAddr,

    /// Listening address of the relay's health, metrics and operator pages.
    #[arg(
        long,
        env = "RELAY_ADMIN_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8081",
        help_heading = "Services"
    )]
    pub relay_admin_listen: SocketAddr,

    /// Listening address of the worker's health and metrics.
    #[arg(
        long,
        env = "WORKER_ADMIN_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8082",
        help_heading = "Services"
    )]
    pub worker_admin_listen: SocketAddr,

    /// Index partitions over which the API spreads pending events and which the relay queries (1
    /// to 256).
    #[arg(
        long,
        env = "OUTBOX_BUCKETS",
        value_name = "NUMBER",
        default_value_t = Buckets::default(),
        help_heading = "Services"
    )]
    pub outbox_buckets: Buckets,

    #[command(flatten)]
    pub names: ResourceNames,

    #[command(flatten)]
    pub process: ProcessOptions,
}

/// Listening addresses of the embedded cloud, where port 0 selects a free port, and the shards of
/// its streams.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Embedded cloud")]
pub struct CloudOptions {
    /// Listening address of DynamoDB and DynamoDB Streams.
    #[arg(
        long,
        env = "ALL_IN_ONE_DYNAMODB_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8000"
    )]
    pub dynamodb_listen: SocketAddr,

    /// Listening address of SQS.
    #[arg(
        long,
        env = "ALL_IN_ONE_SQS_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9324"
    )]
    pub sqs_listen: SocketAddr,

    /// Open shards of each stream, 1 to 64. Every reader of a shard reads the records of all
    /// shards from the embedded database, so each shard costs throughput.
    #[arg(
        long,
        value_name = "SHARDS",
        default_value = "1",
        value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_SHARDS))
    )]
    pub shards: u32,

    /// Interval at which the oldest open shard of each stream is closed, 100ms to 24h. It gets two
    /// children, or one if the stream has twice as many open shards as it started with [default:
    /// shards stay open].
    #[arg(long, value_name = "DURATION", value_parser = split_interval)]
    pub split_every: Option<Duration>,

    /// Age at which records of streams can no longer be read, 1s to 24h [default: 24h with several
    /// or splitting shards, otherwise unlimited].
    #[arg(long, value_name = "DURATION", value_parser = trim_age)]
    pub trim_after: Option<Duration>,
}

impl CloudOptions {
    /// Returns the shards of each stream; `None` for one shard that is neither closed nor trimmed.
    pub fn shards(&self) -> Option<ShardOptions> {
        let is_plain = self.shards == 1 && self.split_every.is_none() && self.trim_after.is_none();
        let options = ShardOptions {
            shards: NonZeroU32::new(self.shards)?,
            split_every: self.split_every,
            ..ShardOptions::default()
        };
        (!is_plain).then(|| ShardOptions {
            trim_after: self.trim_after.unwrap_or(options.trim_after),
            ..options
        })
    }
}

fn split_interval(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_millis(100), DAY)
}

fn trim_age(text: &str) -> Result<Duration, String> {
    parse_duration_within(text, Duration::from_secs(1), DAY)
}

#[derive(Clone, Debug, Args)]
pub struct CloudCommand {
    #[command(flatten)]
    pub cloud: CloudOptions,

    #[command(flatten)]
    pub process: ProcessOptions,
}

#[derive(Clone, Debug, Args)]
pub struct ProvisionCommand {
    /// Also stock WIDGET-1 … WIDGET-5 with 1,000,000 pieces each, unless they are already stocked.
    #[arg(long)]
    pub stock: bool,

    #[command(flatten)]
    pub names: ResourceNames,

    #[command(flatten)]
    pub process: ProcessOptions,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }

    fn cloud(arguments: &[&str]) -> Result<CloudOptions, clap::Error> {
        let cli = Cli::try_parse_from([&["all-in-one", "cloud"], arguments].concat())?;
        match cli.command {
            Command::Cloud(command) => Ok(command.cloud),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn streams_have_virtual_shards_only_on_request() {
        assert_eq!(cloud(&[]).unwrap().shards(), None);
        let shards = |arguments| cloud(arguments).unwrap().shards().unwrap();
        let four = shards(&["--shards", "4", "--split-every", "5s"]);
        assert_eq!(four.shards.get(), 4);
        assert_eq!(four.split_every, Some(Duration::from_secs(5)));
        assert_eq!(four.trim_after, DAY);
        let trimmed = shards(&["--trim-after", "1m"]);
        assert_eq!(trimmed.shards.get(), 1);
        assert_eq!(trimmed.trim_after, Duration::from_secs(60));
    }

    #[test]
    fn invalid_shard_options_are_rejected() {
        for wrong in [
            ["--shards", "0"],
            ["--shards", "65"],
            ["--split-every", "99ms"],
            ["--split-every", "5"],
            ["--trim-after", "25h"],
        ] {
            assert!(cloud(&wrong).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn up_is_the_default_sub_command() {
        for (given, wanted) in [
            (&["all-in-one"][..], &["all-in-one", "up"][..]),
            (
                &["all-in-one", "--sqs-listen"],
                &["all-in-one", "up", "--sqs-listen"],
            ),
            (&["all-in-one", "cloud"], &["all-in-one", "cloud"]),
            (&["all-in-one", "--help"], &["all-in-one", "--help"]),
        ] {
            let mut arguments = given.iter().map(OsString::from).collect();
            insert_up(&mut arguments);
            assert_eq!(arguments, wanted);
        }
    }
}
