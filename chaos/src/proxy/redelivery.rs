//! Messages that the queue handed out and that are handed out again: later, as
//! if the queue had forgotten that they were deleted, or at once, to a second
//! process that has a message at the same time as the first.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use test_support::fault_proxy::AwsRequest;
use tokio::sync::oneshot;

use super::sqs::{put_messages, take_messages};

/// How far back a repetition reaches.
const REMEMBERED: usize = 64;

/// For how long an answer is held back so that another process can get one of
/// its messages, too: a fraction of the visibility timeout.
const OFFERED: Duration = Duration::from_millis(500);

/// The proxies' memory of what was handed out.
#[derive(Debug, Default)]
pub(super) struct HandedOut {
    /// The latest, oldest first.
    messages: Mutex<VecDeque<Value>>,
    offers: Mutex<Vec<Offer>>,
}

/// A message that a process is about to get, for another one to get as well.
#[derive(Debug)]
struct Offer {
    message: Value,
    /// The process.
    holder: String,
    taken: oneshot::Sender<()>,
}

impl HandedOut {
    pub(super) fn remember(&self, messages: &[Value]) {
        let mut remembered = lock(&self.messages);
        for message in messages {
            if remembered.len() == REMEMBERED {
                remembered.pop_front();
            }
            remembered.push_back(message.clone());
        }
    }

    /// Adds one of them to the answer of `request`, a ReceiveMessage, and returns
    /// it; `None` when there is none, or no room.
    pub(super) fn repeat(
        &self,
        request: &AwsRequest,
        answer: &mut Value,
        random: &mut fastrand::Rng,
    ) -> Option<Value> {
        let remembered = lock(&self.messages);
        if remembered.is_empty() || !has_room(request, answer) {
            return None;
        }
        let message = remembered[random.usize(..remembered.len())].clone();
        Some(hand_out_again(message, answer))
    }

    /// Waits a moment for another process than `holder` to get `message`, which
    /// `holder` is about to get.
    pub(super) async fn offer(&self, holder: &str, message: Value) {
        let (taken, is_taken) = oneshot::channel();
        lock(&self.offers).push(Offer {
            message,
            holder: holder.to_owned(),
            taken,
        });
        // Nobody may have asked. Dropping this end withdraws the offer, also
        // when the holder dies meanwhile.
        let _ = tokio::time::timeout(OFFERED, is_taken).await;
    }

    /// Adds a message that another process is about to get to the answer of
    /// `request`, a ReceiveMessage of `process`, and returns it.
    pub(super) fn share(
        &self,
        process: &str,
        request: &AwsRequest,
        answer: &mut Value,
    ) -> Option<Value> {
        let mut offers = lock(&self.offers);
        offers.retain(|offer| !offer.taken.is_closed());
        if !has_room(request, answer) {
            return None;
        }
        let theirs = offers.iter().position(|offer| offer.holder != process)?;
        let offer = offers.swap_remove(theirs);
        offer.taken.send(()).ok()?;
        Some(hand_out_again(offer.message, answer))
    }
}

/// SQS never hands out more than it is asked for.
fn has_room(request: &AwsRequest, answer: &Value) -> bool {
    let most = request.json()["MaxNumberOfMessages"].as_u64().unwrap_or(1);
    (super::sqs::messages(answer).len() as u64) < most
}

fn hand_out_again(mut message: Value, answer: &mut Value) -> Value {
    count_receive(&mut message);
    let mut messages = take_messages(answer);
    messages.push(message.clone());
    put_messages(answer, messages);
    message
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

    fn ask(most: u64) -> AwsRequest {
        let body = json!({"MaxNumberOfMessages": most});
        AwsRequest::of(CloudService::Sqs, "ReceiveMessage", &body)
    }

    #[test]
    fn a_repeated_message_is_one_that_was_handed_out_and_fits_in() {
        let handed_out = HandedOut::default();
        let random = &mut fastrand::Rng::with_seed(1);
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
        assert_eq!(lock(&handed_out.messages).len(), REMEMBERED);
        assert_eq!(lock(&handed_out.messages)[0], message(200 - 64));
    }

    #[tokio::test]
    async fn a_shared_message_goes_to_another_process_while_its_holder_waits_for_it() {
        let handed_out = HandedOut::default();
        let mut offer = pin!(handed_out.offer("worker-1", message(1)));
        assert!(poll!(&mut offer).is_pending(), "nobody has asked");

        let mut own = json!({});
        assert_eq!(handed_out.share("worker-1", &ask(10), &mut own), None);
        let mut full = json!({"Messages": [message(2)]});
        assert_eq!(handed_out.share("worker-2", &ask(1), &mut full), None);
        assert!(poll!(&mut offer).is_pending(), "nobody could take it");
        let shared = handed_out.share("worker-2", &ask(2), &mut full).unwrap();
        assert_eq!(event_id(&shared).unwrap(), "o-1:1");
        assert_eq!(messages(&full).len(), 2);

        assert!(poll!(&mut offer).is_ready(), "it is taken");
        assert_eq!(handed_out.share("worker-2", &ask(10), &mut json!({})), None);
    }

    #[tokio::test]
    async fn an_offer_is_withdrawn_when_its_holder_dies() {
        let handed_out = HandedOut::default();
        {
            let mut offer = pin!(handed_out.offer("worker-1", message(1)));
            assert!(poll!(&mut offer).is_pending());
        }
        assert_eq!(handed_out.share("worker-2", &ask(10), &mut json!({})), None);
        assert!(lock(&handed_out.offers).is_empty());
    }
}
