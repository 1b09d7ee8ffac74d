//! The AWS clients, configured by the SDK's own variables and nothing else; the classification of
//! their errors ([`error`]); the spans of requests to DynamoDB; the syntax of table and queue names
//! ([`resource_names`]).

mod dynamodb_spans;
pub mod error;
pub mod resource_names;

use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};

use self::dynamodb_spans::DynamoDbSpans;
pub use self::error::Causes;
use self::error::{ErrorClass, classify, explain};

/// Time limit for one attempt of a request. Requests that wait on purpose (SQS long polling)
/// override it.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts that the SDK makes by itself. Kept low because every caller has a retry policy of its
/// own, and the attempts of two layers multiply.
pub const SDK_ATTEMPTS: u32 = 2;

/// Clients of the three AWS services that the programs use.
#[derive(Clone, Debug)]
pub struct Clients {
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub streams: aws_sdk_dynamodbstreams::Client,
    pub sqs: aws_sdk_sqs::Client,
}

/// No AWS region is configured.
#[derive(Debug, thiserror::Error)]
#[error("no AWS region is configured; set AWS_REGION (with AWS_ENDPOINT_URL any name is accepted)")]
pub struct NoRegion;

impl Clients {
    /// Creates the clients from the variables that every AWS SDK reads: `AWS_REGION`,
    /// `AWS_PROFILE`, `AWS_ENDPOINT_URL`, `AWS_ENDPOINT_URL_DYNAMODB`,
    /// `AWS_ENDPOINT_URL_DYNAMODB_STREAMS`, `AWS_ENDPOINT_URL_SQS`, and the usual credential
    /// chain.
    ///
    /// # Errors
    /// [`NoRegion`] if no region is configured.
    pub async fn from_env() -> Result<Self, NoRegion> {
        let config = aws_config::defaults(BehaviorVersion::latest())
            .retry_config(RetryConfig::standard().with_max_attempts(SDK_ATTEMPTS))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(2))
                    .operation_attempt_timeout(ATTEMPT_TIMEOUT)
                    .build(),
            )
            .load()
            .await;
        if config.region().is_none() {
            return Err(NoRegion);
        }
        Ok(Self::new(&config))
    }

    /// Creates the clients from one configuration. Service-specific endpoint variables still
    /// apply.
    pub fn new(config: &SdkConfig) -> Self {
        Self {
            dynamodb: dynamodb_client(config),
            streams: aws_sdk_dynamodbstreams::Client::new(config),
            sqs: aws_sdk_sqs::Client::new(config),
        }
    }
}

/// Creates a DynamoDB client whose requests have spans.
fn dynamodb_client(config: &SdkConfig) -> aws_sdk_dynamodb::Client {
    let config = aws_sdk_dynamodb::config::Builder::from(config).interceptor(DynamoDbSpans);
    aws_sdk_dynamodb::Client::from_conf(config.build())
}

/// Failure to resolve a queue to its URL.
#[derive(Debug, thiserror::Error)]
pub enum QueueUrlError {
    #[error(
        "queue `{0}` does not exist in this account and region; `all-in-one provision` creates it"
    )]
    DoesNotExist(String),
    /// AWS refused the credentials.
    #[error("{0}")]
    Denied(String),
    #[error("{0}")]
    Unavailable(String),
}

/// Returns the URL of `queue`, which is a name or already a URL.
///
/// For a URL the queue's ARN is requested, so that a wrong URL fails here rather than at the first
/// message.
///
/// # Errors
/// [`QueueUrlError::DoesNotExist`] if the queue does not exist, [`QueueUrlError::Denied`] if AWS
/// refuses the credentials, and [`QueueUrlError::Unavailable`] for any other failure.
pub async fn queue_url(sqs: &aws_sdk_sqs::Client, queue: &str) -> Result<String, QueueUrlError> {
    use aws_sdk_sqs::types::QueueAttributeName;

    if queue.starts_with("http://") || queue.starts_with("https://") {
        return match sqs
            .get_queue_attributes()
            .queue_url(queue)
            .attribute_names(QueueAttributeName::QueueArn)
            .send()
            .await
        {
            Ok(_) => Ok(queue.to_owned()),
            Err(error) if classify(&error) == ErrorClass::NotFound => {
                Err(QueueUrlError::DoesNotExist(queue.to_owned()))
            }
            Err(error) => Err(failed("GetQueueAttributes", &error)),
        };
    }
    match sqs.get_queue_url().queue_name(queue).send().await {
        Ok(answer) => answer
            .queue_url
            .ok_or_else(|| QueueUrlError::Unavailable("the response has no URL".to_owned())),
        Err(error) if classify(&error) == ErrorClass::NotFound => {
            Err(QueueUrlError::DoesNotExist(queue.to_owned()))
        }
        Err(error) => Err(failed("GetQueueUrl", &error)),
    }
}

fn failed<E>(operation: &str, error: &SdkError<E>) -> QueueUrlError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    let reason = format!("{operation} failed: {}", explain(error));
    match classify(error).is_refusal_of_credentials() {
        true => QueueUrlError::Denied(reason),
        false => QueueUrlError::Unavailable(reason),
    }
}
