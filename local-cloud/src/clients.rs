//! Access to a running cloud: environment variables for a child process, SDK clients for a test.

use std::net::SocketAddr;

use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_sdk_dynamodb::config::{Credentials, SharedCredentialsProvider};

use crate::cloud::LocalCloud;
use crate::service_host::reachable;
use crate::sqs::REGION;

/// Access key. Signatures are not checked, but the SDK sends no request without a key.
const KEY: &str = "local";

impl LocalCloud {
    /// Returns the URL of DynamoDB and DynamoDB Streams, such as `http://127.0.0.1:8000`.
    #[must_use]
    pub fn dynamodb_url(&self) -> String {
        url(self.dynamodb.addr())
    }

    /// Returns the URL of SQS, such as `http://127.0.0.1:9324`.
    #[must_use]
    pub fn sqs_url(&self) -> String {
        url(self.sqs.addr())
    }

    /// Returns the AWS SDK's environment variables, as (name, value), that make a program in any
    /// language use this cloud.
    #[must_use]
    pub fn env(&self) -> Vec<(&'static str, String)> {
        vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", self.dynamodb_url()),
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", self.dynamodb_url()),
            ("AWS_ENDPOINT_URL_SQS", self.sqs_url()),
            ("AWS_REGION", REGION.to_owned()),
            ("AWS_ACCESS_KEY_ID", KEY.to_owned()),
            ("AWS_SECRET_ACCESS_KEY", KEY.to_owned()),
        ]
    }

    /// Returns an SDK configuration with region and credentials. It has no endpoint URL; the
    /// clients below set theirs.
    #[must_use]
    pub fn sdk_config(&self) -> SdkConfig {
        let credentials = Credentials::new(KEY, KEY, None, None, "local-cloud");
        SdkConfig::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::from_static(REGION))
            .credentials_provider(SharedCredentialsProvider::new(credentials))
            .build()
    }

    /// Creates a DynamoDB client with its own connections.
    #[must_use]
    pub fn dynamodb_client(&self) -> aws_sdk_dynamodb::Client {
        let config = aws_sdk_dynamodb::config::Builder::from(&self.sdk_config());
        aws_sdk_dynamodb::Client::from_conf(config.endpoint_url(self.dynamodb_url()).build())
    }

    /// Creates a DynamoDB Streams client with its own connections.
    #[must_use]
    pub fn streams_client(&self) -> aws_sdk_dynamodbstreams::Client {
        let config = aws_sdk_dynamodbstreams::config::Builder::from(&self.sdk_config());
        aws_sdk_dynamodbstreams::Client::from_conf(config.endpoint_url(self.dynamodb_url()).build())
    }

    /// Creates an SQS client with its own connections.
    #[must_use]
    pub fn sqs_client(&self) -> aws_sdk_sqs::Client {
        let config = aws_sdk_sqs::config::Builder::from(&self.sdk_config());
        aws_sdk_sqs::Client::from_conf(config.endpoint_url(self.sqs_url()).build())
    }
}

fn url(addr: SocketAddr) -> String {
    format!("http://{}", reachable(addr))
}
