//! Sub-commands and options. The services' own options are theirs, unchanged.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use chaos::ChaosOptions;
use clap::{Args, Parser, Subcommand};
use shared::provision::ResourceNames;
use shared::runtime::service::ProcessOptions;

/// The whole system on this machine: DynamoDB, SQS and the three services.
///
/// Without a sub-command it is `up`.
#[derive(Debug, Parser)]
#[command(name = "all-in-one", version)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

impl Cli {
    /// This process's own command line, or the exit code when there is nothing
    /// to run.
    pub fn from_arguments() -> Result<Self, ExitCode> {
        let mut arguments: Vec<_> = std::env::args_os().collect();
        insert_up(&mut arguments);
        shared::runtime::service::parse_from(arguments)
    }
}

/// Names `up` where no sub-command is named: without arguments, or with an
/// option first. Options of `up` beside the sub-commands would do the same, but
/// then a variable that only `up` objects to would stop every sub-command.
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
    /// Create tables and queues where they are missing, on the endpoint that
    /// the AWS SDK's variables name.
    Provision(ProvisionCommand),
    /// Start everything, kill it and cut it off under load, and check that
    /// nothing was lost: exits with 0 if everything held, with 1 if not.
    Chaos(Box<ChaosOptions>),
    /// Run the HTTP API.
    OrderApi(Box<order_api::Config>),
    /// Run the relay, or one of its commands for operators.
    OutboxRelay(Box<outbox_relay::cli::Cli>),
    /// Run the worker.
    InventoryWorker(Box<inventory_worker::Config>),
    /// Exit with 0 if a URL answers with success, for container health checks.
    Healthcheck {
        /// Such as `http://127.0.0.1:8080/readyz`.
        url: String,
    },
}

/// `up`: the three listening options are the services' own, so that a taken
/// port is noticed before anything starts.
#[derive(Clone, Debug, Args)]
pub struct UpOptions {
    #[command(flatten)]
    pub cloud: CloudOptions,

    /// Where order-api listens.
    #[arg(
        long,
        env = "ORDER_API_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8080",
        help_heading = "Services"
    )]
    pub order_api_listen: SocketAddr,

    /// Where the relay's health, metrics and operator pages are.
    #[arg(
        long,
        env = "RELAY_ADMIN_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8081",
        help_heading = "Services"
    )]
    pub relay_admin_listen: SocketAddr,

    /// Where the worker's health and metrics are.
    #[arg(
        long,
        env = "WORKER_ADMIN_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8082",
        help_heading = "Services"
    )]
    pub worker_admin_listen: SocketAddr,

    #[command(flatten)]
    pub names: ResourceNames,

    #[command(flatten)]
    pub process: ProcessOptions,
}

/// Where the embedded cloud listens; port 0 takes any free one.
#[derive(Clone, Copy, Debug, Args)]
#[command(next_help_heading = "Embedded cloud")]
pub struct CloudOptions {
    /// Where DynamoDB and DynamoDB Streams listen.
    #[arg(
        long,
        env = "ALL_IN_ONE_DYNAMODB_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:8000"
    )]
    pub dynamodb_listen: SocketAddr,

    /// Where SQS listens.
    #[arg(
        long,
        env = "ALL_IN_ONE_SQS_LISTEN",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9324"
    )]
    pub sqs_listen: SocketAddr,
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
    /// Also stock WIDGET-1 … WIDGET-5 with 1,000,000 pieces each, where they
    /// are not stocked yet.
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
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn up_is_meant_where_no_sub_command_is_named() {
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
