//! The state of the relay that serves the console, as plain data.

use std::fmt;
use std::sync::Arc;

use outbox::timestamp::Timestamp;
use serde::Serialize;
use shared::runtime::health::Report;

/// Updates that a viewer of the console has already received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ViewedUpTo {
    /// Number of the last published event; 0 for none.
    pub published: u64,
    /// Start of the first activity slot to return, in epoch seconds.
    pub slots_from: i64,
}

/// State of a running relay, from this process's memory.
#[derive(Clone, Debug)]
pub struct RelayView {
    /// Same report as `/healthz`.
    pub live: Report,
    /// Report of `/readyz` as far as the relay knows it without issuing a request.
    pub ready: Report,
    /// Published events that the viewer has not received, as far as they are remembered, the
    /// oldest first.
    pub published: Vec<PublishedEvent>,
    /// Number of the last published event, the first one being 1.
    pub last_published: u64,
    /// Length of an activity slot in seconds.
    pub slot_seconds: i64,
    /// Activity from [`ViewedUpTo::slots_from`] on, the oldest first. Slots without any activity
    /// are left out.
    pub slots: Vec<ActivitySlot>,
}

/// One event in the list of recently published ones; fields are named as in
/// [`crate::service::EventView`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PublishedEvent {
    pub aggregate_id: String,
    pub sequence: String,
    pub event_id: String,
    pub event_type: String,
    pub queue: String,
    /// `stream` or `sweep`.
    pub path: &'static str,
    pub occurred_at: Option<Timestamp>,
    pub published_at: Timestamp,
}

/// Activity of the relay within [`RelayView::slot_seconds`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ActivitySlot {
    /// Start of the slot in epoch seconds.
    pub start: i64,
    pub published: u64,
    pub quarantined: u64,
    /// Number of published events whose lag, the time since `occurred_at`, is known.
    pub lag_count: u64,
    /// Sum of their lags in milliseconds.
    pub lag_total_ms: u64,
    /// Longest of their lags in milliseconds.
    pub lag_max_ms: u64,
    /// Pending events in the table at the last count within the slot.
    pub pending: Option<u64>,
}

/// Returns the current [`RelayView`]. Called every second per viewer; must not block.
#[derive(Clone)]
pub struct RelayViewSource(Arc<dyn Fn(ViewedUpTo) -> RelayView + Send + Sync>);

impl RelayViewSource {
    /// Reads the relay's state with `view`.
    pub fn new(view: impl Fn(ViewedUpTo) -> RelayView + Send + Sync + 'static) -> Self {
        Self(Arc::new(view))
    }

    /// Returns what the viewer has not received yet, and the current health.
    pub(super) fn view(&self, up_to: ViewedUpTo) -> RelayView {
        (self.0)(up_to)
    }
}

impl fmt::Debug for RelayViewSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayViewSource").finish_non_exhaustive()
    }
}
