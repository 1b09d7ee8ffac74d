//! Errors of the sub-commands.

use std::io;
use std::net::SocketAddr;

use chaos::ChaosError;
use shared::provision::ProvisionError;

use crate::services::NotReady;

/// Reason why `up`, `cloud` or `chaos` ended with an error.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UpError {
    #[error("{0}")]
    Usage(String),
    #[error("{service} cannot listen on {address}: {reason}; choose another with {option}")]
    Port {
        service: &'static str,
        address: SocketAddr,
        reason: String,
        option: &'static str,
    },
    #[error("the embedded cloud could not start: {0}")]
    Cloud(local_cloud::StartError),
    #[error("{0}")]
    Provision(#[from] ProvisionError),
    #[error("{0}")]
    NotReady(#[from] NotReady),
    #[error("the path of this program is unknown: {0}")]
    Program(io::Error),
    #[error("signal handlers could not be installed: {0}")]
    Signals(io::Error),
    #[error("the readiness checks could not be set up: {0}")]
    Probe(#[from] reqwest::Error),
    #[error("the temporary folder could not be removed: {0}")]
    Folder(io::Error),
    #[error("{0}")]
    Chaos(#[from] ChaosError),
}

impl UpError {
    /// Returns the error for an address that cannot be listened on; `option` configures it.
    pub(crate) fn port(
        service: &'static str,
        address: SocketAddr,
        source: &io::Error,
        option: &'static str,
    ) -> Self {
        let reason = match source.kind() {
            io::ErrorKind::AddrInUse => "the port is in use by another program".to_owned(),
            io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
            io::ErrorKind::PermissionDenied => "permission denied".to_owned(),
            _ => source.to_string(),
        };
        Self::Port {
            service,
            address,
            reason,
            option,
        }
    }
}
