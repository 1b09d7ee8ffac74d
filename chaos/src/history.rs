//! Observations of one run from outside: responses to clients, traffic of the proxies, injected
//! faults, and the final contents of tables and queues. [`super::checkers`] check it and
//! [`super::report`] describes it; neither needs any other input.
//!
//! Times are whole milliseconds since the start of the run.

mod end;
mod fault;
mod process;
mod stream;
mod traffic;

use std::collections::BTreeSet;

pub(super) use end::{DeadLetter, End, IdempotencyRecord, Level, Stock, StoredEvent, StoredOrder};
pub(super) use fault::{Fault, FaultKind};
pub(super) use process::{EndSignal, Ending, Life, LogKind, LogLine, MemorySample, Program};
use serde::{Deserialize, Serialize};
pub(super) use stream::{Deferral, GapCount, ShardReader, StreamRecord, TrimmedRead};
pub(super) use test_support::fault_proxy::CloudService;
pub(super) use traffic::{Delivery, OrderLine, Post, Publish, PublishedMark, Redelivery, Step};

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    pub settings: Settings,
    /// Every `POST /orders`, including repeated requests with the same key.
    pub posts: Vec<Post>,
    /// Events of the sequence workload, written directly into the outbox.
    pub steps: Vec<Step>,
    /// In the order of time, including repeated reads.
    pub records: Vec<StreamRecord>,
    /// In the order of time.
    pub readers: Vec<ShardReader>,
    /// Shards that a relay read to their end.
    pub closed_shards: BTreeSet<String>,
    /// In the order of time.
    pub trimmed_reads: Vec<TrimmedRead>,
    /// One for each incarnation that responded.
    pub gap_counts: Vec<GapCount>,
    /// In the order of time.
    pub deferrals: Vec<Deferral>,
    /// Events that the queues accepted from relays, in the order of [`Publish::at`].
    pub publishes: Vec<Publish>,
    pub marks: Vec<PublishedMark>,
    /// For each consumer in the order of delivery.
    pub deliveries: Vec<Delivery>,
    pub faults: Vec<Fault>,
    pub lives: Vec<Life>,
    /// Lines at level ERROR, panics, and lost leases.
    pub logs: Vec<LogLine>,
    pub memory: Vec<MemorySample>,
    pub end: End,
}

/// Configuration of the run and the bounds that it is checked against.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Settings {
    pub seed: u64,
    /// Start of the run, in RFC 3339, for readers of the report.
    pub started_at: String,
    /// Duration of workloads and faults; draining comes after it.
    pub duration_ms: u64,
    /// Requested orders per second.
    pub rate: u32,
    pub relays: u32,
    pub workers: u32,
    pub faults: Vec<FaultKind>,
    /// Kinds that were injected in isolation, while no other fault was active; one entry for each
    /// injection.
    pub isolated: Vec<FaultKind>,
    /// Endpoint of the backend; `None` for the embedded cloud.
    pub endpoint: Option<String>,
    /// Open shards of each stream at the start; `None` for another backend.
    pub shards: Option<u32>,
    /// Interval at which a shard of each stream is closed; `None` if shards stay open.
    pub split_every_ms: Option<u64>,
    pub lease_duration_ms: u64,
    /// Number of requests that the API handles concurrently. It rejects further requests.
    pub api_concurrency: usize,
    /// Time limit for settling after the last fault.
    pub drain_limit_ms: u64,
    /// Upper bound on the events that a relay may have sent and not marked.
    pub in_flight_bound: usize,
    /// Upper bound on the resident memory of each process.
    pub memory_limit_bytes: u64,
}
