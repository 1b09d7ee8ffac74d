//! Finds one event or aggregate by any of its names: an event id, an aggregate's id, or
//! `<aggregate id>:<sequence>`.

use outbox::Status;
use outbox_store::{EventFilter, EventKey};
use serde::Serialize;

use super::aggregate::AggregateState;
use super::event::{EventDetail, EventView};
use super::list::Listing;
use super::{OperateError, Operator};

/// Upper bound on the events of an aggregate that are shown.
pub const MAX_HISTORY: usize = 200;

/// Upper bound on a partition key of DynamoDB in bytes.
const MAX_KEY: usize = 2_048;

/// Event or aggregate that a name denotes.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Shown {
    Event(Box<EventDetail>),
    Aggregate(AggregateView),
}

/// An aggregate with all its events.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct AggregateView {
    pub aggregate_id: String,
    /// By sequence, at most [`MAX_HISTORY`].
    pub events: Vec<EventView>,
    /// `true` if the aggregate has more events.
    pub truncated: bool,
    /// The failed event that blocks the pending events after it until it is retried or discarded,
    /// with `RELAY_ON_FAILURE`=`hold`.
    pub blocked_by: Option<Box<EventView>>,
    pub state: Option<AggregateState>,
}

impl Operator {
    /// Returns the event or aggregate called `name`.
    pub async fn show(&self, name: &str) -> Result<Shown, OperateError> {
        if let Some(aggregate) = self.aggregate(name).await? {
            return Ok(Shown::Aggregate(aggregate));
        }
        let key = self.find(name).await?;
        match self.event(&key).await? {
            Some(event) => Ok(Shown::Event(Box::new(event))),
            None => Err(not_found(name)),
        }
    }

    /// Returns the key of the event called `name`: its event id, or `<aggregate id>:<sequence>`
    /// whatever its event id is. An event id that differs from this default is searched among the
    /// pending and failed events only, because the others are not in the index.
    pub async fn find(&self, name: &str) -> Result<EventKey, OperateError> {
        if name.is_empty() {
            return Err(OperateError::Invalid("an event id is not empty".to_owned()));
        }
        if let Some(key) = EventKey::of_default_event_id(name)
            && self.outbox.exists(&key).await?
        {
            return Ok(key);
        }
        let found = self.outbox.find_by_event_id(name).await?;
        found.ok_or_else(|| not_found(name))
    }

    /// Returns one event with all details, or `None` if it does not exist.
    pub async fn event(&self, key: &EventKey) -> Result<Option<EventDetail>, OperateError> {
        let Some(stored) = self.outbox.event(key).await? else {
            return Ok(None);
        };
        let mut detail = EventDetail::new(stored, self.jaeger_ui_url.as_deref());
        if is_held(&detail.event) {
            detail.blocked_by = self
                .blocking_event(&key.aggregate_id, Some(&key.sequence))
                .await?;
        }
        let aggregate = self
            .aggregate_state(
                detail.event.stored.aggregate_type.as_deref(),
                &detail.event.stored.aggregate_id,
            )
            .await;
        Ok(Some(detail.with_aggregate(aggregate)))
    }

    /// Returns an aggregate's events, or `None` if it has none.
    pub async fn aggregate(
        &self,
        aggregate_id: &str,
    ) -> Result<Option<AggregateView>, OperateError> {
        if aggregate_id.is_empty() || aggregate_id.len() > MAX_KEY {
            return Ok(None);
        }
        let filter = EventFilter {
            aggregate_id: Some(aggregate_id.to_owned()),
            ..EventFilter::default()
        };
        let listing = self.list(&filter, MAX_HISTORY, None).await?;
        let Some(first) = listing.events.first() else {
            return Ok(None);
        };
        let state = self
            .aggregate_state(first.stored.aggregate_type.as_deref(), aggregate_id)
            .await;
        let blocked_by = self.blocked_by(aggregate_id, &listing).await?;
        Ok(Some(AggregateView {
            aggregate_id: aggregate_id.to_owned(),
            events: listing.events,
            truncated: listing.next.is_some(),
            blocked_by,
            state,
        }))
    }

    /// Returns the failed event that blocks pending events of an aggregate, of which `listing` is
    /// the first page.
    pub async fn blocked_by(
        &self,
        aggregate_id: &str,
        listing: &Listing,
    ) -> Result<Option<Box<EventView>>, OperateError> {
        let last_held = listing.events.iter().rfind(|event| is_held(event));
        match last_held {
            // Later events may be pending.
            _ if listing.next.is_some() => self.blocking_event(aggregate_id, None).await,
            Some(last) => {
                let sequence = &last.stored.sequence;
                self.blocking_event(aggregate_id, Some(sequence)).await
            }
            None => Ok(None),
        }
    }

    /// Returns the failed event that blocks the events of an aggregate before `sequence`, or all of
    /// them for `None`.
    async fn blocking_event(
        &self,
        aggregate_id: &str,
        sequence: Option<&str>,
    ) -> Result<Option<Box<EventView>>, OperateError> {
        if !self.failed_events_block {
            return Ok(None);
        }
        let blocking = self.outbox.blocking_event(aggregate_id, sequence).await?;
        let view = |stored| Box::new(EventView::new(stored, self.jaeger_ui_url.as_deref()));
        Ok(blocking.map(view))
    }
}

/// Returns `true` if a failed event of the same aggregate can block this one: it is pending and not
/// a replay, which does not wait for other events.
fn is_held(event: &EventView) -> bool {
    event.stored.status.as_deref() == Some(Status::Pending.as_str())
        && event.stored.replays.is_none()
}

fn not_found(name: &str) -> OperateError {
    OperateError::NotFound(format!(
        "there is no event or aggregate `{name}`; a published event with an id of its own is found by its aggregate's id"
    ))
}
