//! Everything that one run saw from outside: what clients were answered, what
//! passed the proxies, which faults were injected, and what tables and queues
//! held at the end. [`super::check`] judges it and [`super::report`] describes
//! it; neither needs anything else.
//!
//! Times are whole milliseconds since the start of the run.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// One run.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct History {
    pub settings: Settings,
    /// Every `POST /orders`, repetitions with the same key included.
    pub posts: Vec<Post>,
    /// Events that were written straight into the outbox.
    pub steps: Vec<Step>,
    /// What the queues accepted from relays, in the order of [`Publish::at`].
    pub publishes: Vec<Publish>,
    pub marks: Vec<Mark>,
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

/// A line of an order, as it was asked for or as it is stored.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(super) struct OrderLine {
    pub sku: String,
    pub quantity: u64,
}

/// One `POST /orders` and what became of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Post {
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
pub(super) struct Step {
    pub at: u64,
    pub aggregate_id: String,
    pub sequence: u64,
    pub event_id: String,
}

/// One event that a queue accepted from a relay: an entry of a request that
/// the service said it took, whatever the relay was told.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Publish {
    /// When the relay's request reached the proxy, which may hold it up: so long
    /// that the relay gives it up and sends another, which then comes first.
    pub asked_at: u64,
    /// When the proxy forwarded the request.
    pub at: u64,
    /// When the proxy had the service's answer.
    pub answered_at: u64,
    /// Whether the relay was sent that answer as it was. `false` after
    /// [`FaultKind::CutAfter`], [`FaultKind::KillAfterSend`] and whatever else
    /// kept or changed it.
    pub told: bool,
    /// The process, as in [`Life::process`].
    pub relay: String,
    pub incarnation: u32,
    pub queue: String,
    pub event_id: String,
    pub aggregate_id: String,
    pub sequence: u64,
}

/// One event that was marked as published: the table took the mark.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Mark {
    /// When the proxy had the service's answer.
    pub at: u64,
    pub aggregate_id: String,
    pub sequence: u64,
}

/// One event handed to a consumer.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Delivery {
    pub at: u64,
    /// The worker's process, or `chaos` for the run's own consumer.
    pub consumer: String,
    pub event_id: String,
    /// The proxy handed it over a second time; the queue had not.
    pub injected: bool,
}

/// One fault that happened, not one that was merely planned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Fault {
    pub at: u64,
    /// When it was over, for those that last: the end of an outage, the
    /// SIGCONT after a SIGSTOP, the answer after a latency.
    pub until: Option<u64>,
    pub kind: FaultKind,
    /// Whom it hit; `None` for all processes.
    pub process: Option<String>,
    /// For an outage, and for faults of single requests.
    pub service: Option<CloudService>,
    /// Such as `SendMessageBatch`.
    pub operation: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum CloudService {
    Dynamodb,
    Streams,
    Sqs,
}

impl CloudService {
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Dynamodb => "DynamoDB",
            Self::Streams => "DynamoDB Streams",
            Self::Sqs => "SQS",
        }
    }
}

/// Shorter ones are what networks do every day: nothing may go wrong for them.
const LONG_LATENCY_MS: u64 = 1_000;

impl Fault {
    /// How long it lasted; zero for what is over at once.
    pub(super) fn lasted_ms(&self) -> u64 {
        self.until.unwrap_or(self.at).saturating_sub(self.at)
    }

    /// A request was held up for so short a time that this explains no error.
    pub(super) fn is_short_latency(&self) -> bool {
        self.kind == FaultKind::Latency && self.lasted_ms() < LONG_LATENCY_MS
    }

    pub(super) fn hits(&self, process: &str) -> bool {
        self.process.as_deref().is_none_or(|hit| hit == process)
    }

    pub(super) fn concerns(&self, service: CloudService) -> bool {
        self.service.is_none_or(|hit| hit == service)
    }
}

/// What can be done to the system.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL of one process: a crash, the OOM killer, a lost machine.
    Kill,
    /// SIGKILL of all processes at once.
    KillAll,
    /// SIGKILL of a relay when the queue has answered a send and the relay
    /// does not know it yet.
    KillAfterSend,
    /// SIGSTOP and SIGCONT: a frozen virtual machine, a long pause.
    Stop,
    /// SIGTERM: a deployment.
    Term,
    /// A request refused with the service's throttling error.
    Throttle,
    /// A request refused with a 5xx answer.
    ServerError,
    /// A request held up before it is forwarded.
    Latency,
    /// A connection cut before the request reached the service.
    CutBefore,
    /// A connection cut after the request took effect, instead of its answer.
    CutAfter,
    /// Entries of a SendMessageBatch that the queue does not get.
    PartialSend,
    /// Entries of a DeleteMessageBatch that are not deleted.
    PartialDelete,
    /// Statements of a BatchExecuteStatement that are not executed.
    PartialStatement,
    /// A transaction cancelled with TransactionConflict.
    TransactionConflict,
    /// A transaction refused with TransactionInProgressException.
    TransactionInProgress,
    /// GetRecords answered with ExpiredIteratorException.
    ExpiredIterator,
    /// GetRecords answered with TrimmedDataAccessException.
    TrimmedIterator,
    /// One service refuses every request for a while.
    Outage,
    /// A message handed to a consumer twice.
    DuplicateDelivery,
    /// Messages handed over in another order.
    ReorderDelivery,
}

impl FaultKind {
    /// As it is written on the command line and in reports.
    pub(super) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whether it is done to processes rather than to requests.
    pub(super) const fn is_of_processes(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::KillAll | Self::KillAfterSend | Self::Stop | Self::Term
        )
    }
}

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Program {
    OrderApi,
    OutboxRelay,
    InventoryWorker,
}

impl Program {
    /// As in the names of the sub-commands.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::OrderApi => "order-api",
            Self::OutboxRelay => "outbox-relay",
            Self::InventoryWorker => "inventory-worker",
        }
    }
}

/// One process from its start to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Life {
    pub program: Program,
    /// The same through all restarts: `relay-1`.
    pub process: String,
    /// Counts the restarts, from 1.
    pub incarnation: u32,
    pub pid: u32,
    pub started: u64,
    /// When it first said that it is ready; `None` when it never got there.
    pub ready: Option<u64>,
    /// When it was seen to be gone; `None` when it outlived the run.
    pub ended: Option<u64>,
    pub how: Option<Ending>,
    /// The signal that ended it was sent by the run: at [`Life::ended`] for
    /// SIGKILL, before it for SIGTERM, which this is the time of.
    pub told_to_end: Option<u64>,
    /// With which signal.
    #[serde(default)]
    pub told_by: Option<EndSignal>,
}

impl Life {
    /// The run killed it. One that was told to stop, hung and was killed for
    /// that in the end is none of these.
    pub(super) fn was_killed(&self) -> bool {
        self.told_by == Some(EndSignal::Kill)
    }
}

/// How the run ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum EndSignal {
    Kill,
    Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Ending {
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct LogLine {
    pub at: u64,
    pub process: String,
    pub kind: LogKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum LogKind {
    /// What Rust's panic handler prints, wherever it went on from there.
    Panic,
    Error,
    /// A relay says that another instance has its shard.
    LeaseLost,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct MemorySample {
    pub at: u64,
    pub process: String,
    pub incarnation: u32,
    /// Resident memory: `VmRSS` of `/proc/<pid>/status`.
    pub rss_bytes: u64,
}

/// Tables and queues after everything was healed, drained and stopped.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct End {
    /// How long after the last fault nothing was pending any more, every order
    /// was settled and the queues were empty; `None`: not within the limit.
    pub drained_after_ms: Option<u64>,
    pub orders: Vec<OrderRow>,
    pub outbox: Vec<OutboxRow>,
    pub idempotency: Vec<IdempotencyRow>,
    pub inventory: BTreeMap<String, Stock>,
    /// Messages that are still in a queue, by queue; dead letters apart.
    pub left_in_queues: BTreeMap<String, u64>,
    pub dead_letters: Vec<DeadLetter>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OrderRow {
    pub order_id: String,
    pub customer_id: String,
    pub lines: Vec<OrderLine>,
    /// As stored: `CREATED`, `PROCESSED`, `REJECTED`.
    pub status: String,
    pub rejection_reason: Option<String>,
    pub version: u64,
    pub created_at: u64,
    pub updated_at: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct OutboxRow {
    pub aggregate_id: String,
    pub sequence: u64,
    pub event_id: String,
    pub event_type: String,
    /// As stored: `PENDING`, `PUBLISHED`, `FAILED`.
    pub status: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct IdempotencyRow {
    pub key: String,
    pub order_id: String,
}

/// One SKU before and after the run.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Stock {
    pub before: Level,
    pub after: Level,
}

/// Signed, so that stock below zero can be told and judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Level {
    pub available: i64,
    pub reserved: i64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct DeadLetter {
    pub queue: String,
    /// When the message has one.
    pub event_id: Option<String>,
}
