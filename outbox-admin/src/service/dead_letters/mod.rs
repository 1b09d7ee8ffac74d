//! The dead-letter queues of the queues that the routes name: messages that their consumers did not
//! delete within the queue's number of receives.
//!
//! SQS has no request that lists messages. They are received, which hides them from others for
//! two minutes at most, and made visible again before an operation ends. Their receive counts grow;
//! nothing else changes. Two operations at a time hide messages from each other. Dead letters are
//! not in the outbox table: their events were published.
//!
//! While a message of a FIFO queue is hidden, SQS returns no later message of its group. So only
//! the first messages of a group are found; the next ones are found once those are redriven or
//! discarded.

mod queue;

use std::collections::HashSet;

use aws_sdk_sqs::types::{Message, MessageSystemAttributeName as System};
use futures::future::join_all;
use outbox::timestamp::Timestamp;
use outbox::trace_context::TraceContext;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::queue::DeadLetterQueue;
use super::{OperateError, Operator};

/// Upper bound on the messages that one operation receives of a queue.
pub const MAX_RECEIVED: usize = 10_000;

/// Upper bound on the bodies that one operation keeps, in bytes; it ends when they exceed it.
const MAX_BODIES: usize = 16 * 1024 * 1024;

/// Upper bounds on texts in a list, in bytes. A body may have a mebibyte.
const MAX_TEXT: usize = 256;
const MAX_BODY: usize = 4_096;

/// One dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct DeadLetter {
    /// Name of the dead-letter queue.
    pub queue: String,
    /// Name of the queue that the message came from, and returns to; `None` if it was sent to a
    /// dead-letter queue of several queues.
    pub source_queue: Option<String>,
    pub message_id: String,
    pub event_id: Option<String>,
    pub event_type: Option<String>,
    pub aggregate_id: Option<String>,
    /// Time at which the message was first sent.
    pub sent_at: Option<Timestamp>,
    pub receive_count: u64,
    pub trace_id: Option<String>,
    /// Page of the trace in Jaeger, if `JAEGER_UI_URL` is set.
    pub trace_url: Option<String>,
    pub body: String,
}

/// Dead letters of all queues.
#[derive(Clone, Debug, Default, Serialize)]
pub struct DeadLetterListing {
    pub messages: Vec<DeadLetter>,
    /// `true` if there are or may be more messages.
    pub truncated: bool,
    /// Queues that have no dead-letter queue: a message that cannot be processed is received until
    /// its retention ends.
    pub without: Vec<String>,
}

/// The messages that an operation is about.
#[derive(Clone, Debug)]
pub enum Selection {
    All,
    /// Ids of messages or of events.
    Ids(HashSet<String>),
}

/// Change of the selected messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeadLetterAction {
    /// Sends the message to the queue it came from, and deletes it from the dead-letter queue.
    Redrive,
    /// Deletes the message for good.
    Discard,
}

/// Result of an operation on dead letters.
#[derive(Debug, Default, Serialize)]
pub struct DeadLetterChange {
    /// The messages that were redriven or discarded.
    pub changed: Vec<DeadLetter>,
    /// Errors, after which a message may be in both queues or unchanged. Consumers handle a
    /// message that they receive twice.
    pub problems: Vec<String>,
    /// `true` if the operation was interrupted.
    pub interrupted: bool,
}

/// Messages that were received and stay in their queue.
#[derive(Debug, Default)]
struct Hidden {
    ids: HashSet<String>,
    receipt_handles: Vec<String>,
}

impl Hidden {
    fn add(&mut self, message: Message) {
        self.ids.extend(message.message_id);
        self.receipt_handles.extend(message.receipt_handle);
    }

    /// Receives up to ten messages that are not hidden yet.
    async fn receive_others(&self, queue: &DeadLetterQueue) -> Result<Vec<Message>, OperateError> {
        let mut messages = queue.receive().await?;
        // A message is visible again if the operation takes longer than the time it is hidden for.
        messages.retain(|message| !message.message_id().is_some_and(|id| self.ids.contains(id)));
        Ok(messages)
    }

    async fn make_visible(self, queue: &DeadLetterQueue) {
        queue.make_visible(&self.receipt_handles).await;
    }
}

impl DeadLetter {
    /// Truncates long texts, for a list.
    pub(crate) fn shorten(&mut self) {
        let texts = [
            &mut self.event_id,
            &mut self.event_type,
            &mut self.aggregate_id,
        ];
        for text in texts.into_iter().flatten() {
            truncate(text, MAX_TEXT);
        }
        truncate(&mut self.body, MAX_BODY);
    }
}

fn truncate(text: &mut String, max: usize) {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
        text.push('…');
    }
}

impl Selection {
    fn includes(&self, letter: &DeadLetter) -> bool {
        match self {
            Self::All => true,
            Self::Ids(ids) => {
                let event_id = letter.event_id.as_ref();
                ids.contains(&letter.message_id) || event_id.is_some_and(|id| ids.contains(id))
            }
        }
    }

    /// Returns the ids that may select another message, if not all are selected. An event id can be
    /// that of several messages.
    fn remaining(&self) -> Option<HashSet<&str>> {
        match self {
            Self::All => None,
            Self::Ids(ids) => Some(ids.iter().map(String::as_str).collect()),
        }
    }
}

impl Operator {
    /// Lists dead letters, at most `limit` of each queue.
    pub async fn dead_letters(&self, limit: usize) -> Result<DeadLetterListing, OperateError> {
        let (queues, without) = DeadLetterQueue::of(&self.sqs, &self.queues).await?;
        let mut listing = DeadLetterListing {
            without,
            ..DeadLetterListing::default()
        };
        let mut bytes = 0;
        for queue in &queues {
            let mut hidden = Hidden::default();
            let mut failed = None;
            while hidden.ids.len() < limit && bytes < MAX_BODIES {
                let messages = match hidden.receive_others(queue).await {
                    Ok(messages) => messages,
                    Err(error) => {
                        failed = Some(error);
                        break;
                    }
                };
                if messages.is_empty() {
                    break;
                }
                for message in messages {
                    if hidden.ids.len() < limit {
                        let letter = self.letter(queue, &message);
                        bytes += letter.body.len();
                        listing.messages.push(letter);
                    }
                    hidden.add(message);
                }
            }
            listing.truncated |= hidden.ids.len() >= limit || bytes >= MAX_BODIES;
            hidden.make_visible(queue).await;
            if let Some(error) = failed {
                return Err(error);
            }
        }
        listing.messages.sort_by_key(|letter| letter.sent_at);
        Ok(listing)
    }

    /// Redrives or discards the selected dead letters, ten at a time, until all are done or `stop`
    /// is cancelled. Calls `on_progress` with the number of changed messages.
    pub async fn change_dead_letters(
        &self,
        action: DeadLetterAction,
        selection: &Selection,
        stop: &CancellationToken,
        on_progress: impl Fn(usize),
    ) -> Result<DeadLetterChange, OperateError> {
        let (queues, _) = DeadLetterQueue::of(&self.sqs, &self.queues).await?;
        let mut change = DeadLetterChange::default();
        let mut remaining = selection.remaining();
        let mut bytes = 0;
        for queue in &queues {
            // The messages that stay in the queue.
            let mut hidden = Hidden::default();
            // Ids of the messages that were sent again. They may be dead letters once more before
            // the operation ends.
            let mut redriven: HashSet<String> = HashSet::new();
            let mut count = 0;
            loop {
                if stop.is_cancelled() {
                    change.interrupted = true;
                    break;
                }
                let messages = match hidden.receive_others(queue).await {
                    Ok(messages) => messages,
                    Err(error) => {
                        change.problems.push(error.to_string());
                        break;
                    }
                };
                if messages.is_empty() {
                    break;
                }
                count += messages.len();
                let mut selected = Vec::new();
                for message in messages {
                    let letter = self.letter(queue, &message);
                    let is_new = !redriven.contains(&letter.message_id);
                    if is_new && selection.includes(&letter) {
                        selected.push((letter, message));
                    } else {
                        hidden.add(message);
                    }
                }
                for (letter, message, changed) in apply(queue, action, selected).await {
                    match changed {
                        Ok(sent) => {
                            redriven.extend(sent);
                            bytes += letter.body.len();
                            if let Some(ids) = &mut remaining {
                                ids.remove(letter.message_id.as_str());
                            }
                            change.changed.push(letter);
                        }
                        Err(error) => {
                            let id = &letter.message_id;
                            change.problems.push(format!("message `{id}`: {error}"));
                            hidden.add(message);
                        }
                    }
                }
                on_progress(change.changed.len());
                if remaining.as_ref().is_some_and(HashSet::is_empty) {
                    break;
                }
                if count >= MAX_RECEIVED || bytes >= MAX_BODIES {
                    change.problems.push(format!(
                        "only {count} messages of queue `{}` were read; repeat the command",
                        queue.name
                    ));
                    break;
                }
            }
            hidden.make_visible(queue).await;
            if change.interrupted
                || bytes >= MAX_BODIES
                || remaining.as_ref().is_some_and(HashSet::is_empty)
            {
                break;
            }
        }
        Ok(change)
    }

    fn letter(&self, queue: &DeadLetterQueue, message: &Message) -> DeadLetter {
        #[derive(Default, Deserialize)]
        struct Envelope {
            id: Option<String>,
            #[serde(rename = "type")]
            event_type: Option<String>,
            subject: Option<String>,
        }
        let body = message.body().unwrap_or_default();
        // The body of a dead letter may be anything.
        let envelope: Envelope = serde_json::from_str(body).unwrap_or_default();
        let system = |name: &System| message.attributes()?.get(name)?.parse::<i64>().ok();
        let text = |name: &str| {
            let attribute = message.message_attributes()?.get(name)?;
            attribute.string_value().map(str::to_owned)
        };
        let trace = TraceContext {
            traceparent: text("traceparent"),
            tracestate: None,
        };
        let trace_id = trace.trace_id();
        let receives = system(&System::ApproximateReceiveCount).unwrap_or_default();
        DeadLetter {
            queue: queue.name.clone(),
            source_queue: queue.source_name(message),
            message_id: message.message_id().unwrap_or_default().to_owned(),
            event_id: text("event_id").or(envelope.id),
            event_type: text("event_type").or(envelope.event_type),
            aggregate_id: envelope.subject,
            sent_at: system(&System::SentTimestamp).map(Timestamp::from_millis),
            receive_count: u64::try_from(receives).unwrap_or_default(),
            trace_url: self
                .jaeger_ui_url
                .as_ref()
                .zip(trace_id.as_ref())
                .map(|(base, id)| format!("{base}/trace/{id}")),
            trace_id,
            body: body.to_owned(),
        }
    }
}

/// Changes messages of one response. Returns each with the id of the message that was sent.
async fn apply(
    queue: &DeadLetterQueue,
    action: DeadLetterAction,
    selected: Vec<(DeadLetter, Message)>,
) -> Vec<(DeadLetter, Message, Result<Option<String>, OperateError>)> {
    let change = async |message: &Message| match action {
        DeadLetterAction::Redrive => queue.redrive(message).await,
        DeadLetterAction::Discard => queue.delete(message).await.map(|()| None),
    };
    if !queue.is_fifo() {
        let changes = selected.into_iter().map(|(letter, message)| async {
            let changed = change(&message).await;
            (letter, message, changed)
        });
        return join_all(changes).await;
    }
    // In their order, and none after one that failed.
    let mut changes = Vec::new();
    let mut failed: Option<OperateError> = None;
    for (letter, message) in selected {
        let changed = match &failed {
            Some(error) => Err(error.clone()),
            None => change(&message).await,
        };
        failed = changed.as_ref().err().cloned();
        changes.push((letter, message, changed));
    }
    changes
}
