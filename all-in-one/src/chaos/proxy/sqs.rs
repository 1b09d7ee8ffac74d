//! What passes on the way to the queues and back: which events they took, and
//! which they hand out, some of them twice or in another order.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};

use serde::Deserialize;
use serde_json::{Value, json};

use super::protocol::Call;

/// A SendMessageBatch and its answer: the entries that the queue took.
pub(super) struct Sent {
    pub(super) queue: String,
    pub(super) events: Vec<Event>,
}

/// What tells one event from another in a message's body, a CloudEvent.
#[derive(Debug, PartialEq, Deserialize)]
pub(super) struct Event {
    pub(super) id: String,
    pub(super) subject: String,
    /// Decimal.
    pub(super) sequence: String,
}

/// Reads which events a queue took.
pub(super) fn sent(call: &Call, answer: &Value) -> Sent {
    let body = call.json();
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

/// The last part of the queue's URL.
fn queue_name(body: &Value) -> String {
    let url = body["QueueUrl"].as_str().unwrap_or_default();
    url.rsplit('/').next().unwrap_or_default().to_owned()
}

fn event(body: &Value) -> Option<Event> {
    serde_json::from_str(body.as_str()?).ok()
}

/// The event that a received message carries.
pub(super) fn event_id(message: &Value) -> Option<String> {
    event(&message["Body"]).map(|event| event.id)
}

/// Messages that were handed out, to be handed out again.
#[derive(Debug, Default)]
pub(super) struct HandedOut {
    /// The latest, oldest first.
    messages: Mutex<VecDeque<Value>>,
}

/// How far back a repetition reaches.
const REMEMBERED: usize = 64;

impl HandedOut {
    pub(super) fn remember(&self, messages: &[Value]) {
        let mut remembered = self.lock();
        for message in messages {
            if remembered.len() == REMEMBERED {
                remembered.pop_front();
            }
            remembered.push_back(message.clone());
        }
    }

    /// Adds one of them to the answer of `call`, a ReceiveMessage, and returns
    /// it; `None` when there is none, or no room, as SQS never hands out more
    /// than it is asked for.
    pub(super) fn repeat(
        &self,
        call: &Call,
        answer: &mut Value,
        random: &mut fastrand::Rng,
    ) -> Option<Value> {
        let most = call.json()["MaxNumberOfMessages"].as_u64().unwrap_or(1);
        let mut messages = take_messages(answer);
        let mut repeated = None;
        if (messages.len() as u64) < most {
            let remembered = self.lock();
            if !remembered.is_empty() {
                repeated = Some(remembered[random.usize(..remembered.len())].clone());
            }
        }
        if let Some(message) = &mut repeated {
            count_receive(message);
            messages.push(message.clone());
        }
        put_messages(answer, messages);
        repeated
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Value>> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Hands the messages of an answer out in another order; whether there were
/// enough of them to have one.
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

/// The messages of an answer to a ReceiveMessage.
pub(super) fn messages(answer: &Value) -> &[Value] {
    answer["Messages"].as_array().map_or(&[], Vec::as_slice)
}

fn take_messages(answer: &mut Value) -> Vec<Value> {
    match answer.get_mut("Messages").map(Value::take) {
        Some(Value::Array(messages)) => messages,
        _ => Vec::new(),
    }
}

/// SQS leaves the list out when it is empty.
fn put_messages(answer: &mut Value, messages: Vec<Value>) {
    if let Some(answer) = answer.as_object_mut() {
        answer.remove("Messages");
        if !messages.is_empty() {
            answer.insert("Messages".to_owned(), messages.into());
        }
    }
}

/// One receive more, as the queue would say, if it was asked to say it.
fn count_receive(message: &mut Value) {
    let count = message.pointer_mut("/Attributes/ApproximateReceiveCount");
    if let Some(count) = count
        && let Some(received) = count.as_str().and_then(|text| text.parse::<u32>().ok())
    {
        *count = json!((received + 1).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chaos::history::CloudService;

    fn call(body: &Value) -> Call {
        Call {
            service: CloudService::Sqs,
            operation: String::new(),
            headers: http::HeaderMap::new(),
            body: body.to_string().into(),
        }
    }

    fn message(n: u32) -> Value {
        json!({
            "MessageId": n.to_string(),
            "Body": json!({"id": format!("o-{n}:1"), "subject": format!("o-{n}"), "sequence": "1"}).to_string(),
            "Attributes": {"ApproximateReceiveCount": "1"},
        })
    }

    #[test]
    fn what_a_queue_took_is_what_it_says_it_took() {
        let request = call(&json!({
            "QueueUrl": "http://127.0.0.1:9324/000000000000/order-events",
            "Entries": [
                {"Id": "0", "MessageBody": message(0)["Body"]},
                {"Id": "1", "MessageBody": message(1)["Body"]},
            ],
        }));
        let answer = json!({"Successful": [{"Id": "1"}], "Failed": [{"Id": "0"}]});
        let sent = sent(&request, &answer);
        assert_eq!(sent.queue, "order-events");
        let event = Event {
            id: "o-1:1".to_owned(),
            subject: "o-1".to_owned(),
            sequence: "1".to_owned(),
        };
        assert_eq!(sent.events, [event]);
    }

    #[test]
    fn a_repeated_message_is_one_that_was_handed_out_and_fits_in() {
        let handed_out = HandedOut::default();
        let random = &mut fastrand::Rng::with_seed(1);
        let ask = |most: u64| call(&json!({"MaxNumberOfMessages": most}));
        let mut empty = json!({});
        assert_eq!(handed_out.repeat(&ask(10), &mut empty, random), None);
        assert_eq!(empty, json!({}), "as SQS answers when there is nothing");

        handed_out.remember(&[message(1)]);
        let mut full = json!({"Messages": [message(2)]});
        assert_eq!(handed_out.repeat(&ask(1), &mut full, random), None);
        assert_eq!(messages(&full).len(), 1);
        let repeated = handed_out.repeat(&ask(2), &mut full, random).unwrap();
        assert_eq!(event_id(&repeated).unwrap(), "o-1:1");
        assert_eq!(repeated["Attributes"]["ApproximateReceiveCount"], "2");
        assert_eq!(messages(&full).len(), 2);
    }

    #[test]
    fn what_was_not_asked_for_is_not_made_up() {
        let mut plain = message(1);
        plain.as_object_mut().unwrap().remove("Attributes");
        let before = plain.clone();
        count_receive(&mut plain);
        assert_eq!(plain, before);
    }

    #[test]
    fn only_the_latest_messages_are_remembered() {
        let handed_out = HandedOut::default();
        for n in 0..200 {
            handed_out.remember(&[message(n)]);
        }
        assert_eq!(handed_out.lock().len(), REMEMBERED);
        assert_eq!(handed_out.lock()[0], message(200 - 64));
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
