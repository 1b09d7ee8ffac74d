use aws_sdk_dynamodb::types::{StreamSpecification, StreamViewType};

use crate::support::{Stage, event, ids, text};

async fn stream(stage: &Stage, enabled: bool) {
    let specification = StreamSpecification::builder().stream_enabled(enabled);
    let specification = if enabled {
        specification.stream_view_type(StreamViewType::NewImage)
    } else {
        specification
    };
    stage
        .dynamodb
        .update_table()
        .table_name("outbox")
        .stream_specification(specification.build().unwrap())
        .send()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_the_stream_never_brought_are_published_in_order() {
    let stage = Stage::without_queue().await;
    stage.create_queue("events.fifo").await;
    stream(&stage, false).await;
    stage
        .put_all((1..=30).map(|sequence| event("a", sequence)).collect())
        .await;
    let mut bad = event("bad", 1);
    bad.insert("payload".to_owned(), text("{oops"));
    stage.put(bad).await;
    stream(&stage, true).await;
    let relay = stage
        .relay(&[
            ("RELAY_ROUTES", "*=events.fifo"),
            ("RELAY_SWEEP_INTERVAL", "500ms"),
            ("RELAY_SWEEP_AFTER", "1s"),
        ])
        .await;
    stage.until_count("PUBLISHED", 30).await;
    stage.until_status("bad", 1, "FAILED").await;
    let expected: Vec<_> = (1..=30).map(|sequence| format!("a:{sequence}")).collect();
    assert_eq!(ids(&stage.receive("events.fifo", 30).await), expected);
    let metrics = reqwest::get(relay.url("/metrics")).await.unwrap();
    let metrics = metrics.text().await.unwrap();
    let line = r#"outbox_events_published_total{path="sweep",queue="events.fifo"} 30"#;
    assert!(metrics.contains(line), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sweeper_leaves_alone_what_the_stream_brings() {
    let stage = Stage::new().await;
    let relay = stage
        .relay(&[
            ("RELAY_SWEEP_INTERVAL", "100ms"),
            ("RELAY_SWEEP_AFTER", "200ms"),
        ])
        .await;
    for n in 0..200 {
        stage.put(event(&format!("a-{n}"), 1)).await;
    }
    stage.until_count("PUBLISHED", 200).await;
    assert_eq!(stage.receive("order-events", 200).await.len(), 200);
    let metrics = reqwest::get(relay.url("/metrics")).await.unwrap();
    assert!(!metrics.text().await.unwrap().contains(r#"path="sweep""#));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_whose_predecessor_is_not_in_the_stream_waits_for_it() {
    let stage = Stage::without_queue().await;
    stage.create_queue("events.fifo").await;
    stream(&stage, false).await;
    stage.put(event("a", 1)).await;
    stream(&stage, true).await;
    stage.put(event("a", 2)).await;
    let _relay = stage
        .relay(&[
            ("RELAY_ROUTES", "*=events.fifo"),
            ("RELAY_SWEEP_INTERVAL", "500ms"),
            ("RELAY_SWEEP_AFTER", "1s"),
        ])
        .await;
    let received = ids(&stage.receive("events.fifo", 2).await);
    assert_eq!(received, ["a:1", "a:2"]);
}
