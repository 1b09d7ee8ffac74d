//! SQS queues as the relay and the worker use them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use aws_sdk_sqs::Client;
use aws_sdk_sqs::types::{
    DeleteMessageBatchRequestEntry, Message, MessageAttributeValue, MessageSystemAttributeName,
    QueueAttributeName, SendMessageBatchRequestEntry,
};

use crate::support::{eventually, start};

async fn create(client: &Client, name: &str, attributes: &[(QueueAttributeName, &str)]) -> String {
    let attributes: HashMap<_, _> = attributes
        .iter()
        .map(|(name, value)| (name.clone(), (*value).to_owned()))
        .collect();
    let created = client
        .create_queue()
        .queue_name(name)
        .set_attributes(Some(attributes))
        .send()
        .await
        .unwrap();
    created.queue_url.unwrap()
}

async fn attribute(client: &Client, queue: &str, name: QueueAttributeName) -> String {
    let answer = client
        .get_queue_attributes()
        .queue_url(queue)
        .attribute_names(name.clone())
        .send()
        .await
        .unwrap();
    answer.attributes.unwrap().remove(&name).unwrap()
}

async fn receive(client: &Client, queue: &str) -> Vec<Message> {
    let answer = client
        .receive_message()
        .queue_url(queue)
        .max_number_of_messages(10)
        .message_attribute_names("All")
        .message_system_attribute_names(MessageSystemAttributeName::All)
        .send()
        .await
        .unwrap();
    answer.messages.unwrap_or_default()
}

fn bodies(messages: &[Message]) -> Vec<&str> {
    messages.iter().map(|m| m.body().unwrap()).collect()
}

fn string(value: &str) -> MessageAttributeValue {
    MessageAttributeValue::builder()
        .data_type("String")
        .string_value(value)
        .build()
        .unwrap()
}

#[tokio::test]
async fn batch_is_received_with_its_attributes_and_deleted() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let queue = create(&client, "order-events", &[]).await;
    let entry = |i: usize| {
        SendMessageBatchRequestEntry::builder()
            .id(format!("e-{i}"))
            .message_body(format!("body {i} £ €"))
            .message_attributes("event_id", string(&format!("o-{i}:1")))
            .build()
            .unwrap()
    };

    let sent = client
        .send_message_batch()
        .queue_url(&queue)
        .set_entries(Some((0..10).map(entry).collect()))
        .send()
        .await
        .unwrap();
    assert_eq!((sent.successful().len(), sent.failed().len()), (10, 0));

    let messages = receive(&client, &queue).await;
    assert_eq!(messages.len(), 10);
    assert_eq!(messages[3].body(), Some("body 3 £ €"));
    let attributes = messages[3].message_attributes().unwrap();
    assert_eq!(attributes["event_id"], string("o-3:1"));

    let entry = |(i, message): (usize, &Message)| {
        DeleteMessageBatchRequestEntry::builder()
            .id(i.to_string())
            .receipt_handle(message.receipt_handle().unwrap())
            .build()
            .unwrap()
    };
    let deleted = client
        .delete_message_batch()
        .queue_url(&queue)
        .set_entries(Some(messages.iter().enumerate().map(entry).collect()))
        .send()
        .await
        .unwrap();
    assert_eq!(
        (deleted.successful().len(), deleted.failed().len()),
        (10, 0)
    );
    for name in [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
    ] {
        assert_eq!(attribute(&client, &queue, name).await, "0");
    }
}

#[tokio::test]
async fn message_at_its_receive_limit_moves_to_the_dead_letter_queue() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let dead = create(&client, "order-events-dlq", &[]).await;
    let arn = attribute(&client, &dead, QueueAttributeName::QueueArn).await;
    // As the AWS console writes it: the count is a string.
    let policy = format!(r#"{{"maxReceiveCount":"2","deadLetterTargetArn":"{arn}"}}"#);
    let attributes = [
        (QueueAttributeName::RedrivePolicy, policy.as_str()),
        (QueueAttributeName::VisibilityTimeout, "0"),
    ];
    let queue = create(&client, "order-events", &attributes).await;
    assert_eq!(
        create(&client, "order-events", &attributes).await,
        queue,
        "creating the queue again is not an error"
    );
    client
        .send_message()
        .queue_url(&queue)
        .message_body("poison")
        .send()
        .await
        .unwrap();

    for _ in 0..2 {
        assert_eq!(bodies(&receive(&client, &queue).await), ["poison"]);
    }

    assert_eq!(receive(&client, &queue).await, []);
    let moved = async || receive(&client, &dead).await.pop();
    let moved = eventually("the dead letter", moved).await;
    assert_eq!(moved.body(), Some("poison"));
}

#[tokio::test]
async fn fifo_queue_deduplicates_and_orders_each_group() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let queue = create(
        &client,
        "q.fifo",
        &[(QueueAttributeName::FifoQueue, "true")],
    )
    .await;
    for (group, body) in [("a", "a1"), ("a", "a1"), ("a", "a2"), ("b", "b1")] {
        client
            .send_message()
            .queue_url(&queue)
            .message_group_id(group)
            .message_deduplication_id(body)
            .message_body(body)
            .send()
            .await
            .unwrap();
    }

    let first = receive(&client, &queue).await;
    assert_eq!(bodies(&first), ["a1", "b1"], "a2 waits for a1");
    let a1 = first[0].receipt_handle().unwrap();
    client
        .delete_message()
        .queue_url(&queue)
        .receipt_handle(a1)
        .send()
        .await
        .unwrap();
    assert_eq!(
        bodies(&receive(&client, &queue).await),
        ["a2"],
        "a1 was sent twice"
    );
}

#[tokio::test]
async fn long_poll_returns_when_a_message_is_sent() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let queue = create(&client, "q", &[]).await;
    let poll = client
        .receive_message()
        .queue_url(&queue)
        .wait_time_seconds(20)
        .send();
    let started = Instant::now();

    let send = async {
        client
            .send_message()
            .queue_url(&queue)
            .message_body("now")
            .send()
            .await
            .unwrap();
    };
    let (received, ()) = tokio::join!(poll, send);

    assert_eq!(bodies(received.unwrap().messages()), ["now"]);
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn message_is_hidden_for_its_visibility_timeout_and_visible_after_zero() {
    let cloud = start().await;
    let client = cloud.sqs_client();
    let queue = create(&client, "q", &[]).await;
    client
        .send_message()
        .queue_url(&queue)
        .message_body("m")
        .send()
        .await
        .unwrap();
    let [message] = &receive(&client, &queue).await[..] else {
        panic!("one message");
    };
    let set_visibility = async |seconds| {
        client
            .change_message_visibility()
            .queue_url(&queue)
            .receipt_handle(message.receipt_handle().unwrap())
            .visibility_timeout(seconds)
            .send()
            .await
            .unwrap();
    };

    set_visibility(600).await;
    assert_eq!(receive(&client, &queue).await, []);
    set_visibility(0).await;
    assert_eq!(bodies(&receive(&client, &queue).await), ["m"]);
}
