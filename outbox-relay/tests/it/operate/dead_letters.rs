//! `dlq list`, `dlq redrive` and `dlq discard`.

use aws_sdk_sqs::types::{MessageAttributeValue, QueueAttributeName};
use serde_json::{Value, json};
use test_support::eventually;

use crate::support::{DEADLINE, Stage};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

/// Sends dead letters `e-0`, `e-1`, … to the dead-letter queue. Returns its URL.
async fn dead_letters(stage: &Stage, count: usize) -> String {
    let url = stage.sqs.get_queue_url().queue_name("order-events-dlq");
    let url = url.send().await.unwrap().queue_url.unwrap();
    for n in 0..count {
        let attribute = |value: String| {
            MessageAttributeValue::builder()
                .data_type("String")
                .string_value(value)
                .build()
                .unwrap()
        };
        let body = format!(
            r#"{{"specversion":"1.0","id":"e-{n}","type":"order.placed","subject":"o-{n}","data":{{}}}}"#
        );
        stage
            .sqs
            .send_message()
            .queue_url(&url)
            .message_body(body)
            .message_attributes("event_id", attribute(format!("e-{n}")))
            .message_attributes(
                "traceparent",
                attribute(format!("00-{TRACE}-b7ad6b7169203331-01")),
            )
            .send()
            .await
            .unwrap();
    }
    url
}

/// Returns the numbers of messages (visible, hidden).
async fn messages(stage: &Stage, url: &str) -> (usize, usize) {
    let names = [
        QueueAttributeName::ApproximateNumberOfMessages,
        QueueAttributeName::ApproximateNumberOfMessagesNotVisible,
    ];
    let request = stage.sqs.get_queue_attributes().queue_url(url);
    let answer = request.set_attribute_names(Some(names.to_vec())).send();
    let attributes = answer.await.unwrap().attributes.unwrap();
    let [visible, hidden] = names.map(|name| attributes[&name].parse().unwrap());
    (visible, hidden)
}

fn event_ids(listing: &Value) -> Vec<&str> {
    let messages = listing["messages"].as_array().unwrap().iter();
    messages.map(|m| m["event_id"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn dead_letters_are_listed_with_their_traces_and_stay_visible() {
    let stage = Stage::new().await;
    let none = stage.operate(&["dlq", "list"]).await;
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""), "{none:?}");
    let url = dead_letters(&stage, 23).await;

    let listed = stage
        .operate_with(
            &[("JAEGER_UI_URL", "http://jaeger.example")],
            &["dlq", "list", "-o", "json"],
        )
        .await;

    assert_eq!(listed.code, Some(0), "{listed:?}");
    let listing = listed.json();
    assert_eq!(event_ids(&listing).len(), 23);
    let first = &listing["messages"][0];
    assert_eq!(first["event_type"], "order.placed");
    assert_eq!(first["queue"], "order-events-dlq");
    assert_eq!(first["source_queue"], "order-events");
    assert_eq!(first["trace_id"], TRACE);
    assert_eq!(
        first["trace_url"],
        format!("http://jaeger.example/trace/{TRACE}")
    );
    assert_eq!(listing["truncated"], false);
    assert_eq!(messages(&stage, &url).await, (23, 0));

    let text = stage.operate(&["dlq", "list"]).await;
    assert!(text.stdout.contains(TRACE) && text.stdout.contains("e-22"));
}

#[tokio::test]
async fn a_redriven_message_returns_to_its_queue_with_body_and_attributes() {
    let stage = Stage::new().await;
    let url = dead_letters(&stage, 12).await;

    let redriven = stage.operate(&["dlq", "redrive", "e-11"]).await;
    assert_eq!(
        (redriven.code, redriven.stdout.as_str()),
        (Some(0), "1 redriven\n"),
        "{redriven:?}"
    );
    let arrived = stage.receive("order-events", 1).await;
    assert!(arrived[0].body().unwrap().contains(r#""id":"e-11""#));
    let attributes = arrived[0].message_attributes().unwrap();
    let traceparent = attributes["traceparent"].string_value().unwrap();
    assert!(traceparent.contains(TRACE), "{traceparent}");
    assert_eq!(messages(&stage, &url).await, (11, 0));

    let unknown = stage.operate(&["dlq", "redrive", "e-11"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    let all = stage.operate(&["dlq", "redrive", "--all"]).await;
    assert_eq!(all.stdout, "11 redriven\n", "{all:?}");
    assert_eq!(messages(&stage, &url).await, (0, 0));
}

#[tokio::test]
async fn a_discarded_message_is_deleted_and_all_of_them_only_with_confirmation() {
    let stage = Stage::new().await;
    let url = dead_letters(&stage, 3).await;
    let listing = stage.operate(&["dlq", "list", "-o", "json"]).await.json();
    let id = listing["messages"][0]["message_id"].as_str().unwrap();

    let discarded = stage.operate(&["dlq", "discard", id]).await;
    assert_eq!(discarded.stdout, "1 discarded\n", "{discarded:?}");
    assert_eq!(messages(&stage, &url).await, (2, 0));

    let refused = stage.operate(&["dlq", "discard", "--all"]).await;
    assert_eq!(refused.code, Some(64), "{refused:?}");
    for wrong in [&["dlq", "discard"][..], &["dlq", "redrive", "e-1", "--all"]] {
        assert_eq!(stage.operate(wrong).await.code, Some(64), "{wrong:?}");
    }
    assert_eq!(messages(&stage, &url).await, (2, 0));
    let all = stage.operate(&["dlq", "discard", "--all", "--yes"]).await;
    assert_eq!(all.stdout, "2 discarded\n", "{all:?}");
    assert_eq!(messages(&stage, &url).await, (0, 0));
}

/// Creates a queue that moves each message to `dead_letters` after one receive. Returns its URL.
async fn queue_of_one_receive(stage: &Stage, name: &str, dead_letters: &str) -> String {
    let policy = json!({
        "deadLetterTargetArn": format!("arn:aws:sqs:us-east-1:000000000000:{dead_letters}"),
        "maxReceiveCount": 1,
    });
    let create = stage.sqs.create_queue().queue_name(name);
    let created = create
        .attributes(QueueAttributeName::RedrivePolicy, policy.to_string())
        .attributes(QueueAttributeName::VisibilityTimeout, "0")
        .send();
    created.await.unwrap().queue_url.unwrap()
}

async fn send(stage: &Stage, url: &str, event_id: &str) {
    let body = format!(r#"{{"specversion":"1.0","id":"{event_id}","type":"t"}}"#);
    let send = stage.sqs.send_message().queue_url(url).message_body(body);
    send.send().await.unwrap();
}

async fn fail_all(stage: &Stage, url: &str) {
    let receive = stage.sqs.receive_message().queue_url(url);
    let receive = receive.max_number_of_messages(10).visibility_timeout(0);
    receive.send().await.unwrap();
}

#[tokio::test]
async fn messages_of_a_dead_letter_queue_of_two_queues_return_to_their_own() {
    let stage = Stage::new().await;
    let dlq = stage.sqs.create_queue().queue_name("dlq").send().await;
    let dlq = dlq.unwrap().queue_url.unwrap();
    let mut urls = Vec::new();
    for queue in ["a", "b", "other"] {
        let url = queue_of_one_receive(&stage, queue, "dlq").await;
        send(&stage, &url, &format!("from-{queue}")).await;
        urls.push(url);
    }
    send(&stage, &dlq, "from-nowhere").await;
    let moved = eventually(DEADLINE, || async {
        for url in &urls {
            fail_all(&stage, url).await;
        }
        match messages(&stage, &dlq).await {
            (4, 0) => Ok(()),
            messages => Err(messages),
        }
    });
    moved.await.unwrap();
    let routes = [("RELAY_ROUTES", "a=a,b=b")];

    let listed = stage
        .operate_with(&routes, &["dlq", "list", "-o", "json"])
        .await;
    let listing = listed.json();
    let mut sources: Vec<_> = listing["messages"].as_array().unwrap().iter().collect();
    sources.sort_by_key(|message| message["event_id"].as_str());
    let sources: Vec<_> = sources.iter().map(|m| &m["source_queue"]).collect();
    assert_eq!(
        sources,
        [&json!("a"), &json!("b"), &json!(null), &json!("other")]
    );

    let redriven = stage
        .operate_with(&routes, &["dlq", "redrive", "--all"])
        .await;

    assert_eq!(redriven.stdout, "2 redriven\n", "{redriven:?}");
    assert_eq!(redriven.code, Some(1));
    assert!(redriven.stderr.contains("`other`"), "{redriven:?}");
    assert!(redriven.stderr.contains("unknown queue"), "{redriven:?}");
    assert_eq!(messages(&stage, &dlq).await, (2, 0));
    for (url, count) in urls.iter().zip([1, 1, 0]) {
        assert_eq!(messages(&stage, url).await, (count, 0));
    }
}

#[tokio::test]
async fn messages_that_fail_again_meanwhile_are_redriven_once() {
    let stage = Stage::new().await;
    let dlq = stage.sqs.create_queue().queue_name("dlq").send().await;
    let dlq = dlq.unwrap().queue_url.unwrap();
    let url = queue_of_one_receive(&stage, "a", "dlq").await;
    for n in 0..30 {
        send(&stage, &dlq, &format!("e-{n}")).await;
    }
    let routes = [("RELAY_ROUTES", "a=a")];
    let consumer = async {
        loop {
            fail_all(&stage, &url).await;
        }
    };
    let redriven = tokio::select! {
        redriven = stage.operate_with(&routes, &["dlq", "redrive", "--all"]) => redriven,
        () = consumer => unreachable!(),
    };
    assert_eq!(redriven.stdout, "30 redriven\n", "{redriven:?}");
    assert_eq!(redriven.code, Some(0));
}

#[tokio::test]
async fn commands_at_the_same_time_redrive_each_message_once() {
    let stage = Stage::new().await;
    let dlq = dead_letters(&stage, 40).await;
    let redrive = || stage.operate(&["dlq", "redrive", "--all", "-o", "json"]);
    let both = tokio::join!(redrive(), redrive());

    let changed = [both.0, both.1].map(|ran| {
        assert_eq!(ran.code, Some(0), "{ran:?}");
        ran.json()["changed"].as_array().unwrap().len()
    });
    assert_eq!(changed[0] + changed[1], 40, "{changed:?}");
    assert_eq!(messages(&stage, &dlq).await, (0, 0));
    assert_eq!(stage.receive("order-events", 40).await.len(), 40);
}

#[tokio::test]
async fn a_list_of_large_messages_ends_early() {
    let stage = Stage::new().await;
    let dlq = shared::aws::queue_url(&stage.sqs, "order-events-dlq").await;
    let dlq = dlq.unwrap();
    let body = "x".repeat(250_000);
    for _ in 0..100 {
        let send = stage.sqs.send_message().queue_url(&dlq);
        send.message_body(&body).send().await.unwrap();
    }
    let listed = stage
        .operate(&["dlq", "list", "--limit", "200", "-o", "json"])
        .await;
    let listing = listed.json();
    assert_eq!(listing["truncated"], true);
    let count = listing["messages"].as_array().unwrap().len();
    assert!((68..100).contains(&count), "{count}");
    assert_eq!(messages(&stage, &dlq).await, (100, 0));
}

#[tokio::test]
async fn messages_of_a_fifo_queue_return_in_their_order() {
    let stage = Stage::new().await;
    let url = stage.create_queue("orders.fifo").await;
    let dlq = shared::aws::queue_url(&stage.sqs, "orders-dlq.fifo").await;
    let dlq = dlq.unwrap();
    for n in 0..5 {
        let send = stage.sqs.send_message().queue_url(&dlq);
        send.message_body(format!("m-{n}"))
            .message_group_id("o-1")
            .message_deduplication_id(n.to_string())
            .send()
            .await
            .unwrap();
    }
    let routes = [("RELAY_ROUTES", "*=orders.fifo")];
    let redriven = stage
        .operate_with(&routes, &["dlq", "redrive", "--all"])
        .await;
    assert_eq!(redriven.stdout, "5 redriven\n", "{redriven:?}");
    assert_eq!(messages(&stage, &url).await, (5, 0));
    let arrived = stage.receive("orders.fifo", 5).await;
    let bodies: Vec<_> = arrived.iter().map(|m| m.body().unwrap()).collect();
    assert_eq!(bodies, ["m-0", "m-1", "m-2", "m-3", "m-4"]);
}

#[tokio::test]
async fn a_queue_that_does_not_exist_is_an_error_that_names_it() {
    let stage = Stage::new().await;
    let environment = [("RELAY_ROUTES", "*=no-such-queue")];
    let listed = stage.operate_with(&environment, &["dlq", "list"]).await;
    assert_eq!(listed.code, Some(69), "{listed:?}");
    assert!(format!("{listed:?}").contains("no-such-queue"));
}
