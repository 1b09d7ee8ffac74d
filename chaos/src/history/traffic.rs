//! Requests, events and messages: what clients were answered and what passed
//! the proxies.

use serde::{Deserialize, Serialize};

/// A line of an order, as it was asked for or as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct OrderLine {
    pub sku: String,
    pub quantity: u64,
}

/// One `POST /orders` and what became of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Post {
    pub at: u64,
    pub took_ms: u64,
    /// The `Idempotency-Key`. Requests with one key have one body.
    pub key: Option<String>,
    /// Unique for each order that the client wants; repetitions share it. By
    /// it orders are found of which the client never learned the id.
    pub customer_id: String,
    pub lines: Vec<OrderLine>,
    /// `None`: no answer, or not a whole one.
    pub status: Option<u16>,
    /// From the body of a 201.
    pub order_id: Option<String>,
    /// Answered with `Idempotency-Replayed`.
    pub replayed: bool,
}

/// An event that the run itself committed, past the API.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Step {
    pub at: u64,
    /// Until the service had said that it is written.
    pub took_ms: u64,
    pub aggregate_id: String,
    pub sequence: u64,
    pub event_id: String,
}

/// One event that a queue accepted from a relay: an entry of a request that
/// the service said it took, whatever the relay was told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Publish {
    /// When the relay's request reached the proxy, which may hold it up: so long
    /// that the relay gives it up and sends another, which then comes first.
    pub asked_at: u64,
    /// When the proxy forwarded the request.
    pub at: u64,
    /// When the proxy had the service's answer.
    pub answered_at: u64,
    /// Whether the relay was sent that answer as it was. `false` after
    /// [`super::FaultKind::CutAfter`], [`super::FaultKind::KillAfterSend`] and whatever else
    /// kept or changed it.
    pub told: bool,
    /// The process, as in [`super::Life::process`].
    pub relay: String,
    pub incarnation: u32,
    pub queue: String,
    pub event_id: String,
    pub aggregate_id: String,
    pub sequence: u64,
}

/// One event that was marked as published: the table took the mark.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PublishedMark {
    /// When the proxy had the service's answer.
    pub at: u64,
    pub aggregate_id: String,
    pub sequence: u64,
}

/// One event handed to a consumer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub at: u64,
    /// The worker's process, or `chaos` for the run's own consumer.
    pub consumer: String,
    pub event_id: String,
    /// The proxy handed it over; the queue had not.
    pub injected: Option<Redelivery>,
}

/// When a message is handed over that another consumer has, or had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Redelivery {
    /// At the same time, to another process.
    Concurrent,
    Later,
}
