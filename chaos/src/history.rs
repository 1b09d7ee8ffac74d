//! Everything that one run saw from outside: what clients were answered, what
//! passed the proxies, which faults were injected, and what tables and queues
//! held at the end. [`super::checkers`] judges it and [`super::report`] describes
//! it; neither needs anything else.
//!
//! Times are whole milliseconds since the start of the run.

mod end;
mod fault;
mod process;
mod stream;
mod traffic;

pub(super) use end::{DeadLetter, End, IdempotencyRow, Level, OrderRow, OutboxRow, Stock};
pub(super) use fault::{Fault, FaultKind};
pub(super) use process::{EndSignal, Ending, Life, LogKind, LogLine, MemorySample, Program};
use serde::{Deserialize, Serialize};
pub(super) use stream::{GapCount, ShardReader, StreamRecord, TrimmedRead};
pub(super) use test_support::fault_proxy::CloudService;
pub(super) use traffic::{Delivery, OrderLine, Post, Publish, PublishedMark, Redelivery, Step};

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    pub settings: Settings,
    /// Every `POST /orders`, repetitions with the same key included.
    pub posts: Vec<Post>,
    /// Events that were written straight into the outbox.
    pub steps: Vec<Step>,
    /// In the order of time, with all repetitions.
    pub records: Vec<StreamRecord>,
    /// In the order of time.
    pub readers: Vec<ShardReader>,
    /// In the order of time.
    pub trimmed_reads: Vec<TrimmedRead>,
    /// One of each incarnation that answered.
    pub gap_counts: Vec<GapCount>,
    /// What the queues accepted from relays, in the order of [`Publish::at`].
    pub publishes: Vec<Publish>,
    pub marks: Vec<PublishedMark>,
    /// Of each consumer in the order in which it got them.
    pub deliveries: Vec<Delivery>,
    pub faults: Vec<Fault>,
    pub lives: Vec<Life>,
    /// The lines at level ERROR, panics, and the relays' lost leases.
    pub logs: Vec<LogLine>,
    pub memory: Vec<MemorySample>,
    pub end: End,
}

/// How the run was made, and the bounds it is judged by.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Settings {
    pub seed: u64,
    /// When it began: RFC 3339, for people.
    pub started_at: String,
    /// How long load and faults went on; draining comes after it.
    pub duration_ms: u64,
    /// Orders per second that were asked for.
    pub rate: u32,
    pub relays: u32,
    pub workers: u32,
    pub faults: Vec<FaultKind>,
    /// Those of them that were injected by themselves, while nothing else was
    /// wrong, one for each time.
    pub isolated: Vec<FaultKind>,
    /// The service it ran against; `None` for the embedded cloud.
    pub endpoint: Option<String>,
    pub lease_duration_ms: u64,
    /// How many requests the API works on at once. It refuses what is more.
    pub api_concurrency: usize,
    /// Within this time after the last fault everything must be settled.
    pub drain_limit_ms: u64,
    /// How many events a relay may have sent and not marked.
    pub in_flight_bound: usize,
    /// Resident memory that no process may pass.
    pub memory_limit_bytes: u64,
}
