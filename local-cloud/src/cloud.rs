//! Starts and stops both services and their folder together.

use std::net::{Ipv4Addr, SocketAddr};
use std::{io, panic};

use tokio::task;

use crate::dynamodb::DynamoDb;
use crate::error::StartError;
use crate::service_host::ServiceHost;
use crate::sqs;
use crate::temp_dir::LockedTempDir;

/// Where the services listen. Port 0 means any free port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// DynamoDB and DynamoDB Streams.
    pub dynamodb: SocketAddr,
    /// SQS.
    pub sqs: SocketAddr,
}

/// Free ports on 127.0.0.1.
impl Default for Config {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            dynamodb: any,
            sqs: any,
        }
    }
}

/// A running DynamoDB, DynamoDB Streams and SQS, empty at first and gone with
/// this value. Dropping it stops it too, but holds the thread until it has
/// (some milliseconds) and can't report a folder it failed to remove.
#[derive(Debug)]
pub struct LocalCloud {
    // Dropped in this order: the folder goes once nothing writes to it.
    pub(crate) dynamodb: DynamoDb,
    pub(crate) sqs: ServiceHost,
    folder: LockedTempDir,
}

impl LocalCloud {
    /// Starts both services. They accept connections when this returns.
    ///
    /// Has to be called on a Tokio runtime, but runs on threads of its own, so
    /// that it serves a runtime with a single thread or paused time as well.
    ///
    /// # Errors
    /// [`StartError::Bind`] when an address can't be listened on, and the other
    /// variants when the machine lacks threads or room for temporary files.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        blocking(move || {
            let folder = LockedTempDir::new().map_err(StartError::Folder)?;
            Ok(Self {
                dynamodb: DynamoDb::start(config.dynamodb, folder.path())?,
                sqs: sqs::start(config.sqs)?,
                folder,
            })
        })
        .await
    }

    /// Stops accepting, cuts every connection and removes the folder. Both
    /// ports are free when this returns.
    ///
    /// # Errors
    /// When the temporary folder could not be removed.
    pub async fn stop(self) -> io::Result<()> {
        blocking(move || {
            let Self {
                dynamodb,
                sqs,
                folder,
            } = self;
            drop((dynamodb, sqs));
            folder.close()
        })
        .await
    }

    /// The folder with the database file, removed on stopping.
    #[must_use]
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }
}

/// Files, threads and runtimes come and go with blocking calls.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match task::spawn_blocking(work).await {
        Ok(done) => done,
        // Only a panic fails it: blocking work can't be cancelled once it runs.
        Err(error) => panic::resume_unwind(error.into_panic()),
    }
}
