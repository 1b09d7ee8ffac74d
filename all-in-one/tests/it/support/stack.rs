//! An embedded cloud in the test, and services on it as processes.

use std::collections::HashMap;

use aws_sdk_dynamodb::types::AttributeValue;
use local_cloud::{Config, LocalCloud};
use test_support::Service;
use tokio::process::Command;

use super::{ANY, BINARY};

pub(crate) struct Stack {
    pub(crate) cloud: LocalCloud,
    pub(crate) dynamodb: aws_sdk_dynamodb::Client,
    environment: Vec<(String, String)>,
}

/// Runs `all-in-one provision` against `cloud`.
pub(crate) async fn provision(cloud: &LocalCloud, arguments: &[&str]) -> std::process::Output {
    Command::new(BINARY)
        .arg("provision")
        .args(arguments)
        .envs(cloud.env())
        .output()
        .await
        .unwrap()
}

impl Stack {
    /// Starts a provisioned and stocked cloud; `environment` is passed to the services.
    pub(crate) async fn start(environment: &[(&str, &str)]) -> Self {
        let cloud = LocalCloud::start(Config::default()).await.unwrap();
        let provisioned = provision(&cloud, &["--stock"]).await;
        assert!(provisioned.status.success(), "{provisioned:?}");
        let environment = cloud
            .env()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .chain(
                environment
                    .iter()
                    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
            )
            .chain(
                [
                    "ORDER_API_LISTEN",
                    "ORDER_API_ADMIN_LISTEN",
                    "RELAY_ADMIN_LISTEN",
                    "WORKER_ADMIN_LISTEN",
                ]
                .map(|name| (name.to_owned(), ANY.to_owned())),
            )
            // As in `up`: a restarted relay acquires its leases again, and reads often.
            .chain([
                ("RELAY_INSTANCE_ID".to_owned(), "relay-1".to_owned()),
                ("RELAY_POLL_MIN".to_owned(), "5ms".to_owned()),
            ])
            .collect();
        Self {
            dynamodb: cloud.dynamodb_client(),
            cloud,
            environment,
        }
    }

    /// Starts the service with this sub-command; it listens when this returns.
    pub(crate) async fn service(&self, name: &str) -> Service {
        self.service_with(name, &[]).await
    }

    /// Starts a service with additional variables, which take precedence.
    pub(crate) async fn service_with(&self, name: &str, environment: &[(&str, &str)]) -> Service {
        let mut variables = self.environment.clone();
        variables.extend(
            environment
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
        );
        Service::start(BINARY, &[name], variables).await.unwrap()
    }

    /// Runs the program with `arguments` to its end.
    pub(crate) async fn run(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(BINARY)
            .args(arguments)
            .envs(self.environment.iter().cloned())
            .output()
            .await
            .unwrap()
    }

    /// Returns all items of a table.
    pub(crate) async fn scan(&self, table: &str) -> Vec<HashMap<String, AttributeValue>> {
        self.dynamodb
            .scan()
            .table_name(table)
            .consistent_read(true)
            .into_paginator()
            .items()
            .send()
            .collect::<Result<_, _>>()
            .await
            .unwrap()
    }

    /// Returns the number of items of `table` that do not have this `status` yet.
    pub(crate) async fn without_status(&self, table: &str, status: &str) -> i32 {
        let mut pages = self
            .dynamodb
            .scan()
            .table_name(table)
            .consistent_read(true)
            .select(aws_sdk_dynamodb::types::Select::Count)
            .filter_expression("#status <> :status")
            .expression_attribute_names("#status", "status")
            .expression_attribute_values(":status", AttributeValue::S(status.to_owned()))
            .into_paginator()
            .send();
        let mut count = 0;
        while let Some(page) = pages.next().await {
            count += page.unwrap().count;
        }
        count
    }
}

/// Returns the outbox item of the first event of an aggregate.
pub(crate) async fn item(
    dynamodb: &aws_sdk_dynamodb::Client,
    aggregate_id: &str,
) -> HashMap<String, AttributeValue> {
    dynamodb
        .get_item()
        .table_name("outbox")
        .key("aggregate_id", AttributeValue::S(aggregate_id.to_owned()))
        .key("sequence", AttributeValue::N("1".to_owned()))
        .consistent_read(true)
        .send()
        .await
        .unwrap()
        .item
        .unwrap()
}
