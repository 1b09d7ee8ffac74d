//! `provision` against an endpoint, here the embedded cloud.

use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType, Projection,
    ProjectionType, ScalarAttributeType, StreamSpecification, StreamViewType,
    TimeToLiveSpecification,
};
use local_cloud::{Config, LocalCloud};
use test_support::{Fault, Proxy};
use tokio::process::Command;

use crate::support::{BINARY, provision};

#[tokio::test]
async fn provisioning_twice_changes_nothing() {
    let cloud = LocalCloud::start(Config::default()).await.unwrap();
    let dynamodb = cloud.dynamodb_client();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let done = provision(&cloud, &["--stock"]).await;
        assert!(done.status.success(), "{done:?}");
        let tables = dynamodb.list_tables().send().await.unwrap().table_names;
        let stream = dynamodb
            .describe_table()
            .table_name("outbox")
            .send()
            .await
            .unwrap()
            .table
            .unwrap()
            .latest_stream_arn;
        assert!(stream.is_some());
        let queues = cloud
            .sqs_client()
            .list_queues()
            .send()
            .await
            .unwrap()
            .queue_urls;
        assert_eq!(queues.as_ref().map(Vec::len), Some(2));
        let stock = dynamodb
            .scan()
            .table_name("inventory")
            .send()
            .await
            .unwrap()
            .items;
        assert_eq!(stock.as_ref().map(Vec::len), Some(5));
        seen.push((tables, stream, queues));
    }
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test]
async fn without_stock_the_inventory_stays_empty() {
    let cloud = LocalCloud::start(Config::default()).await.unwrap();
    let done = provision(&cloud, &["--inventory-table", "shelf"]).await;
    assert!(done.status.success(), "{done:?}");
    let stock = cloud
        .dynamodb_client()
        .scan()
        .table_name("shelf")
        .send()
        .await
        .unwrap();
    assert_eq!(stock.count, 0);
}

#[tokio::test]
async fn attributes_that_an_operator_has_set_are_reported_and_left_unchanged() {
    use aws_sdk_sqs::types::QueueAttributeName::{self, MessageRetentionPeriod, RedrivePolicy};
    let cloud = LocalCloud::start(Config::default()).await.unwrap();
    let sqs = cloud.sqs_client();
    let attribute = |queue: &'static str, name: QueueAttributeName| {
        let sqs = &sqs;
        async move {
            let url = shared::aws::queue_url(sqs, queue).await.unwrap();
            let request = sqs.get_queue_attributes().queue_url(url);
            let answer = request.attribute_names(name.clone()).send().await.unwrap();
            answer.attributes.unwrap_or_default().remove(&name)
        }
    };
    let done = provision(&cloud, &[]).await;
    assert!(done.status.success(), "{done:?}");
    let retention = attribute("order-events-dlq", MessageRetentionPeriod).await;
    assert_eq!(retention.as_deref(), Some("1209600"));
    let retention = attribute("order-events", MessageRetentionPeriod).await;
    assert_eq!(retention.as_deref(), Some("604800"));
    let policy = attribute("order-events", RedrivePolicy).await.unwrap();

    let mut changed: serde_json::Value = serde_json::from_str(&policy).unwrap();
    changed["maxReceiveCount"] = 9.into();
    sqs.set_queue_attributes()
        .queue_url(shared::aws::queue_url(&sqs, "order-events").await.unwrap())
        .attributes(RedrivePolicy, changed.to_string())
        .attributes(MessageRetentionPeriod, "3600")
        .send()
        .await
        .unwrap();
    let changed = attribute("order-events", RedrivePolicy).await;
    let done = provision(&cloud, &[]).await;
    assert!(done.status.success(), "{done:?}");
    let log = format!("{done:?}");
    assert!(log.contains("MessageRetentionPeriod"), "{log}");
    assert!(log.contains("RedrivePolicy"), "{log}");
    let retention = attribute("order-events", MessageRetentionPeriod).await;
    assert_eq!(retention.as_deref(), Some("3600"));
    assert_eq!(attribute("order-events", RedrivePolicy).await, changed);
}

#[test]
fn an_invalid_table_or_queue_name_is_one_sentence_and_exit_code_64() {
    for command in ["provision", "up"] {
        for (variable, value) in [
            ("ORDERS_TABLE", "a table"),
            ("LEASES_TABLE", ""),
            ("LEASES_TABLE", "orders"),
            ("INVENTORY_TABLE", "ab"),
            ("WORKER_QUEUE", "no queue"),
            ("WORKER_QUEUE", "https://host/1/q"),
        ] {
            let output = std::process::Command::new(BINARY)
                .arg(command)
                .env("AWS_REGION", "us-east-1")
                .env(variable, value)
                .output()
                .unwrap();
            let stderr = String::from_utf8(output.stderr).unwrap();
            assert_eq!(
                output.status.code(),
                Some(64),
                "{variable}={value}: {stderr}"
            );
            assert_eq!(stderr.lines().count(), 1, "{stderr}");
        }
    }
}

/// What an existing outbox table may have that does not fit.
struct Existing {
    key: &'static str,
    projection: ProjectionType,
    view: StreamViewType,
    time_to_live: &'static str,
}

const FITTING: Existing = Existing {
    key: "aggregate_id",
    projection: ProjectionType::All,
    view: StreamViewType::NewImage,
    time_to_live: "expires_at",
};

impl Existing {
    async fn create(self, dynamodb: &aws_sdk_dynamodb::Client) {
        let attributes = [
            (self.key, ScalarAttributeType::S),
            ("sequence", ScalarAttributeType::N),
            ("state_bucket", ScalarAttributeType::S),
            ("occurred_at", ScalarAttributeType::S),
        ];
        let attributes = attributes.map(|(name, kind)| {
            let definition = AttributeDefinition::builder().attribute_name(name);
            definition.attribute_type(kind).build().unwrap()
        });
        let index = GlobalSecondaryIndex::builder()
            .index_name("by_state")
            .set_key_schema(Some(key_schema(["state_bucket", "occurred_at"])))
            .projection(
                Projection::builder()
                    .projection_type(self.projection)
                    .build(),
            )
            .build()
            .unwrap();
        let stream = StreamSpecification::builder()
            .stream_enabled(true)
            .stream_view_type(self.view)
            .build()
            .unwrap();
        dynamodb
            .create_table()
            .table_name("outbox")
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(Some(key_schema([self.key, "sequence"])))
            .set_attribute_definitions(Some(attributes.to_vec()))
            .global_secondary_indexes(index)
            .stream_specification(stream)
            .send()
            .await
            .unwrap();
        let time_to_live = TimeToLiveSpecification::builder()
            .enabled(true)
            .attribute_name(self.time_to_live)
            .build()
            .unwrap();
        dynamodb
            .update_time_to_live()
            .table_name("outbox")
            .time_to_live_specification(time_to_live)
            .send()
            .await
            .unwrap();
    }
}

fn key_schema(names: [&str; 2]) -> Vec<KeySchemaElement> {
    let keys = names.into_iter().zip([KeyType::Hash, KeyType::Range]);
    let keys = keys.map(|(name, kind)| {
        let element = KeySchemaElement::builder().attribute_name(name);
        element.key_type(kind).build().unwrap()
    });
    keys.collect()
}

#[tokio::test]
async fn a_table_that_differs_ends_provision_with_the_difference_and_what_to_do() {
    for (existing, difference, remedy) in [
        (
            Existing {
                key: "id",
                ..FITTING
            },
            "table `outbox` exists, but its key is [\"id\", \"sequence\"]",
            "delete it, or choose another name",
        ),
        (
            Existing {
                projection: ProjectionType::KeysOnly,
                ..FITTING
            },
            "table `outbox` has an index `by_state` that does not project all of event_id",
            "delete the index",
        ),
        (
            Existing {
                view: StreamViewType::KeysOnly,
                ..FITTING
            },
            "its stream has the view KEYS_ONLY; NEW_IMAGE is required",
            "--stream-specification StreamEnabled=false",
        ),
        (
            Existing {
                time_to_live: "ttl",
                ..FITTING
            },
            "its time to live is on the attribute `ttl`; `expires_at` is required",
            "--time-to-live-specification Enabled=false,AttributeName=ttl",
        ),
    ] {
        let cloud = LocalCloud::start(Config::default()).await.unwrap();
        existing.create(&cloud.dynamodb_client()).await;
        let done = provision(&cloud, &[]).await;
        let stderr = String::from_utf8(done.stderr).unwrap();
        assert!(!done.status.success(), "{stderr}");
        assert!(stderr.contains(difference), "{stderr}");
        assert!(stderr.contains(remedy), "{stderr}");
    }
}

#[tokio::test]
async fn expired_credentials_end_provision_with_what_to_do() {
    let cloud = LocalCloud::start(Config::default()).await.unwrap();
    let dynamodb = Proxy::start(cloud.dynamodb_url()).await.unwrap();
    dynamodb.rule(|_| Fault::refuse("ExpiredTokenException"));
    let done = Command::new(BINARY)
        .arg("provision")
        .envs(cloud.env())
        .env("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url())
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success(), "{stderr}");
    assert!(stderr.contains("ExpiredTokenException"), "{stderr}");
    assert!(stderr.contains("renew the credentials"), "{stderr}");
}
