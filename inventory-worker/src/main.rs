//! The `inventory-worker` program. See [`inventory_worker`].

use std::process::ExitCode;

use clap::Parser;

/// Reserves stock for placed orders that arrive over SQS.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    config: inventory_worker::Config,
}

fn main() -> ExitCode {
    let Cli { config } = match shared::runtime::service::parse() {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    let options = config.process.clone();
    shared::runtime::service::run("inventory-worker", &options, |context| {
        inventory_worker::run(config, context)
    })
}
