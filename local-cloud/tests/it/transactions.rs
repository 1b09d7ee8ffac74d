//! Conflicts of writes with running transactions.

use std::time::Duration;

use aws_sdk_dynamodb::error::ProvideErrorMetadata;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    BatchStatementErrorCodeEnum, BatchStatementRequest, CancellationReason, Delete, DeleteRequest,
    Get, PutRequest, TransactGetItem, TransactWriteItem, Update, WriteRequest,
};
use aws_sdk_dynamodb::{Client, config};
use local_cloud::{Config, Fidelity, LocalCloud};

use crate::support::{create_tables, eventually, n, put_event, put_order, s};

/// Far longer than any request here takes.
const HELD: Duration = Duration::from_secs(5);

async fn start(transaction_time: Option<Duration>) -> (LocalCloud, Client) {
    let config = Config {
        fidelity: Fidelity {
            transaction_time,
            ..Fidelity::default()
        },
        ..Config::default()
    };
    let cloud = LocalCloud::start(config).await.unwrap();
    let client = once(&cloud);
    create_tables(&client).await;
    (cloud, client)
}

/// Returns a client that sends each request once.
fn once(cloud: &LocalCloud) -> Client {
    let builder = config::Builder::from(&cloud.sdk_config());
    let builder = builder.retry_config(config::retry::RetryConfig::disabled());
    Client::from_conf(builder.endpoint_url(cloud.dynamodb_url()).build())
}

/// Starts a transaction that holds order `o-1` and event 1 of aggregate `o-1`, and waits until it
/// does. The caller awaits the returned task.
async fn hold(client: &Client) -> tokio::task::JoinHandle<()> {
    let transaction = client
        .transact_write_items()
        .transact_items(put_order("o-1"))
        .transact_items(put_event("o-1", 1))
        .client_request_token("first");
    let running = tokio::spawn(async move {
        transaction.send().await.unwrap();
    });
    let held = async || conflict_of_update(client, "o-1").await;
    eventually("the transaction to hold its items", held).await;
    running
}

/// Returns the code of the error of an update of an order that has no effect.
async fn conflict_of_update(client: &Client, order_id: &str) -> Option<()> {
    let update = client.update_item().table_name("orders");
    let update = update
        .key("order_id", s(order_id))
        .update_expression("SET a = :a")
        .condition_expression("attribute_exists(absent)")
        .expression_attribute_values(":a", s("a"));
    let error = update.send().await.unwrap_err().into_service_error();
    error.is_transaction_conflict_exception().then_some(())
}

fn codes(reasons: &[CancellationReason]) -> Vec<&str> {
    reasons
        .iter()
        .filter_map(CancellationReason::code)
        .collect()
}

fn update_event(sequence: &str) -> TransactWriteItem {
    let update = Update::builder()
        .table_name("outbox")
        .key("aggregate_id", s("o-1"))
        .key("sequence", n(sequence))
        .update_expression("SET a = :a")
        .expression_attribute_values(":a", s("a"))
        .build()
        .unwrap();
    TransactWriteItem::builder().update(update).build()
}

#[tokio::test]
async fn transaction_is_cancelled_by_another_one_on_its_items() {
    let (_cloud, client) = start(Some(HELD)).await;
    let running = hold(&client).await;

    let other = client
        .transact_write_items()
        .transact_items(put_order("o-2"))
        // Another form of the same number.
        .transact_items(update_event("1.0"));
    let error = other.send().await.unwrap_err().into_service_error();

    let TransactWriteItemsError::TransactionCanceledException(cancelled) = error else {
        panic!("{error:?}");
    };
    let reasons = cancelled.cancellation_reasons();
    assert_eq!(codes(reasons), ["None", "TransactionConflict"]);
    assert_eq!(
        reasons[1].message(),
        Some("Transaction is ongoing for the item")
    );
    running.await.unwrap();
    // It was cancelled as a whole, and the first one was not.
    let orders = client.scan().table_name("orders").send().await.unwrap();
    assert_eq!(orders.count(), 1);
    let again = client
        .transact_write_items()
        .transact_items(put_order("o-2"))
        .transact_items(update_event("1"));
    again.send().await.unwrap();
}

#[tokio::test]
async fn single_writes_of_an_item_fail_while_a_transaction_holds_it() {
    let (_cloud, client) = start(Some(HELD)).await;
    let running = hold(&client).await;

    let put = client
        .put_item()
        .table_name("orders")
        .item("order_id", s("o-1"));
    let error = put.send().await.unwrap_err().into_service_error();
    assert!(error.is_transaction_conflict_exception(), "{error:?}");
    assert_eq!(error.message(), Some("Transaction is ongoing for the item"));
    let delete = client
        .delete_item()
        .table_name("outbox")
        .key("aggregate_id", s("o-1"))
        .key("sequence", n(1));
    let error = delete.send().await.unwrap_err().into_service_error();
    assert!(error.is_transaction_conflict_exception(), "{error:?}");
    let statement = client
        .execute_statement()
        .statement("DELETE FROM orders WHERE order_id='o-1'");
    let error = statement.send().await.unwrap_err().into_service_error();
    assert!(error.is_transaction_conflict_exception(), "{error:?}");

    // Other items and reads are not affected.
    let put = client.put_item().table_name("orders");
    put.item("order_id", s("o-2")).send().await.unwrap();
    let get = client.get_item().table_name("orders");
    let read = get.key("order_id", s("o-1")).consistent_read(true);
    assert_eq!(read.send().await.unwrap().item, None, "not executed yet");
    running.await.unwrap();
    let put = client.put_item().table_name("orders");
    put.item("order_id", s("o-1")).send().await.unwrap();
}

#[tokio::test]
async fn transactional_read_of_a_held_item_is_cancelled() {
    let (_cloud, client) = start(Some(HELD)).await;
    let running = hold(&client).await;

    let get = |order_id: &str| {
        let get = Get::builder()
            .table_name("orders")
            .key("order_id", s(order_id));
        let get = get.build().unwrap();
        TransactGetItem::builder().get(get).build()
    };
    let read = client.transact_get_items();
    let read = read.transact_items(get("o-1")).transact_items(get("o-2"));
    let error = read.send().await.unwrap_err().into_service_error();
    assert!(error.is_transaction_canceled_exception(), "{error:?}");
    running.await.unwrap();
}

#[tokio::test]
async fn statement_of_a_batch_fails_by_itself() {
    let (_cloud, client) = start(Some(HELD)).await;
    for sequence in [2, 3] {
        let event = client.transact_write_items();
        let event = event.transact_items(put_event("o-1", sequence));
        event.send().await.unwrap();
    }
    let running = hold(&client).await;

    let statement = |sequence: u64| {
        let text = r#"UPDATE "outbox" SET a=? WHERE aggregate_id=? AND "sequence"=?"#;
        BatchStatementRequest::builder()
            .statement(text)
            .set_parameters(Some(vec![s("a"), s("o-1"), n(sequence)]))
            .build()
            .unwrap()
    };
    let batch = async |sequences: &[u64]| {
        let statements = sequences.iter().copied().map(statement).collect();
        let batch = client
            .batch_execute_statement()
            .set_statements(Some(statements));
        let responses = batch.send().await.unwrap().responses.unwrap();
        let code = |response: aws_sdk_dynamodb::types::BatchStatementResponse| {
            response.error.and_then(|error| error.code)
        };
        responses.into_iter().map(code).collect::<Vec<_>>()
    };
    let conflict = Some(BatchStatementErrorCodeEnum::TransactionConflict);
    assert_eq!(batch(&[2, 1, 3]).await, [None, conflict.clone(), None]);
    assert_eq!(batch(&[1]).await, [conflict]);
    running.await.unwrap();
    assert_eq!(batch(&[1, 2]).await, [None, None]);
}

#[tokio::test]
async fn write_of_a_batch_is_left_unprocessed() {
    let (_cloud, client) = start(Some(HELD)).await;
    let running = hold(&client).await;

    let put = |order_id: &str| {
        let put = PutRequest::builder().item("order_id", s(order_id));
        let put = put.build().unwrap();
        WriteRequest::builder().put_request(put).build()
    };
    let delete = DeleteRequest::builder().key("aggregate_id", s("o-1"));
    let delete = delete.key("sequence", n(1)).build().unwrap();
    let delete = WriteRequest::builder().delete_request(delete).build();
    let batch = client
        .batch_write_item()
        .request_items("orders", vec![put("o-2"), put("o-1"), put("o-3")])
        .request_items("outbox", vec![delete.clone()]);
    let unprocessed = batch.send().await.unwrap().unprocessed_items.unwrap();
    assert_eq!(unprocessed["orders"], [put("o-1")]);
    assert_eq!(unprocessed["outbox"], [delete]);
    let orders = client.scan().table_name("orders").send().await.unwrap();
    assert_eq!(orders.count(), 2);

    running.await.unwrap();
    let batch = client
        .batch_write_item()
        .set_request_items(Some(unprocessed));
    let unprocessed = batch.send().await.unwrap().unprocessed_items;
    assert!(unprocessed.unwrap_or_default().is_empty());
}

#[tokio::test]
async fn token_of_a_running_transaction_is_in_progress() {
    let (_cloud, client) = start(Some(HELD)).await;
    let running = hold(&client).await;

    let same = client
        .transact_write_items()
        .transact_items(put_order("o-1"))
        .transact_items(put_event("o-1", 1))
        .client_request_token("first");
    let error = same.clone().send().await.unwrap_err().into_service_error();
    assert!(error.is_transaction_in_progress_exception(), "{error:?}");
    running.await.unwrap();
    same.send().await.unwrap();
}

#[tokio::test]
async fn transaction_that_fails_holds_its_items_no_longer() {
    let (_cloud, client) = start(Some(Duration::ZERO)).await;
    for _ in 0..3 {
        let absent = Delete::builder()
            .table_name("orders")
            .key("order_id", s("o-1"))
            .condition_expression("attribute_exists(order_id)")
            .build()
            .unwrap();
        let delete = TransactWriteItem::builder().delete(absent).build();
        let sent = client.transact_write_items().transact_items(delete);
        let error = sent.send().await.unwrap_err().into_service_error();
        let code = error.message().unwrap_or_default();
        assert!(code.contains("ConditionalCheckFailed"), "{error:?}");
    }
}

#[tokio::test]
async fn concurrent_transactions_on_one_item_conflict_only_if_enabled() {
    for (transaction_time, conflicts) in [(None, false), (Some(Duration::from_millis(12)), true)] {
        let (_cloud, client) = start(transaction_time).await;
        let update = async || {
            let sent = client.transact_write_items();
            sent.transact_items(update_event("7")).send().await
        };
        let sent = futures::future::join_all((0..20).map(|_| update())).await;
        let failed = sent.iter().filter(|sent| sent.is_err()).count();
        assert_eq!(
            failed > 0,
            conflicts,
            "{transaction_time:?}: {failed} of 20"
        );
        assert!(failed < 20);
    }
}
