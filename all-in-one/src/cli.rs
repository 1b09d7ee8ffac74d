//! Sub-commands and options. The services' own options are theirs, unchanged.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use shared::aws::resource_names::{parse_queue_name, parse_table};
use shared::runtime::service::ProcessOptions;

use crate::chaos::options::ChaosOptions;

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
    pub names: Names,

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
    pub names: Names,

    #[command(flatten)]
    pub process: ProcessOptions,
}

/// What is created. The variables are those of the services.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tables and queues")]
pub struct Names {
    #[arg(
        long,
        env = "ORDERS_TABLE",
        value_name = "TABLE",
        default_value = "orders",
        value_parser = parse_table
    )]
    pub orders_table: String,

    #[arg(
        long,
        env = "OUTBOX_TABLE",
        value_name = "TABLE",
        default_value = "outbox",
        value_parser = parse_table
    )]
    pub outbox_table: String,

    #[arg(
        long,
        env = "INVENTORY_TABLE",
        value_name = "TABLE",
        default_value = "inventory",
        value_parser = parse_table
    )]
    pub inventory_table: String,

    #[arg(
        long,
        env = "IDEMPOTENCY_TABLE",
        value_name = "TABLE",
        default_value = "idempotency_keys",
        value_parser = parse_table
    )]
    pub idempotency_table: String,

    #[arg(
        long,
        env = "LEASES_TABLE",
        value_name = "TABLE",
        default_value = "relay_leases",
        value_parser = parse_table
    )]
    pub leases_table: String,

    /// Created with its dead-letter queue; FIFO when the name ends in `.fifo`.
    #[arg(long, env = "WORKER_QUEUE", value_name = "QUEUE", default_value = "order-events", value_parser = parse_queue_name)]
    pub worker_queue: String,
}

impl Names {
    /// What no single option shows to be wrong.
    pub fn check(&self) -> Result<(), String> {
        let tables = self.tables();
        for (n, (one, table)) in tables.iter().enumerate() {
            if let Some((other, _)) = tables[..n].iter().find(|(_, earlier)| earlier == table) {
                return Err(format!(
                    "{other} and {one} are both `{table}`; they must be two tables"
                ));
            }
        }
        Ok(())
    }

    /// The variables by which the services are told these names.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.tables()
            .into_iter()
            .chain([("WORKER_QUEUE", self.worker_queue.as_str())])
            .map(|(variable, name)| (variable, name.to_owned()))
    }

    fn tables(&self) -> [(&'static str, &str); 5] {
        [
            ("ORDERS_TABLE", &self.orders_table),
            ("OUTBOX_TABLE", &self.outbox_table),
            ("INVENTORY_TABLE", &self.inventory_table),
            ("IDEMPOTENCY_TABLE", &self.idempotency_table),
            ("LEASES_TABLE", &self.leases_table),
        ]
    }
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
