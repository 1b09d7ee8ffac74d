//! Invalid requests: they are rejected, and the services continue.

use aws_sdk_sqs::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_sqs::types::{
    ChangeMessageVisibilityBatchRequestEntry, MessageAttributeValue, QueueAttributeName,
    SendMessageBatchRequestEntry,
};
use local_cloud::LocalCloud;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::start;

/// Sends `request` unchanged and returns the status line.
async fn raw(url: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap())
        .await
        .unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    answer.lines().next().unwrap_or_default().to_owned()
}

pub(crate) fn post(target: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-amz-target: {target}\r\n\
         content-type: application/x-amz-json-1.0\r\n\
         authorization: AWS4-HMAC-SHA256 Credential=local, SignedHeaders=host, Signature=0\r\n\
         x-amz-date: 20260101T000000Z\r\ncontent-length: {length}\r\n\r\n{body}"
    )
}

fn error_code<E: ProvideErrorMetadata, R>(error: &SdkError<E, R>) -> &str {
    error.code().unwrap_or_default()
}

async fn create_queue(client: &aws_sdk_sqs::Client) -> String {
    let created = client.create_queue().queue_name("q").send().await;
    created.unwrap().queue_url.unwrap()
}

async fn assert_serves(cloud: &LocalCloud) {
    cloud.dynamodb_client().list_tables().send().await.unwrap();
    cloud.sqs_client().list_queues().send().await.unwrap();
}

#[tokio::test]
async fn malformed_requests_are_rejected_and_the_services_continue() {
    let cloud = start().await;
    let deep = format!("{}{}", "[".repeat(20_000), "]".repeat(20_000));
    let unpaired = r#"{"TableName":"\ud800","QueueUrl":"\ud800"}"#;
    let wrong_types = r#"{"TableName":1,"QueueName":1,"Attributes":[]}"#;
    let bodies = ["", "{", "null", "[]", "\0", unpaired, wrong_types, &deep];
    for (url, targets) in [
        (
            cloud.dynamodb_url(),
            [
                "DynamoDB_20120810.GetItem",
                "DynamoDBStreams_20120810.GetRecords",
                "X.Y",
            ],
        ),
        (
            cloud.sqs_url(),
            [
                "AmazonSQS.CreateQueue",
                "AmazonSQS.SendMessageBatch",
                "AmazonSQS.X",
            ],
        ),
    ] {
        for target in targets {
            for body in bodies {
                let status = raw(&url, &post(target, body)).await;
                assert!(
                    status.starts_with("HTTP/1.1 4"),
                    "{target} {body:.40?}: {status}"
                );
            }
        }
        for request in ["\u{1}\u{2}\r\n\r\n", "POST / HTTP/9.9\r\n\r\n"] {
            let status = raw(&url, request).await;
            assert!(status.starts_with("HTTP/1.1 400"), "{request:?}: {status}");
        }
    }
    assert_serves(&cloud).await;
}

#[tokio::test]
async fn visibility_timeout_out_of_bounds_is_rejected() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let queue = create_queue(&client).await;
    client
        .send_message()
        .queue_url(&queue)
        .message_body("m")
        .send()
        .await
        .unwrap();

    for seconds in [i32::MIN, -1, 43_201, i32::MAX] {
        let receive = client.receive_message().queue_url(&queue);
        let error = receive
            .visibility_timeout(seconds)
            .send()
            .await
            .unwrap_err();
        assert_eq!(error_code(&error), "InvalidParameterValue");
    }
    let receive = client
        .receive_message()
        .queue_url(&queue)
        .visibility_timeout(43_200);
    let mut received = receive.send().await.unwrap().messages.unwrap();
    let handle = received.pop().unwrap().receipt_handle.unwrap();
    for seconds in [i32::MIN, -1, 43_201, i32::MAX] {
        let change = client.change_message_visibility().queue_url(&queue);
        let change = change.receipt_handle(&handle).visibility_timeout(seconds);
        assert_eq!(
            error_code(&change.send().await.unwrap_err()),
            "InvalidParameterValue"
        );
        let entry = ChangeMessageVisibilityBatchRequestEntry::builder()
            .id("e")
            .receipt_handle(&handle)
            .visibility_timeout(seconds)
            .build()
            .unwrap();
        let change = client
            .change_message_visibility_batch()
            .queue_url(&queue)
            .entries(entry);
        assert_eq!(
            error_code(&change.send().await.unwrap_err()),
            "InvalidParameterValue"
        );
    }

    client
        .delete_message()
        .queue_url(&queue)
        .receipt_handle(handle)
        .send()
        .await
        .unwrap();
}

#[tokio::test]
async fn unknown_next_token_is_rejected() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    for token in [usize::MAX.to_string(), "-1".to_owned(), "x".to_owned()] {
        let error = client.list_queues().next_token(token).send().await;
        assert_eq!(error_code(&error.unwrap_err()), "InvalidParameterValue");
    }
}

#[tokio::test]
async fn redrive_policy_requires_a_count_from_1_to_1000() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let create = async |name: &str, count: &str| {
        let arn = "arn:aws:sqs:us-east-1:000000000000:dlq";
        let policy = format!(r#"{{"deadLetterTargetArn":"{arn}","maxReceiveCount":{count}}}"#);
        let create = client.create_queue().queue_name(name);
        create
            .attributes(QueueAttributeName::RedrivePolicy, policy)
            .send()
            .await
    };

    for (i, count) in ["1", "1000", r#""1""#, r#""1000""#].iter().enumerate() {
        create(&format!("q-{i}"), count).await.unwrap();
    }
    for count in [
        "0",
        "1001",
        "-1",
        r#""0""#,
        r#""many""#,
        "null",
        "1.5",
        "4294967296",
    ] {
        let error = create("rejected", count).await.unwrap_err();
        assert_eq!(error_code(&error), "InvalidParameterValue", "{count}");
    }
}

#[tokio::test]
async fn batch_over_1_mebibyte_is_rejected() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let queue = create_queue(&client).await;
    let send = async |extra: usize| {
        let entry = |i: usize| {
            let length = 131_072 + if i == 0 { extra } else { 0 };
            SendMessageBatchRequestEntry::builder()
                .id(i.to_string())
                .message_body("x".repeat(length))
                .build()
                .unwrap()
        };
        let send = client.send_message_batch().queue_url(&queue);
        send.set_entries(Some((0..8).map(entry).collect()))
            .send()
            .await
    };

    assert_eq!(send(0).await.unwrap().successful().len(), 8);
    let error = send(1).await.unwrap_err();
    assert!(error.into_service_error().is_batch_request_too_long());
}

#[tokio::test]
async fn characters_that_sqs_rejects_are_rejected() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let queue = create_queue(&client).await;
    let entry = |i: usize, body: &str| {
        SendMessageBatchRequestEntry::builder()
            .id(i.to_string())
            .message_body(body)
            .build()
            .unwrap()
    };
    let invalid = [
        "\0", "a\u{8}", "\u{b}", "\u{c}", "\u{e}", "\u{1f}", "\u{fffe}", "\u{ffff}",
    ];
    for body in invalid {
        let send = client.send_message().queue_url(&queue).message_body(body);
        let error = send.send().await.unwrap_err().into_service_error();
        assert!(error.is_invalid_message_contents(), "{body:?}: {error:?}");
    }
    let value = MessageAttributeValue::builder()
        .data_type("String")
        .string_value("\u{1}");
    let send = client.send_message().queue_url(&queue).message_body("m");
    let send = send.message_attributes("tracestate", value.build().unwrap());
    let error = send.send().await.unwrap_err().into_service_error();
    assert!(error.is_invalid_message_contents());

    let entries = invalid.iter().enumerate().map(|(i, body)| entry(i, body));
    let valid = entry(9, "\t\n\r \u{d7ff}\u{e000}\u{fffd}\u{10000}\u{10ffff}");
    let batch = |entries| {
        let send = client.send_message_batch().queue_url(&queue);
        send.set_entries(Some(entries)).send()
    };
    let answer = batch(entries.clone().chain([valid]).collect())
        .await
        .unwrap();
    let ids: Vec<_> = answer.successful().iter().map(|entry| entry.id()).collect();
    assert_eq!(ids, ["9"]);
    let codes: Vec<_> = answer.failed().iter().map(|entry| entry.code()).collect();
    assert_eq!(codes, ["InvalidMessageContents"; 8]);
    let answer = batch(entries.collect()).await.unwrap();
    assert_eq!((answer.successful().len(), answer.failed().len()), (0, 8));
}

#[tokio::test]
async fn entry_id_has_1_to_80_alphanumeric_characters_hyphens_or_underscores() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let queue = create_queue(&client).await;
    let send = async |id: &str| {
        let entry = SendMessageBatchRequestEntry::builder()
            .id(id)
            .message_body("m")
            .build();
        let send = client.send_message_batch().queue_url(&queue);
        send.entries(entry.unwrap()).send().await
    };

    for id in ["a", "A-z_0", &"x".repeat(80)] {
        assert_eq!(send(id).await.unwrap().successful().len(), 1);
    }
    for id in ["", "a.b", "a b", "ä", &"x".repeat(81)] {
        let error = send(id).await.unwrap_err().into_service_error();
        assert!(error.is_invalid_batch_entry_id(), "{id:?}: {error:?}");
    }
}
