//! The DynamoDB features that the outbox relies on.

use std::time::{Duration, Instant};

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::{
    AttributeValue, BatchStatementErrorCodeEnum, BatchStatementRequest, TransactWriteItem,
};
use futures::{StreamExt, stream};
use tokio::io::AsyncWriteExt;

use crate::support::{create_tables, eventually, n, put_event, put_order, s, start};

async fn write(client: &Client, items: Vec<TransactWriteItem>, token: Option<&str>) -> Vec<String> {
    let sent = client
        .transact_write_items()
        .set_transact_items(Some(items))
        .set_client_request_token(token.map(str::to_owned))
        .send()
        .await;
    match sent.map_err(SdkError::into_service_error) {
        Ok(_) => vec![],
        Err(TransactWriteItemsError::TransactionCanceledException(cancelled)) => cancelled
            .cancellation_reasons()
            .iter()
            .map(|reason| reason.code().unwrap().to_owned())
            .collect(),
        Err(TransactWriteItemsError::IdempotentParameterMismatchException(_)) => {
            vec!["mismatch".to_owned()]
        }
        Err(other) => panic!("{other:?}"),
    }
}

async fn pending(client: &Client) -> Vec<String> {
    let found = client
        .query()
        .table_name("outbox")
        .index_name("by_state")
        .key_condition_expression("state_bucket = :b")
        .expression_attribute_values(":b", s("PENDING#0"))
        .send()
        .await
        .unwrap();
    let sequence = |item: &std::collections::HashMap<String, AttributeValue>| {
        item["sequence"].as_n().unwrap().clone()
    };
    found.items().iter().map(sequence).collect()
}

#[tokio::test]
async fn sparse_index_contains_only_items_with_its_key() {
    let cloud = start().await;
    let client = cloud.dynamodb_client();
    create_tables(&client).await;
    for sequence in [2, 1, 3] {
        assert_eq!(
            write(&client, vec![put_event("o-1", sequence)], None).await,
            [] as [&str; 0]
        );
    }
    assert_eq!(
        pending(&client).await,
        ["1", "2", "3"],
        "in order of occurred_at"
    );

    client
        .update_item()
        .table_name("outbox")
        .key("aggregate_id", s("o-1"))
        .key("sequence", n(2))
        .update_expression("REMOVE state_bucket")
        .send()
        .await
        .unwrap();

    assert_eq!(pending(&client).await, ["1", "3"]);
}

#[tokio::test]
async fn cancelled_transaction_returns_reasons_in_the_order_of_its_actions() {
    let cloud = start().await;
    let client = cloud.dynamodb_client();
    create_tables(&client).await;
    assert_eq!(
        write(&client, vec![put_event("o-1", 1)], None).await,
        [] as [&str; 0]
    );

    let actions = vec![put_order("o-1"), put_event("o-1", 1), put_event("o-1", 2)];
    let reasons = write(&client, actions, None).await;

    assert_eq!(reasons, ["None", "ConditionalCheckFailed", "None"]);
    let orders = client.scan().table_name("orders").send().await.unwrap();
    assert_eq!(orders.count(), 0, "a cancelled transaction writes no item");
}

#[tokio::test]
async fn repeated_request_token_is_compared_with_its_first_request() {
    let cloud = start().await;
    let client = cloud.dynamodb_client();
    create_tables(&client).await;

    assert_eq!(
        write(&client, vec![put_order("o-1")], Some("t")).await,
        [] as [&str; 0]
    );
    // The condition would fail if it ran again.
    assert_eq!(
        write(&client, vec![put_order("o-1")], Some("t")).await,
        [] as [&str; 0]
    );
    assert_eq!(
        write(&client, vec![put_order("o-2")], Some("t")).await,
        ["mismatch"]
    );
}

#[tokio::test]
async fn token_of_a_failed_transaction_can_be_reused() {
    let cloud = start().await;
    let client = cloud.dynamodb_client();
    create_tables(&client).await;
    let place = async |id, token| write(&client, vec![put_order(id)], token).await;
    assert_eq!(place("o-1", None).await, [] as [&str; 0]);

    assert_eq!(place("o-1", Some("t")).await, ["ConditionalCheckFailed"]);
    assert_eq!(place("o-2", Some("t")).await, [] as [&str; 0]);
}

#[tokio::test]
async fn concurrent_requests_with_one_token_have_one_effect() {
    let cloud = start().await;
    let client = cloud.dynamodb_client();
    create_tables(&client).await;
    // The condition would fail if the transaction ran twice.
    let place = async || write(&client, vec![put_order("o-1")], Some("t")).await;
    for reasons in futures::future::join_all((0..20).map(|_| place())).await {
        assert_eq!(reasons, [] as [&str; 0]);
    }
}

#[tokio::test]
async fn retry_after_a_lost_response_succeeds_by_its_token() {
    let cloud = start().await;
    let client = cloud.dynamodb_client();
    create_tables(&client).await;
    let item = r#"{"order_id":{"S":"o-1"},"status":{"S":"CREATED"}}"#;
    let condition = "attribute_not_exists(order_id)";
    let put =
        format!(r#"{{"TableName":"orders","Item":{item},"ConditionExpression":"{condition}"}}"#);
    let body = format!(r#"{{"TransactItems":[{{"Put":{put}}}],"ClientRequestToken":"t"}}"#);
    let request = crate::requests::post("DynamoDB_20120810.TransactWriteItems", &body);
    let address = cloud.dynamodb_url().replace("http://", "");
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();

    let order = async || {
        let get = client
            .get_item()
            .table_name("orders")
            .key("order_id", s("o-1"));
        get.send().await.unwrap().item
    };
    eventually("the order", order).await;
    drop(stream);
    let retried = write(&client, vec![put_order("o-1")], Some("t")).await;
    assert_eq!(retried, [] as [&str; 0]);
}

#[tokio::test]
async fn batch_of_statements_updates_only_existing_pending_items() {
    let cloud = start().await;
    let client = cloud.dynamodb_client();
    create_tables(&client).await;
    for sequence in [1, 2] {
        assert_eq!(
            write(&client, vec![put_event("o-1", sequence)], None).await,
            [] as [&str; 0]
        );
    }
    let mark = |sequence: u64| {
        BatchStatementRequest::builder()
            .statement(
                r#"UPDATE "outbox" SET "status"='PUBLISHED' SET message_id=? SET expires_at=?
                   REMOVE state_bucket
                   WHERE aggregate_id=? AND "sequence"=? AND "status"='PENDING'"#,
            )
            .set_parameters(Some(vec![
                s("m-1"),
                n(1_800_000_000),
                s("o-1"),
                n(sequence),
            ]))
            .build()
            .unwrap()
    };
    let batch = async |sequences: [u64; 2]| {
        let statements = sequences.into_iter().map(mark).collect();
        let sent = client
            .batch_execute_statement()
            .set_statements(Some(statements));
        let answers = sent.send().await.unwrap().responses.unwrap();
        let code = |a: aws_sdk_dynamodb::types::BatchStatementResponse| a.error?.code;
        answers.into_iter().map(code).collect::<Vec<_>>()
    };
    let failed = Some(BatchStatementErrorCodeEnum::ConditionalCheckFailed);

    assert_eq!(
        batch([1, 9]).await,
        [None, failed.clone()],
        "9 does not exist"
    );
    assert_eq!(
        batch([1, 2]).await,
        [failed, None],
        "1 is published already"
    );

    let items = client.scan().table_name("outbox").send().await.unwrap();
    assert_eq!(items.count(), 2, "an update creates no item");
    assert!(
        items
            .items()
            .iter()
            .all(|item| item["status"] == s("PUBLISHED"))
    );
    assert_eq!(pending(&client).await, [] as [&str; 0]);
}

/// Without the index of the stream records the last parts take many times as long as the first
/// ones, because each write reads all records.
#[tokio::test(flavor = "multi_thread")]
async fn write_latency_is_independent_of_the_number_of_stream_records() {
    const PART: usize = 1_000;
    const PARTS: usize = 10;
    let cloud = start().await;
    let client = cloud.dynamodb_client();
    create_tables(&client).await;

    let mut took: Vec<Duration> = Vec::new();
    for part in 0..PARTS {
        let started = Instant::now();
        let ids = (part * PART..(part + 1) * PART).map(|i| format!("o-{i}"));
        stream::iter(ids)
            .for_each_concurrent(16, async |id| {
                let actions = vec![put_event(&id, 1), put_event(&id, 2)];
                assert_eq!(write(&client, actions, None).await, [] as [&str; 0]);
            })
            .await;
        took.push(started.elapsed());
    }
    // The fastest of several parts, because other load on the machine slows some of them.
    let early = took[..3].iter().min().unwrap();
    let late = took[PARTS - 3..].iter().min().unwrap();
    assert!(*late < *early * 3, "{took:?}");
}
