//! Starts and stops both services and their temporary directory together.

use std::net::{Ipv4Addr, SocketAddr};
use std::{io, panic};

use tokio::task;

use crate::dynamodb::{DynamoDb, ShardOptions};
use crate::error::{DatabaseError, StartError};
use crate::fidelity::{Fidelity, FidelityControl};
use crate::service_host::ServiceHost;
use crate::sqs;
use crate::temp_dir::LockedTempDir;

/// Listening addresses of the services, where port 0 means any free port, and options of DynamoDB.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Config {
    /// DynamoDB and DynamoDB Streams.
    pub dynamodb: SocketAddr,
    /// SQS.
    pub sqs: SocketAddr,
    /// Virtual shards of every stream, which split and are trimmed. `None`: one shard that does
    /// neither.
    pub shards: Option<ShardOptions>,
    /// Settings for how closely DynamoDB follows AWS.
    pub fidelity: Fidelity,
}

/// Free ports on 127.0.0.1, streams of one shard, and [`Fidelity::default`].
impl Default for Config {
    fn default() -> Self {
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        Self {
            dynamodb: any,
            sqs: any,
            shards: None,
            fidelity: Fidelity::default(),
        }
    }
}

/// A running DynamoDB, DynamoDB Streams and SQS, without tables and queues at first.
///
/// Dropping it stops the services as [`stop`](Self::stop) does, but blocks the thread for some
/// milliseconds and cannot report that the temporary directory was not deleted.
#[derive(Debug)]
pub struct LocalCloud {
    // Dropped in this order: the directory is deleted after the last write to it.
    pub(crate) dynamodb: DynamoDb,
    pub(crate) sqs: ServiceHost,
    temp_dir: LockedTempDir,
}

impl LocalCloud {
    /// Starts both services. They accept connections when this returns.
    ///
    /// Must be called on a Tokio runtime, but runs on its own threads, so that it also serves a
    /// runtime with a single thread or paused time.
    ///
    /// # Errors
    /// [`StartError::Bind`] if a service cannot listen on its address, and the other variants if
    /// threads or the database file cannot be created.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        blocking(move || {
            let temp_dir = LockedTempDir::new().map_err(StartError::TempDir)?;
            Ok(Self {
                dynamodb: DynamoDb::start(
                    config.dynamodb,
                    temp_dir.path(),
                    config.shards,
                    config.fidelity,
                )?,
                sqs: sqs::start(config.sqs)?,
                temp_dir,
            })
        })
        .await
    }

    /// Stops accepting, closes every connection and deletes the temporary directory. Both ports are
    /// free when this returns.
    ///
    /// # Errors
    /// If the temporary directory could not be deleted.
    pub async fn stop(self) -> io::Result<()> {
        blocking(move || {
            let Self {
                dynamodb,
                sqs,
                temp_dir,
            } = self;
            drop((dynamodb, sqs));
            temp_dir.close()
        })
        .await
    }

    /// Returns the control of how closely DynamoDB follows AWS.
    #[must_use]
    pub fn fidelity(&self) -> FidelityControl {
        self.dynamodb.fidelity()
    }

    /// Deletes the items whose time to live has passed, and returns their number. In streams they
    /// are removed by the principal `dynamodb.amazonaws.com`.
    ///
    /// # Errors
    /// If the database failed.
    pub async fn sweep_ttl(&self) -> Result<usize, DatabaseError> {
        blocking(self.dynamodb.ttl_sweep()).await
    }

    /// Returns the directory of the database file. It is deleted when the cloud stops.
    #[must_use]
    pub fn temp_dir(&self) -> &std::path::Path {
        self.temp_dir.path()
    }
}

/// Runs `work` on a blocking thread: creating and dropping files, threads and runtimes blocks.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match task::spawn_blocking(work).await {
        Ok(done) => done,
        // A running blocking task cannot be cancelled, so the error is a panic.
        Err(error) => panic::resume_unwind(error.into_panic()),
    }
}
