//! The AWS clients, built from the SDK's own variables and nothing else.

pub mod error;
pub mod resource_names;

use std::error::Error;
use std::fmt;
use std::time::Duration;

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};

/// One attempt of a request may take this long. Requests that wait on purpose
/// (SQS long polling) override it.
pub const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);

/// Attempts the SDK makes by itself. Kept low: every caller here has its own
/// retry policy, and two layers multiply.
pub const SDK_ATTEMPTS: u32 = 2;

/// The three services this project talks to.
#[derive(Clone, Debug)]
pub struct Clients {
    pub dynamodb: aws_sdk_dynamodb::Client,
    pub streams: aws_sdk_dynamodbstreams::Client,
    pub sqs: aws_sdk_sqs::Client,
}

/// An error and what caused it, on one line: for logs and for people.
///
/// The SDK's own `DisplayErrorContext` adds the debug form of the whole error,
/// which is pages of HTTP headers.
#[derive(Clone, Copy, Debug)]
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut said = String::new();
        let mut next = Some(self.0);
        while let Some(error) = next {
            let text = error.to_string();
            // Some errors repeat their cause in their own text.
            if !said.contains(&text) {
                if !said.is_empty() {
                    said.push_str(": ");
                }
                said.push_str(&text.lines().map(str::trim).collect::<Vec<_>>().join(" "));
            }
            next = error.source();
        }
        f.write_str(&said)
    }
}

/// The environment does not say which AWS region to use.
#[derive(Debug, thiserror::Error)]
#[error("no AWS region is configured; set AWS_REGION (any name will do with AWS_ENDPOINT_URL)")]
pub struct NoRegion;

impl Clients {
    /// Reads region, credentials and endpoints the way every AWS SDK does:
    /// `AWS_REGION`, `AWS_PROFILE`, `AWS_ENDPOINT_URL`,
    /// `AWS_ENDPOINT_URL_DYNAMODB`, `AWS_ENDPOINT_URL_DYNAMODB_STREAMS`,
    /// `AWS_ENDPOINT_URL_SQS`, and the usual credential chain.
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

    /// Clients of one configuration; service-specific endpoint variables still
    /// apply.
    pub fn new(config: &SdkConfig) -> Self {
        Self {
            dynamodb: aws_sdk_dynamodb::Client::new(config),
            streams: aws_sdk_dynamodbstreams::Client::new(config),
            sqs: aws_sdk_sqs::Client::new(config),
        }
    }
}

/// A queue could not be resolved to its URL.
#[derive(Debug, thiserror::Error)]
pub enum QueueUrlError {
    #[error("queue `{0}` does not exist in this account and region")]
    DoesNotExist(String),
    #[error("SQS does not answer: {0}")]
    Unavailable(String),
}

/// The URL of `queue`, which may be a name or already a URL.
///
/// A URL is asked for its ARN, so that a wrong one is noticed here rather than
/// at the first message.
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
            Err(error)
                if error
                    .as_service_error()
                    .is_some_and(|e| e.is_queue_does_not_exist()) =>
            {
                Err(QueueUrlError::DoesNotExist(queue.to_owned()))
            }
            Err(error) => Err(QueueUrlError::Unavailable(Causes(&error).to_string())),
        };
    }
    match sqs.get_queue_url().queue_name(queue).send().await {
        Ok(answer) => answer
            .queue_url
            .ok_or_else(|| QueueUrlError::Unavailable("the answer has no URL".to_owned())),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(|e| e.is_queue_does_not_exist()) =>
        {
            Err(QueueUrlError::DoesNotExist(queue.to_owned()))
        }
        Err(error) => Err(QueueUrlError::Unavailable(Causes(&error).to_string())),
    }
}
