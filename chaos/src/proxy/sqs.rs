//! Reads and changes the traffic of the queues: accepted events and delivered messages.

use serde::Deserialize;
use serde_json::Value;
use test_support::fault_proxy::AwsRequest;

/// Operation by which relays send events.
pub(super) const SEND: &str = "SendMessageBatch";

/// Events of a SendMessageBatch that the queue accepted.
pub(super) struct Sent {
    pub(super) queue: String,
    pub(super) events: Vec<Event>,
}

/// Identifying fields of an event in a message body, which is a CloudEvent.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) subject: String,
    /// In decimal.
    pub(super) sequence: String,
}

/// Returns the events that a queue accepted.
pub(super) fn sent(request: &AwsRequest, answer: &Value) -> Sent {
    let body = request.json();
    let ids = answer["Successful"].as_array();
    let is_taken = |entry: &&Value| {
        ids.is_some_and(|ids| ids.iter().any(|success| success["Id"] == entry["Id"]))
    };
    let entries = body["Entries"].as_array();
    Sent {
        queue: queue_name(&body),
        events: entries
            .into_iter()
            .flatten()
            .filter(is_taken)
            .filter_map(|entry| event(&entry["MessageBody"]))
            .collect(),
    }
}

/// Returns the last path segment of the queue URL.
pub(super) fn queue_name(body: &Value) -> String {
    let url = body["QueueUrl"].as_str().unwrap_or_default();
    url.rsplit('/').next().unwrap_or_default().to_owned()
}

fn event(body: &Value) -> Option<Event> {
    serde_json::from_str(body.as_str()?).ok()
}

/// Returns the id of the event in a received message.
pub(super) fn event_id(message: &Value) -> Option<String> {
    event(&message["Body"]).map(|event| event.id)
}

/// Reorders the messages of a response. Returns `false` if there are fewer than two.
pub(super) fn reorder(answer: &mut Value, random: &mut fastrand::Rng) -> bool {
    let mut messages = take_messages(answer);
    let enough = messages.len() > 1;
    if enough {
        let before = messages.clone();
        random.shuffle(&mut messages);
        if messages == before {
            messages.reverse();
        }
    }
    put_messages(answer, messages);
    enough
}

/// Returns the messages of a response to a ReceiveMessage.
pub(super) fn messages(answer: &Value) -> &[Value] {
    answer["Messages"].as_array().map_or(&[], Vec::as_slice)
}

pub(super) fn take_messages(answer: &mut Value) -> Vec<Value> {
    match answer.get_mut("Messages").map(Value::take) {
        Some(Value::Array(messages)) => messages,
        _ => Vec::new(),
    }
}

/// SQS omits an empty list.
pub(super) fn put_messages(answer: &mut Value, messages: Vec<Value>) {
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("Messages");
        if !messages.is_empty() {
            answer.insert("Messages".to_owned(), messages.into());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use serde_json::json;

    use super::*;
    use crate::history::CloudService;

    pub(in crate::proxy) fn message(n: u32) -> Value {
        json!({
            "MessageId": n.to_string(),
            "Body": json!({"id": format!("o-{n}:1"), "subject": format!("o-{n}"), "sequence": "00000000000000000001"}).to_string(),
            "Attributes": {"ApproximateReceiveCount": "1"},
        })
    }

    #[test]
    fn accepted_events_are_those_that_the_response_confirms() {
        let batch = json!({
            "QueueUrl": "http://127.0.0.1:9324/000000000000/order-events",
            "Entries": [
                {"Id": "0", "MessageBody": message(0)["Body"]},
                {"Id": "1", "MessageBody": message(1)["Body"]},
            ],
        });
        let request = AwsRequest::of(CloudService::Sqs, "SendMessageBatch", &batch);
        let answer = json!({"Successful": [{"Id": "1"}], "Failed": [{"Id": "0"}]});
        let sent = sent(&request, &answer);
        assert_eq!(sent.queue, "order-events");
        let event = Event {
            id: "o-1:1".to_owned(),
            subject: "o-1".to_owned(),
            sequence: "00000000000000000001".to_owned(),
        };
        assert_eq!(sent.events, [event]);
    }

    #[test]
    fn reordered_messages_are_the_same_in_another_order() {
        for seed in 0..50 {
            let random = &mut fastrand::Rng::with_seed(seed);
            let before = json!({"Messages": [message(1), message(2)]});
            let mut after = before.clone();
            assert!(reorder(&mut after, random));
            assert_eq!(messages(&after), [message(2), message(1)]);
            let mut one = json!({"Messages": [message(1)]});
            assert!(!reorder(&mut one, random));
        }
    }
}
