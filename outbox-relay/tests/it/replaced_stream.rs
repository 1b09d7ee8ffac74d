//! A table whose stream is disabled and enabled again.

use std::collections::BTreeSet;
use std::time::Duration;

use aws_sdk_dynamodb::types::StreamViewType;
use test_support::eventually;

use crate::support::{Stage, event, string, until_answer};

/// Longer than the interval at which relays look the stream up.
const FOUND_WITHIN: Duration = Duration::from_secs(90);

/// Longer than three regular listings, one a minute, after which the leases of the previous stream
/// are deleted.
const DELETED_WITHIN: Duration = Duration::from_secs(240);

impl Stage {
    /// Returns the streams that lease items belong to.
    async fn leased_streams(&self) -> BTreeSet<String> {
        let leases = self.leases().await;
        let partitions = leases.iter().filter_map(|lease| string(lease, "stream"));
        let streams = partitions.filter_map(|partition| {
            let stream = partition.split('|').nth(1)?;
            Some(stream.to_owned())
        });
        streams.collect()
    }

    async fn publish(&self, sequence: u64) {
        self.put(event("a", sequence)).await;
        self.until_status("a", sequence, "PUBLISHED").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the leases are deleted after more than three minutes"]
async fn the_leases_of_a_replaced_stream_are_deleted() {
    let stage = Stage::new().await;
    let mut relays = Vec::new();
    for name in ["relay-1", "relay-2"] {
        let options = [
            ("RELAY_INSTANCE_ID", name),
            ("RELAY_LEASE_DURATION", "2s"),
            ("RELAY_SWEEP_AFTER", "1s"),
            ("RELAY_SWEEP_INTERVAL", "500ms"),
        ];
        relays.push(stage.relay(&options).await);
    }
    stage.publish(1).await;
    let old = stage.leased_streams().await;
    assert_eq!(old.len(), 1, "{old:?}");

    stage.set_stream(None).await;
    // No stream has the record of this one.
    stage.put(event("a", 2)).await;
    stage.set_stream(Some(StreamViewType::NewImage)).await;
    stage.put(event("a", 3)).await;
    let published = eventually(FOUND_WITHIN, || async {
        match stage.count("PUBLISHED").await {
            3 => Ok(()),
            count => Err(count),
        }
    });
    published.await.unwrap();
    let new = eventually(DELETED_WITHIN, || async {
        let streams = stage.leased_streams().await;
        if streams.is_disjoint(&old) && streams.len() == 1 {
            Ok(streams)
        } else {
            Err(streams)
        }
    });
    new.await.unwrap();
    stage.publish(4).await;
    for relay in &relays {
        until_answer(relay, "/readyz", 200, "").await;
    }
}
