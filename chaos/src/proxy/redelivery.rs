//! Duplicate deliveries: later, as if the queue had lost the deletion, or concurrently, to a second
//! process while the first still has the message.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use test_support::fault_proxy::AwsRequest;
use tokio::sync::oneshot;

use super::sqs::{put_messages, take_messages};

/// Number of messages that are remembered for a later duplicate.
const REMEMBERED: usize = 64;

/// Time for which a response is held so that another process can receive one of its messages as
/// well: a fraction of the visibility timeout.
const OFFERED: Duration = Duration::from_millis(500);

/// Delivered messages of all proxies.
#[derive(Debug, Default)]
pub(super) struct DeliveredMessages {
    /// Most recent messages, oldest first.
    messages: Mutex<VecDeque<Value>>,
    offers: Mutex<Vec<Offer>>,
}

/// A message that a process is about to receive, offered to another one as well.
#[derive(Debug)]
struct Offer {
    message: Value,
    /// The process that receives it first.
    holder: String,
    taken: oneshot::Sender<()>,
}

impl DeliveredMessages {
    pub(super) fn remember(&self, messages: &[Value]) {
        let mut remembered = lock(&self.messages);
        for message in messages {
            if remembered.len() == REMEMBERED {
                remembered.pop_front();
            }
            remembered.push_back(message.clone());
        }
    }

    /// Adds a remembered message to the response to `request`, a ReceiveMessage, and returns it.
    /// Returns `None` if there is none, or if the response is full.
    pub(super) fn repeat(
        &self,
        request: &AwsRequest,
        answer: &mut Value,
        random: &mut fastrand::Rng,
    ) -> Option<Value> {
        let remembered = lock(&self.messages);
        if remembered.is_empty() || !has_capacity(request, answer) {
            return None;
        }
        let message = remembered[random.usize(..remembered.len())].clone();
        Some(redeliver(message, answer))
    }

    /// Waits briefly for another process than `holder` to receive `message` as well.
    pub(super) async fn offer(&self, holder: &str, message: Value) {
        let (taken, is_taken) = oneshot::channel();
        lock(&self.offers).push(Offer {
            message,
            holder: holder.to_owned(),
            taken,
        });
        // There may be no other poll. Dropping this end withdraws the offer, also if the holder
        // dies meanwhile.
        let _ = tokio::time::timeout(OFFERED, is_taken).await;
    }

    /// Adds a message that another process is about to receive to the response to `request`, a
    /// ReceiveMessage of `process`, and returns it.
    pub(super) fn share(
        &self,
        process: &str,
        request: &AwsRequest,
        answer: &mut Value,
    ) -> Option<Value> {
        let mut offers = lock(&self.offers);
        offers.retain(|offer| !offer.taken.is_closed());
        if !has_capacity(request, answer) {
            return None;
        }
        let theirs = offers.iter().position(|offer| offer.holder != process)?;
        let offer = offers.swap_remove(theirs);
        offer.taken.send(()).ok()?;
        Some(redeliver(offer.message, answer))
    }
}

/// Returns `true` if the response has fewer messages than were requested; SQS never returns more.
fn has_capacity(request: &AwsRequest, answer: &Value) -> bool {
    let most = request.json()["MaxNumberOfMessages"].as_u64().unwrap_or(1);
    (super::sqs::messages(answer).len() as u64) < most
}

fn redeliver(mut message: Value, answer: &mut Value) -> Value {
    count_receive(&mut message);
    let mut messages = take_messages(answer);
    messages.push(message.clone());
    put_messages(answer, messages);
    message
}

/// Increments the receive count, if the request selects that attribute.
fn count_receive(message: &mut Value) {
    let count = message.pointer_mut("/Attributes/ApproximateReceiveCount");
    if let Some(count) = count
        && let Some(received) = count.as_str().and_then(|text| text.parse::<u32>().ok())
    {
        *count = json!((received + 1).to_string());
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures::poll;

    use super::super::sqs::tests::message;
    use super::super::sqs::{event_id, messages};
    use super::*;
    use crate::history::CloudService;

    fn receive(most: u64) -> AwsRequest {
        let body = json!({"MaxNumberOfMessages": most});
        AwsRequest::of(CloudService::Sqs, "ReceiveMessage", &body)
    }

    #[test]
    fn a_repeated_message_was_delivered_before_and_fits_the_response() {
        let delivered = DeliveredMessages::default();
        let random = &mut fastrand::Rng::with_seed(1);
        let mut empty = json!({});
        assert_eq!(delivered.repeat(&receive(10), &mut empty, random), None);
        assert_eq!(empty, json!({}), "the response of SQS without messages");

        delivered.remember(&[message(1)]);
        let mut full = json!({"Messages": [message(2)]});
        assert_eq!(delivered.repeat(&receive(1), &mut full, random), None);
        assert_eq!(messages(&full).len(), 1);
        let repeated = delivered.repeat(&receive(2), &mut full, random).unwrap();
        assert_eq!(event_id(&repeated).unwrap(), "o-1:1");
        assert_eq!(repeated["Attributes"]["ApproximateReceiveCount"], "2");
        assert_eq!(messages(&full).len(), 2);
    }

    #[test]
    fn an_absent_receive_count_stays_absent() {
        let mut plain = message(1);
        plain.as_object_mut().unwrap().remove("Attributes");
        let before = plain.clone();
        count_receive(&mut plain);
        assert_eq!(plain, before);
    }

    #[test]
    fn only_the_latest_messages_are_remembered() {
        let delivered = DeliveredMessages::default();
        for n in 0..200 {
            delivered.remember(&[message(n)]);
        }
        assert_eq!(lock(&delivered.messages).len(), REMEMBERED);
        assert_eq!(lock(&delivered.messages)[0], message(200 - 64));
    }

    #[tokio::test]
    async fn a_shared_message_goes_to_another_process_while_its_holder_waits_for_it() {
        let delivered = DeliveredMessages::default();
        let mut offer = pin!(delivered.offer("worker-1", message(1)));
        assert!(
            poll!(&mut offer).is_pending(),
            "no other process has polled"
        );

        let mut own = json!({});
        assert_eq!(delivered.share("worker-1", &receive(10), &mut own), None);
        let mut full = json!({"Messages": [message(2)]});
        assert_eq!(delivered.share("worker-2", &receive(1), &mut full), None);
        assert!(
            poll!(&mut offer).is_pending(),
            "no process could receive it"
        );
        let shared = delivered.share("worker-2", &receive(2), &mut full).unwrap();
        assert_eq!(event_id(&shared).unwrap(), "o-1:1");
        assert_eq!(messages(&full).len(), 2);

        assert!(poll!(&mut offer).is_ready(), "it is taken");
        assert_eq!(
            delivered.share("worker-2", &receive(10), &mut json!({})),
            None
        );
    }

    #[tokio::test]
    async fn an_offer_is_withdrawn_when_its_holder_dies() {
        let delivered = DeliveredMessages::default();
        {
            let mut offer = pin!(delivered.offer("worker-1", message(1)));
            assert!(poll!(&mut offer).is_pending());
        }
        assert_eq!(
            delivered.share("worker-2", &receive(10), &mut json!({})),
            None
        );
        assert!(lock(&delivered.offers).is_empty());
    }
}
