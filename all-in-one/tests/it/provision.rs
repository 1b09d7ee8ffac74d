//! `provision` against an endpoint, here the embedded cloud.

use local_cloud::{Config, LocalCloud};

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
