//! Errors that end a run.

use std::io;
use std::path::PathBuf;

use super::backend::BackendError;
use super::final_state::Unreadable;
use super::sequence_workload::NotWritten;

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
    #[error("{0} violations of what must always hold")]
    Violated(usize),
}
