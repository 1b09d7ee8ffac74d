//! Errors that end a run.

use std::io;
use std::path::PathBuf;

use aws_sdk_dynamodb::error::DisplayErrorContext;

use super::backend::BackendError;

/// Reason why a run did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum ChaosError {
    #[error("{0}")]
    Backend(#[from] BackendError),
    #[error("no port is free: {0}")]
    Port(io::Error),
    #[error("the HTTP clients could not be created: {0}")]
    Clients(#[from] reqwest::Error),
    #[error("the processes were not ready within {0} s")]
    NotReady(u64),
    #[error("{0}")]
    SequenceWorkload(#[from] NotWritten),
    #[error("{0}")]
    Unreadable(#[from] Unreadable),
    #[error("{} could not be written: {source}", path.display())]
    Output { path: PathBuf, source: io::Error },
    #[error("the log of {process} could not be read: {source}")]
    Log { process: String, source: io::Error },
    #[error("interrupted; nothing was checked")]
    Interrupted,
    #[error("{0} invariant violations; see the report")]
    Violated(usize),
}

/// Error: a table or queue could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{what} could not be read: {reason}")]
pub struct Unreadable {
    what: String,
    reason: String,
}

impl Unreadable {
    pub(crate) fn new(what: &str, error: &(impl std::error::Error + 'static)) -> Self {
        Self {
            what: format!("`{what}`"),
            reason: DisplayErrorContext(error).to_string(),
        }
    }

    pub(crate) fn malformed(table: &str, reason: impl ToString) -> Self {
        Self {
            what: format!("an item of `{table}`"),
            reason: reason.to_string(),
        }
    }
}

/// Error: an event could not be written, so the sequence of its aggregate ends.
#[derive(Debug, thiserror::Error)]
#[error("event {aggregate_id}:{sequence} could not be written: {reason}")]
pub struct NotWritten {
    pub(crate) aggregate_id: String,
    pub(crate) sequence: u64,
    pub(crate) reason: String,
}
