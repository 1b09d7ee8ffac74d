//! Requests, events and messages: the responses to clients and the traffic of the proxies.

use serde::{Deserialize, Serialize};

/// A line of an order, as requested or as stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct OrderLine {
    pub sku: String,
    pub quantity: u64,
}

/// One `POST /orders` and its outcome.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Post {
    pub at: u64,
    pub took_ms: u64,
    /// The `Idempotency-Key`. Requests with one key have one body.
    pub key: Option<String>,
    /// Unique for each order; repeated requests share it. It identifies orders whose id the client
    /// never received.
    pub customer_id: String,
    pub lines: Vec<OrderLine>,
    /// `None` without a complete response.
    pub status: Option<u16>,
    /// From the body of a 201.
    pub order_id: Option<String>,
    /// `true` if the response had the header `Idempotency-Replayed`.
    pub replayed: bool,
}

/// An event of the sequence workload, committed without the API.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Step {
    pub at: u64,
    /// Time at which the service confirmed the write.
    pub took_ms: u64,
    pub aggregate_id: String,
    pub sequence: u64,
    pub event_id: String,
}

/// One event that a queue accepted from a relay, according to the response of the service,
/// regardless of the response that the relay received.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Publish {
    /// Time at which the relay's request reached the proxy. The proxy may delay it for so long
    /// that the relay times out and sends another, which then arrives first.
    #[serde(rename = "asked_at")]
    pub requested_at: u64,
    /// Time at which the proxy forwarded the request.
    pub at: u64,
    /// Time of the service's response at the proxy.
    pub answered_at: u64,
    /// `true` if the relay received that response unchanged; `false` after
    /// [`super::FaultKind::CutAfter`], [`super::FaultKind::KillAfterSend`] and any other fault
    /// that suppressed or changed it.
    #[serde(rename = "told")]
    pub response_delivered: bool,
    /// The process, as in [`super::Life::process`].
    pub relay: String,
    pub incarnation: u32,
    pub queue: String,
    pub event_id: String,
    pub aggregate_id: String,
    pub sequence: u64,
}

/// One event that was marked as published: the table accepted the mark.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct PublishedMark {
    /// Time of the service's response at the proxy.
    pub at: u64,
    pub aggregate_id: String,
    pub sequence: u64,
}

/// One event delivered to a consumer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Delivery {
    pub at: u64,
    /// The worker process, or `chaos` for the consumer of the sequence workload.
    pub consumer: String,
    pub event_id: String,
    /// Set if the proxy delivered it, not the queue.
    pub injected: Option<Redelivery>,
}

/// Time of a duplicate delivery relative to the original one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Redelivery {
    /// At the same time, to another process.
    Concurrent,
    Later,
}
