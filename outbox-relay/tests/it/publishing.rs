use std::collections::HashMap;

use shared::provision::{self, Table};

use crate::support::{Stage, event, ids, string, text, until_answer};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread")]
async fn an_event_becomes_a_message_and_is_marked() {
    let stage = Stage::new().await;
    let _relay = stage.relay(&[]).await;
    let mut item = event("o-1", 1);
    item.insert("payload".to_owned(), text(r#"{ "total": 1.50 }"#));
    item.insert("traceparent".to_owned(), text(TRACEPARENT));
    item.insert("tracestate".to_owned(), text("vendor=1"));
    let occurred_at = string(&item, "occurred_at").unwrap().to_owned();
    stage.put(item).await;

    let messages = stage.receive("order-events", 1).await;
    assert_eq!(
        messages[0].body().unwrap(),
        format!(
            r#"{{"specversion":"1.0","id":"o-1:1","source":"/orders","type":"order.placed","subject":"o-1","time":"{occurred_at}","datacontenttype":"application/json","sequence":"00000000000000000001","data":{{ "total": 1.50 }}}}"#
        )
    );
    let attributes: HashMap<_, _> = messages[0]
        .message_attributes()
        .unwrap()
        .iter()
        .map(|(name, value)| (name.as_str(), value.string_value().unwrap()))
        .collect();
    assert_eq!(
        attributes,
        HashMap::from([
            ("event_id", "o-1:1"),
            ("event_type", "order.placed"),
            ("traceparent", TRACEPARENT),
            ("tracestate", "vendor=1"),
        ])
    );

    let item = stage.until_status("o-1", 1, "PUBLISHED").await;
    assert_eq!(string(&item, "message_id"), messages[0].message_id());
    assert!(!item.contains_key("state_bucket"));
    let published_at: outbox::timestamp::Timestamp =
        string(&item, "published_at").unwrap().parse().unwrap();
    let expires_at: i64 = item["expires_at"].as_n().unwrap().parse().unwrap();
    let kept = expires_at - published_at.as_seconds();
    assert!((7 * 86_400..7 * 86_400 + 30).contains(&kept), "{kept} s");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_older_than_the_relay_are_published() {
    let stage = Stage::new().await;
    stage
        .put_all((0..250).map(|n| event(&format!("o-{n}"), 1)).collect())
        .await;
    let _relay = stage.relay(&[]).await;
    stage.until_count("PUBLISHED", 250).await;
    let mut received = ids(&stage.receive("order-events", 250).await);
    received.sort();
    received.dedup();
    assert_eq!(received.len(), 250);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifo_queue_receives_each_aggregate_in_sequence_order() {
    let stage = Stage::without_queue().await;
    stage.create_queue("events.fifo").await;
    // The order of the writes mixes aggregates, also within a batch.
    let events = (1..=20)
        .flat_map(|sequence| (0..15).map(move |n| event(&format!("a-{n}"), sequence)))
        .collect();
    stage.put_all(events).await;
    let _relay = stage.relay(&[("RELAY_ROUTES", "*=events.fifo")]).await;
    stage.until_count("PUBLISHED", 300).await;
    let mut last: HashMap<String, u64> = HashMap::new();
    for id in ids(&stage.receive("events.fifo", 300).await) {
        let (aggregate, sequence) = id.split_once(':').unwrap();
        let sequence: u64 = sequence.parse().unwrap();
        let before = last.insert(aggregate.to_owned(), sequence).unwrap_or(0);
        assert_eq!(sequence, before + 1, "{aggregate}");
    }
    assert!(last.values().all(|sequence| *sequence == 20));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_tables_with_equal_ids_feed_one_fifo_queue() {
    let stage = Stage::without_queue().await;
    stage.create_queue("events.fifo").await;
    let invoices = [Table::outbox("invoices")];
    provision::tables(&stage.dynamodb, invoices).await.unwrap();
    let events: Vec<_> = (0..100).map(|n| event(&format!("a-{n}"), 1)).collect();
    for item in &events {
        let put = stage.dynamodb.put_item().table_name("invoices");
        put.set_item(Some(item.clone())).send().await.unwrap();
    }
    stage.put_all(events).await;
    let routes = ("RELAY_ROUTES", "*=events.fifo");
    let _orders = stage.relay(&[routes]).await;
    let _invoices = stage.relay(&[routes, ("OUTBOX_TABLE", "invoices")]).await;

    let mut received = ids(&stage.receive("events.fifo", 200).await);
    received.sort();
    for pair in received.chunks(2) {
        assert_eq!(pair[0], pair[1], "one of each table");
    }
    assert_eq!(received.len(), 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_go_to_the_queue_of_their_route() {
    let stage = Stage::new().await;
    let url = stage.create_queue("stock").await;
    let routes = format!("stock.*={url},order.*=order-events");
    let _relay = stage.relay(&[("RELAY_ROUTES", &routes)]).await;
    let mut moved = event("s-1", 1);
    moved.insert("event_type".to_owned(), text("stock.moved"));
    stage.put(moved).await;
    stage.put(event("o-1", 1)).await;
    assert_eq!(ids(&stage.receive("stock", 1).await), ["s-1:1"]);
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["o-1:1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_state_bucket_is_published_from_the_stream() {
    let stage = Stage::new().await;
    let _relay = stage.relay(&[]).await;
    let mut item = event("o-1", 1);
    item.remove("state_bucket");
    item.remove("event_id");
    stage.put(item).await;
    assert_eq!(ids(&stage.receive("order-events", 1).await), ["o-1:1"]);
    stage.until_status("o-1", 1, "PUBLISHED").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_published_events() {
    let stage = Stage::new().await;
    let relay = stage.relay(&[]).await;
    stage.put(event("o-1", 1)).await;
    stage.until_status("o-1", 1, "PUBLISHED").await;
    // The last of the counts.
    until_answer(&relay, "/metrics", 200, "\noutbox_failed_events ").await;
    let metrics = reqwest::get(relay.url("/metrics"))
        .await
        .unwrap()
        .text()
        .await
        .unwrap();
    for line in [
        r#"outbox_events_published_total{path="stream",queue="order-events"} 1"#,
        "outbox_stream_gaps_total 0",
        "outbox_leases_lost_total 0",
        "outbox_checkpoint_failures_total 0",
        "outbox_shards_held 1",
        "outbox_publish_lag_seconds_count 1",
        "outbox_shard_progress_seconds ",
        "outbox_pending_events ",
        "outbox_oldest_pending_seconds ",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}
