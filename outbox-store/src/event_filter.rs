//! Filters of event lists.

use std::str::FromStr;

use outbox::Status;
use outbox::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

/// State of the events to list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventState {
    Pending,
    Failed,
    Published,
    Discarded,
}

impl EventState {
    pub(crate) fn status(self) -> Status {
        match self {
            Self::Pending => Status::Pending,
            Self::Failed => Status::Failed,
            Self::Published => Status::Published,
            Self::Discarded => Status::Discarded,
        }
    }
}

impl FromStr for EventState {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.to_ascii_lowercase().as_str() {
            "pending" => Ok(Self::Pending),
            "failed" => Ok(Self::Failed),
            "published" => Ok(Self::Published),
            "discarded" => Ok(Self::Discarded),
            _ => Err("must be pending, failed, published or discarded".to_owned()),
        }
    }
}

/// An event type, or a prefix of one: `order.placed`, `order.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypePattern {
    pub(crate) text: String,
    pub(crate) is_prefix: bool,
}

impl FromStr for TypePattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (start, is_prefix) = match text.strip_suffix('*') {
            Some(start) => (start, true),
            None => (text, false),
        };
        if text.is_empty() || start.contains('*') {
            return Err(
                "must be an event type such as order.placed, or a prefix of one such as order.*"
                    .to_owned(),
            );
        }
        Ok(Self {
            text: start.to_owned(),
            is_prefix,
        })
    }
}

/// Selects events of a list. The default is all pending and failed events, the oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFilter {
    pub state: Option<EventState>,
    /// Only events of this aggregate, by sequence.
    pub aggregate_id: Option<String>,
    /// With an aggregate: only events from this sequence on.
    pub from_sequence: Option<u64>,
    /// Only events that occurred at this time or later.
    pub since: Option<Timestamp>,
    pub event_type: Option<TypePattern>,
    /// Only events whose `failure` contains this text.
    pub reason: Option<String>,
    pub newest_first: bool,
    /// Reads the whole table, in no order: for published and discarded events without an
    /// aggregate.
    pub scan: bool,
}

impl EventFilter {
    /// Returns `true` if the list is read from the index.
    pub(crate) fn is_indexed(&self) -> bool {
        self.aggregate_id.is_none() && !self.scan
    }

    /// Returns `true` if the filter selects events that are not in the index, and names neither an
    /// aggregate nor a scan.
    pub fn is_unindexed(&self) -> bool {
        matches!(
            self.state,
            Some(EventState::Published | EventState::Discarded)
        ) && self.aggregate_id.is_none()
            && !self.scan
    }
}
