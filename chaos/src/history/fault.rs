//! Injected faults.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use test_support::fault_proxy::CloudService;

/// One injected fault; planned faults that were not injected are absent.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub at: u64,
    /// End of a fault with a duration: the end of an outage, the SIGCONT after a SIGSTOP, the
    /// response after a latency.
    pub until: Option<u64>,
    pub kind: FaultKind,
    /// Affected process; `None` for all processes.
    pub process: Option<String>,
    /// Affected service, for outages and faults of single requests.
    pub service: Option<CloudService>,
    /// Such as `SendMessageBatch`.
    pub operation: Option<String>,
    /// Affected queue, for an outage of one queue.
    #[serde(default)]
    pub queue: Option<String>,
}

/// Latencies below this bound are normal in networks and must not cause errors.
const LONG_LATENCY_MS: u64 = 1_000;

impl Fault {
    /// Returns its duration; zero if it has none.
    pub(crate) fn lasted_ms(&self) -> u64 {
        self.until.unwrap_or(self.at).saturating_sub(self.at)
    }

    /// Returns `true` for a latency so short that it does not explain an error.
    pub(crate) fn is_short_latency(&self) -> bool {
        self.kind == FaultKind::Latency && self.lasted_ms() < LONG_LATENCY_MS
    }

    pub(crate) fn hits(&self, process: &str) -> bool {
        self.process.as_deref().is_none_or(|hit| hit == process)
    }

    pub(crate) fn concerns(&self, service: CloudService) -> bool {
        self.service.is_none_or(|hit| hit == service)
    }
}

/// Kinds of faults.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// SIGKILL of one process: a crash, the OOM killer, a lost machine.
    Kill,
    /// SIGKILL of all processes at once.
    KillAll,
    /// SIGKILL of a relay after the queue responded to a send and before the relay receives the
    /// response.
    KillAfterSend,
    /// SIGSTOP and SIGCONT: a frozen virtual machine, a long pause.
    Stop,
    /// SIGTERM: a deployment.
    Term,
    /// A request rejected with the service's throttling error.
    Throttle,
    /// A request rejected with a 5xx response.
    ServerError,
    /// A request delayed before it is forwarded.
    Latency,
    /// A connection cut before the request reached the service.
    CutBefore,
    /// A connection cut after the request took effect, instead of the response.
    CutAfter,
    /// Entries of a SendMessageBatch that are not sent.
    PartialSend,
    /// Entries of a DeleteMessageBatch that are not deleted.
    PartialDelete,
    /// Statements of a BatchExecuteStatement that are not executed.
    PartialStatement,
    /// A transaction cancelled with TransactionConflict.
    TransactionConflict,
    /// A transaction rejected with TransactionInProgressException.
    TransactionInProgress,
    /// GetRecords answered with ExpiredIteratorException.
    ExpiredIterator,
    /// GetRecords answered with TrimmedDataAccessException.
    TrimmedIterator,
    /// One service, or all of them, fails every request for a while.
    Outage,
    /// One queue refuses every message for a while.
    QueueOutage,
    /// A message delivered to a consumer twice.
    DuplicateDelivery,
    /// Messages delivered in another order.
    ReorderDelivery,
    /// Transactions hold their items for a while, so that other writes of them conflict.
    SlowTransactions,
    /// Write units of each partition key are limited for a while, in tables and indexes.
    HotPartitions,
    /// Indexes receive changes late for a while.
    IndexDelay,
    /// Streams have records late for a while.
    StreamDelay,
}

impl FaultKind {
    /// Returns the name used on the command line and in reports.
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Returns `true` for faults of the cloud that last for a while and affect every process.
    pub(crate) const fn is_of_cloud(self) -> bool {
        matches!(
            self,
            Self::Outage
                | Self::QueueOutage
                | Self::SlowTransactions
                | Self::HotPartitions
                | Self::IndexDelay
                | Self::StreamDelay
        )
    }

    /// Returns `true` for faults after which data arrives later, but no request fails.
    pub(crate) const fn fails_no_request(self) -> bool {
        matches!(self, Self::IndexDelay | Self::StreamDelay)
    }

    /// Returns `true` for faults of processes, `false` for faults of requests.
    pub(crate) const fn is_of_processes(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::KillAll | Self::KillAfterSend | Self::Stop | Self::Term
        )
    }
}
