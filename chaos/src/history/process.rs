//! The processes under test: their lives, logs and memory.

use serde::{Deserialize, Serialize};

/// Kind of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Program {
    OrderApi,
    OutboxRelay,
    InventoryWorker,
}

impl Program {
    /// Returns the name of the sub-command.
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
    /// Name across restarts, such as `relay-1`.
    pub process: String,
    /// Number of the incarnation, starting at 1.
    pub incarnation: u32,
    pub pid: u32,
    pub started: u64,
    /// Time of the first report that it is listening; `None` if there was none.
    pub ready: Option<u64>,
    /// Time at which its end was noticed; `None` if it outlived the run.
    pub ended: Option<u64>,
    pub how: Option<Ending>,
    /// Time at which the run sent the signal that ended it: [`Life::ended`] for SIGKILL, an
    /// earlier time for SIGTERM.
    pub told_to_end: Option<u64>,
    /// The signal.
    #[serde(default)]
    pub told_by: Option<EndSignal>,
}

impl Life {
    /// Returns `true` if the run killed it. A process that did not stop in time after SIGTERM and
    /// was killed then does not count.
    pub(crate) fn was_killed(&self) -> bool {
        self.told_by == Some(EndSignal::Kill)
    }
}

/// Signal by which the run ends a process.
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

impl LogLine {
    /// Returns `true` if the line has this message. Its text is a JSON object, truncated if it is
    /// long.
    pub(crate) fn has_message(&self, message: &str) -> bool {
        self.text.contains(&format!("\"message\":\"{message}\""))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum LogKind {
    /// Output of Rust's panic handler, whether or not the process continued.
    Panic,
    Error,
    /// A relay logged that another instance acquired its shard.
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
