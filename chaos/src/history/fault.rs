//! What was done to the system.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use test_support::fault_proxy::CloudService;

/// One fault that happened, not one that was merely planned.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Fault {
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

/// Shorter ones are what networks do every day: nothing may go wrong for them.
const LONG_LATENCY_MS: u64 = 1_000;

impl Fault {
    /// How long it lasted; zero for what is over at once.
    pub(crate) fn lasted_ms(&self) -> u64 {
        self.until.unwrap_or(self.at).saturating_sub(self.at)
    }

    /// A request was held up for so short a time that this explains no error.
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
    pub(crate) fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    /// Whether it is done to processes rather than to requests.
    pub(crate) const fn is_of_processes(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::KillAll | Self::KillAfterSend | Self::Stop | Self::Term
        )
    }
}
