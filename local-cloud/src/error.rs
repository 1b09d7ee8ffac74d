//! What can keep the local cloud from starting.

use std::net::SocketAddr;
use std::{fmt, io};

/// One of the services that listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// DynamoDB and DynamoDB Streams, on one address.
    DynamoDb,
    /// SQS.
    Sqs,
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DynamoDb => "DynamoDB",
            Self::Sqs => "SQS",
        })
    }
}

/// Why [`LocalCloud::start`](crate::LocalCloud::start) gave up. Nothing is left
/// running, and no folder is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address is taken, not this machine's, or needs more rights.
    #[error("{service} cannot listen on {addr}: {}", bind_reason(source))]
    Bind {
        /// Which of the services was to listen there.
        service: Service,
        /// The address as it was asked for.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system gave no threads.
    #[error("{service} got no threads to run on")]
    Threads {
        /// Which of the services needed them.
        service: Service,
        /// What the operating system said.
        source: io::Error,
    },
    /// The database lives in a new folder below the system's temporary one.
    #[error("no temporary folder for the database could be made")]
    Folder(#[source] io::Error),
    /// The database file could not be created or indexed.
    #[error("the database file could not be set up")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The two common causes in plain words, since the address is the user's to fix.
fn bind_reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the address is already in use by another program".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => "this user may not listen there".to_owned(),
        _ => source.to_string(),
    }
}
