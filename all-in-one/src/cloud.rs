//! The embedded cloud, by itself or as part of `up`.

use local_cloud::{LocalCloud, Service, StartError};
use tokio_util::sync::CancellationToken;

use crate::cloud_options::CloudOptions;
use crate::error::UpError;

/// Starts DynamoDB and SQS.
///
/// # Errors
/// For a port in use, a sentence that names the option to change.
pub(crate) async fn start(options: CloudOptions) -> Result<LocalCloud, UpError> {
    LocalCloud::start(options.config())
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

/// Runs the sub-command `cloud`: prints the environment variables for other programs and serves
/// until `stop`.
pub(crate) async fn run(options: CloudOptions, stop: CancellationToken) -> Result<(), UpError> {
    let cloud = start(options).await?;
    println!("# DynamoDB and SQS run until Ctrl-C. Environment of programs that use them:");
    for (name, value) in cloud.env() {
        println!("export {name}={value}");
    }
    stop.cancelled().await;
    cloud.stop().await.map_err(UpError::Folder)
}
