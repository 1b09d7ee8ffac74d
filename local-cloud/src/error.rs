//! Errors of starting the local cloud.

use std::net::SocketAddr;
use std::{fmt, io};

/// A service with a listening address.
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

/// Error of [`LocalCloud::start`](crate::LocalCloud::start). No service is left running, and no
/// directory is left behind.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The address is in use, does not belong to this machine, or needs more privileges.
    #[error("{service} cannot listen on {addr}: {}", bind_reason(source))]
    Bind {
        /// The service that could not listen.
        service: Service,
        /// The requested address.
        addr: SocketAddr,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The threads of a service could not be started.
    #[error("the threads of {service} could not be started")]
    Threads {
        /// The service.
        service: Service,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The directory of the database could not be created below the system's temporary directory.
    #[error("the temporary directory of the database could not be created")]
    TempDir(#[source] io::Error),
    /// The database file could not be created or indexed.
    #[error("the database file could not be created")]
    Database(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// The embedded database failed.
#[derive(Debug, thiserror::Error)]
#[error("the embedded database failed: {0}")]
pub struct DatabaseError(pub(crate) String);

/// Describes the common causes for the user, who has to correct the address.
fn bind_reason(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::AddrInUse => "the address is already in use by another program".to_owned(),
        io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        io::ErrorKind::PermissionDenied => "this user is not permitted to listen there".to_owned(),
        _ => source.to_string(),
    }
}
