//! The processes under test: their lives, logs and memory.

use serde::{Deserialize, Serialize};

/// What a process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Program {
    OrderApi,
    OutboxRelay,
    InventoryWorker,
}

impl Program {
    /// As in the names of the sub-commands.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::OrderApi => "order-api",
            Self::OutboxRelay => "outbox-relay",
            Self::InventoryWorker => "inventory-worker",
        }
    }
}

/// One process from its start to its end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Life {
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
    pub(crate) fn was_killed(&self) -> bool {
        self.told_by == Some(EndSignal::Kill)
    }
}

/// How the run ends a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum EndSignal {
    Kill,
    Term,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    Exited(i32),
    /// By this signal.
    Signalled(i32),
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct LogLine {
    pub at: u64,
    pub process: String,
    pub kind: LogKind,
    pub text: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogKind {
    /// What Rust's panic handler prints, wherever it went on from there.
    Panic,
    Error,
    /// A relay says that another instance has its shard.
    LeaseLost,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct MemorySample {
    pub at: u64,
    pub process: String,
    pub incarnation: u32,
    /// Resident memory: `VmRSS` of `/proc/<pid>/status`.
    pub rss_bytes: u64,
}
