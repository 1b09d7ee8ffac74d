//! The embedded cloud, alone or below `up`.

use local_cloud::{Config, LocalCloud, Service, StartError};
use tokio_util::sync::CancellationToken;

use crate::cli::CloudOptions;
use crate::up::UpError;

/// Starts DynamoDB and SQS.
///
/// # Errors
/// For a taken port, a sentence that names the option to change.
pub(crate) async fn start(options: CloudOptions) -> Result<LocalCloud, UpError> {
    let config = Config {
        dynamodb: options.dynamodb_listen,
        sqs: options.sqs_listen,
    };
    LocalCloud::start(config)
        .await
        .map_err(|error| match error {
            StartError::Bind {
                service: Service::Sqs,
                source,
                ..
            } => UpError::port("SQS", options.sqs_listen, &source, SQS),
            StartError::Bind { source, .. } => {
                UpError::port("DynamoDB", options.dynamodb_listen, &source, DYNAMODB)
            }
            error => UpError::Cloud(error),
        })
}

const DYNAMODB: &str = "--dynamodb-listen (ALL_IN_ONE_DYNAMODB_LISTEN)";
const SQS: &str = "--sqs-listen (ALL_IN_ONE_SQS_LISTEN)";

/// `cloud`: serves until `stop`, after printing what a shell needs to use it.
pub(crate) async fn run(options: CloudOptions, stop: CancellationToken) -> Result<(), UpError> {
    let cloud = start(options).await?;
    println!("# DynamoDB and SQS are up until Ctrl-C. For programs that are to use them:");
    for (name, value) in cloud.env() {
        println!("export {name}={value}");
    }
    stop.cancelled().await;
    cloud.stop().await.map_err(UpError::Folder)
}
