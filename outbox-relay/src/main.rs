//! Publishes the events of a DynamoDB outbox table to SQS.

use std::process::ExitCode;

use clap::Parser;
use outbox_relay::Config;

/// Publishes the events of a DynamoDB outbox table to SQS.
///
/// AWS access uses the SDK's own variables: AWS_REGION, credentials, and
/// AWS_ENDPOINT_URL, AWS_ENDPOINT_URL_DYNAMODB,
/// AWS_ENDPOINT_URL_DYNAMODB_STREAMS, AWS_ENDPOINT_URL_SQS.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    config: Config,
}

fn main() -> ExitCode {
    match shared::process::parse::<Cli>() {
        Ok(Cli { config }) => {
            let options = config.process.clone();
            shared::process::run("outbox-relay", &options, |context| {
                outbox_relay::run(config, context)
            })
        }
        Err(code) => code,
    }
}
