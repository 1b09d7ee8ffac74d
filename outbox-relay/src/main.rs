//! Publishes the events of a DynamoDB outbox table to SQS.

use std::process::ExitCode;

use clap::Parser;
use outbox_relay::cli::{self, Cli};

/// Publishes the events of a DynamoDB outbox table to SQS, and shows and
/// changes the events of the table.
///
/// AWS access uses the SDK's own variables: AWS_REGION, credentials, and
/// AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_DYNAMODB,
/// AWS_ENDPOINT_URL_DYNAMODB_STREAMS, AWS_ENDPOINT_URL_SQS.
#[derive(Debug, Parser)]
#[command(version)]
struct Program {
    #[command(flatten)]
    cli: Cli,
}

fn main() -> ExitCode {
    match shared::runtime::service::parse::<Program>() {
        Ok(Program {
            cli: Cli { config, command },
        }) => match command {
            Some(command) => cli::run(command, &config),
            None => {
                let options = config.process.clone();
                shared::runtime::service::run("outbox-relay", &options, |context| {
                    outbox_relay::run(config, context)
                })
            }
        },
        Err(code) => code,
    }
}
