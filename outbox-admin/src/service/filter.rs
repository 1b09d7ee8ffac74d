//! Which events an operator asks for.

use std::str::FromStr;

use outbox::Status;
use outbox::timestamp::Timestamp;
use serde::{Deserialize, Serialize};

/// What an operator may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Pending,
    Failed,
    Published,
    Discarded,
}

impl State {
    pub(super) fn status(self) -> Status {
        match self {
            Self::Pending => Status::Pending,
            Self::Failed => Status::Failed,
            Self::Published => Status::Published,
            Self::Discarded => Status::Discarded,
        }
    }
}

impl FromStr for State {
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

/// An event type, or the start of one: `order.placed`, `order.*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypePattern {
    pub(super) text: String,
    pub(super) is_prefix: bool,
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
                "must be an event type such as order.placed, or the start of one such as order.*"
                    .to_owned(),
            );
        }
        Ok(Self {
            text: start.to_owned(),
            is_prefix,
        })
    }
}

/// Which events. The default is whatever is pending or failed, the oldest
/// first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filter {
    pub state: Option<State>,
    /// Only this aggregate's events, by sequence.
    pub aggregate_id: Option<String>,
    /// With an aggregate: its events from this one on.
    pub from_sequence: Option<u64>,
    /// Not those that occurred before.
    pub since: Option<Timestamp>,
    pub event_type: Option<TypePattern>,
    /// Text that `failure` contains.
    pub reason: Option<String>,
    pub newest_first: bool,
    /// Settled events without naming an aggregate: reads the whole table, in
    /// no order.
    pub scan: bool,
}
impl Filter {
    /// Asks for events that are in no index, and names neither an aggregate
    /// nor a scan.
    pub fn is_unindexed(&self) -> bool {
        matches!(self.state, Some(State::Published | State::Discarded))
            && self.aggregate_id.is_none()
            && !self.scan
    }
}
