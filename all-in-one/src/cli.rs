//! Sub-commands and options. The sub-commands of the services have the options of the services.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use chaos::ChaosOptions;
use clap::{Args, Parser, Subcommand};
use outbox::Buckets;
use shared::provision::ResourceNames;
use shared::runtime::service::ProcessOptions;

use crate::cloud_options::CloudOptions;

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
        /// URL, such as `http://127.0.0.1:8083/readyz`.
        url: String,
    },
}

/// Options of `up`. The listening addresses are those of the services, so that a port in use
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

    /// Listening address of order-api's health and metrics.
    #[arg(
        long,
        env = "ORDER_API_ADMIN_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8083",
        help_heading = "Services"
    )]
    pub order_api_admin_listen: SocketAddr,

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
