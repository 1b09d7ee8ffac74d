//! An outbox table that was restored from a backup under a new name: it has its items and its
//! index, and no stream and no time to live ("Restoring tables" in docs/operations.md).

use aws_sdk_dynamodb::types::{StreamSpecification, TimeToLiveSpecification, TimeToLiveStatus};
use shared::provision::{self, Table};
use test_support::eventually;

use crate::support::{DEADLINE, Item, Stage, event, ids, string, text, until_answer};

const RESTORED: &str = "outbox-restored";

impl Stage {
    /// Creates the table `RESTORED` with `items`, as DynamoDB restores it.
    async fn restore(&self, items: Vec<Item>) {
        let tables = [Table::outbox(RESTORED)];
        provision::tables(&self.dynamodb, tables).await.unwrap();
        let no_stream = StreamSpecification::builder().stream_enabled(false);
        self.dynamodb
            .update_table()
            .table_name(RESTORED)
            .stream_specification(no_stream.build().unwrap())
            .send()
            .await
            .unwrap();
        let no_expiry = TimeToLiveSpecification::builder()
            .enabled(false)
            .attribute_name("expires_at")
            .build()
            .unwrap();
        self.dynamodb
            .update_time_to_live()
            .table_name(RESTORED)
            .time_to_live_specification(no_expiry)
            .send()
            .await
            .unwrap();
        for item in items {
            self.put_restored(item).await;
        }
    }

    async fn put_restored(&self, item: Item) {
        let put = self.dynamodb.put_item().table_name(RESTORED);
        put.set_item(Some(item)).send().await.unwrap();
    }

    async fn expiry(&self) -> Option<TimeToLiveStatus> {
        let described = self.dynamodb.describe_time_to_live().table_name(RESTORED);
        let described = described.send().await.unwrap();
        described.time_to_live_description?.time_to_live_status
    }

    async fn until_all_published(&self, count: usize) {
        let published = eventually(DEADLINE, || async {
            let scanned = self.dynamodb.scan().table_name(RESTORED);
            let items = scanned.send().await.unwrap().items.unwrap_or_default();
            let published = items
                .iter()
                .filter(|item| string(item, "status") == Some("PUBLISHED"));
            match published.count() {
                found if found == count => Ok(()),
                _ => Err(items),
            }
        });
        published.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_table_is_published_once_it_is_provisioned_by_any_group() {
    for (group, gaps) in [("default", 1), ("another", 0)] {
        let stage = Stage::new().await;
        // The group reads the table that is restored later.
        let mut before = stage.relay(&[]).await;
        stage.put(event("a", 1)).await;
        let published = stage.until_status("a", 1, "PUBLISHED").await;
        assert_eq!(ids(&stage.receive("order-events", 1).await), ["a:1"]);
        assert!(before.terminate().await.unwrap().success());

        // In the backup, b:1 was published and c:1 was not.
        let mut settled = published;
        settled.insert("aggregate_id".to_owned(), text("b"));
        stage.restore(vec![settled, event("c", 1)]).await;
        let options = [
            ("OUTBOX_TABLE", RESTORED),
            ("RELAY_CONSUMER_GROUP", group),
            ("RELAY_SWEEP_AFTER", "1s"),
            ("RELAY_SWEEP_INTERVAL", "500ms"),
        ];
        let relay = stage.relay(&options).await;
        let missing = "has no stream; `all-in-one provision` enables one";
        until_answer(&relay, "/readyz", 503, missing).await;

        let tables = [Table::outbox(RESTORED)];
        provision::tables(&stage.dynamodb, tables).await.unwrap();
        assert_eq!(stage.expiry().await, Some(TimeToLiveStatus::Enabled));
        until_answer(&relay, "/readyz", 200, "").await;
        stage.put_restored(event("d", 1)).await;
        stage.until_all_published(3).await;
        let mut sent = ids(&stage.receive("order-events", 2).await);
        sent.sort();
        assert_eq!(sent, ["c:1", "d:1"], "{group}");
        let counted = format!("outbox_stream_gaps_total {gaps}");
        until_answer(&relay, "/metrics", 200, &counted).await;
    }
}
