//! The `order-api` program.

use std::process::ExitCode;

use clap::Parser;

/// HTTP API that accepts orders and stores each with its event in one DynamoDB transaction.
#[derive(Debug, Parser)]
#[command(name = "order-api", version)]
struct Cli {
    #[command(flatten)]
    config: order_api::Config,
}

fn main() -> ExitCode {
    match shared::runtime::service::parse::<Cli>() {
        Ok(Cli { config }) => {
            let process = config.process();
            shared::runtime::service::run("order-api", &process, |context| {
                order_api::run(config, context)
            })
        }
        Err(code) => code,
    }
}
