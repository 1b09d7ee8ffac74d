//! The lease table in the embedded cloud: the conditions of its writes.

use std::time::Duration;

use outbox::timestamp::Timestamp;
use outbox_store::dynamodb::DynamoDbLeaseTable;
use outbox_store::{Lease, LeaseError, LeaseTable, ShardId, maintenance_id, member_id};

use crate::support::Stage;

const OLD: &str = "arn:aws:dynamodb:us-east-1:1:table/outbox/stream/1";
const STREAM: &str = "arn:aws:dynamodb:us-east-1:1:table/outbox/stream/2";

fn leases(stage: &Stage, group: &str) -> DynamoDbLeaseTable {
    let duration = Duration::from_secs(10);
    DynamoDbLeaseTable::new(
        &stage.dynamodb,
        "relay_leases".to_owned(),
        group.to_owned(),
        duration,
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn the_previous_stream_is_remembered_until_it_is_forgotten() {
    let stage = Stage::without_queue().await;
    let table = leases(&stage, "default");
    assert_eq!(table.register_stream(OLD).await, Ok(None));
    assert_eq!(table.register_stream(OLD).await, Ok(None));
    let changed = table.register_stream(STREAM).await;
    assert_eq!(changed, Ok(Some(OLD.to_owned())));
    assert_eq!(table.register_stream(STREAM).await, Ok(None));
    assert_eq!(table.previous_stream().await, Ok(Some(OLD.to_owned())));
    table.forget_previous_stream("another").await.unwrap();
    assert_eq!(table.previous_stream().await, Ok(Some(OLD.to_owned())));
    table.forget_previous_stream(OLD).await.unwrap();
    assert_eq!(table.previous_stream().await, Ok(None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_registered_for_one_group_whatever_its_stream() {
    let stage = Stage::without_queue().await;
    let (first, second) = (leases(&stage, "first"), leases(&stage, "second"));
    assert_eq!(first.register_group(OLD, None).await, Ok(None));
    assert_eq!(first.register_group(STREAM, None).await, Ok(None));
    let registered = Ok(Some("first".to_owned()));
    assert_eq!(second.register_group(STREAM, None).await, registered);
    assert_eq!(
        second.register_group(STREAM, Some("third")).await,
        registered
    );
    assert_eq!(second.register_group(STREAM, Some("first")).await, Ok(None));
    let registered = Ok(Some("second".to_owned()));
    assert_eq!(first.register_group(STREAM, None).await, registered);

    let lease = Lease::unread(maintenance_id(), None);
    let member = Lease::unread(member_id("a"), None);
    first.create(STREAM, &lease).await.unwrap();
    first.create(STREAM, &member).await.unwrap();
    let of_first = second.list_of_group(STREAM, "first").await.unwrap();
    assert_eq!(of_first.leases.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_was_renewed_meanwhile_is_not_deleted() {
    let stage = Stage::without_queue().await;
    let table = leases(&stage, "default");
    let seen = Lease {
        owner: Some("a".to_owned()),
        ..Lease::unread(ShardId("shardId-1".into()), None)
    };
    table.create(STREAM, &seen).await.unwrap();
    let renewed = Lease {
        heartbeat: 1,
        ..seen.clone()
    };
    table.renew(STREAM, "a", &renewed).await.unwrap();
    let refused = table.remove(STREAM, &seen).await;
    assert!(matches!(refused, Err(LeaseError::Lost(_))), "{refused:?}");
    table.remove(STREAM, &renewed).await.unwrap();
    assert!(table.list(STREAM, None).await.unwrap().leases.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_of_an_unlisted_shard_survives_renewals_and_can_be_withdrawn() {
    let stage = Stage::without_queue().await;
    let table = leases(&stage, "default");
    let lease = Lease {
        owner: Some("a".to_owned()),
        ..Lease::unread(ShardId("shardId-1".into()), None)
    };
    let at = Some(Timestamp::from_millis(1_000));
    let missing = table.mark_unlisted(STREAM, &lease.shard, at).await;
    assert!(matches!(missing, Err(LeaseError::Lost(_))), "{missing:?}");
    table.create(STREAM, &lease).await.unwrap();
    table.mark_unlisted(STREAM, &lease.shard, at).await.unwrap();
    let renewed = Lease {
        heartbeat: 1,
        ..lease.clone()
    };
    table.renew(STREAM, "a", &renewed).await.unwrap();
    let stored = async || table.list(STREAM, None).await.unwrap().leases.remove(0);
    assert_eq!(stored().await.unlisted_at, at);
    table
        .mark_unlisted(STREAM, &lease.shard, None)
        .await
        .unwrap();
    assert_eq!(stored().await.unlisted_at, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_listing_reaches_the_holder_of_the_maintenance_lease_once() {
    let stage = Stage::without_queue().await;
    let table = leases(&stage, "default");
    table.request_listing(STREAM).await.unwrap();
    assert!(table.list(STREAM, None).await.unwrap().leases.is_empty());
    let mut lease = Lease {
        owner: Some("a".to_owned()),
        ..Lease::unread(maintenance_id(), None)
    };
    table.create(STREAM, &lease).await.unwrap();
    table.request_listing(STREAM).await.unwrap();
    lease.heartbeat = 1;
    let requests = table.renew(STREAM, "a", &lease).await.unwrap();
    assert!(requests.listing.is_some());
    let seen = lease.clone();
    lease.epoch = 1;
    lease.heartbeat = 2;
    table.acquire(STREAM, &seen, &lease).await.unwrap();
    lease.heartbeat = 3;
    let requests = table.renew(STREAM, "a", &lease).await.unwrap();
    assert_eq!(
        requests.listing, None,
        "the next holder lists the stream anyway"
    );
}
