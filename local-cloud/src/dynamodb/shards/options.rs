//! Options of the virtual shards: their number, splits and trims.

use std::num::NonZeroU32;
use std::time::Duration;

use dynoxide::errors::DynoxideError;

/// Upper bound on [`ShardOptions::shards`]. Each reader of a shard reads the records of all.
pub const MAX_SHARDS: u32 = 64;

/// Age at which DynamoDB Streams removes a record.
const RETENTION: Duration = Duration::from_secs(24 * 3600);

/// Number of shards of every stream, and how they change on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardOptions {
    /// Open shards of a new stream, at most [`MAX_SHARDS`].
    pub shards: NonZeroU32,
    /// Interval at which the oldest open shard of every stream is closed. It gets two children, or
    /// one if the stream has twice [`shards`](Self::shards) open ones, at least 2. `None`: only
    /// [`LocalCloud::split_shard`](crate::LocalCloud::split_shard) and
    /// [`LocalCloud::roll_shard`](crate::LocalCloud::roll_shard) close shards.
    pub split_every: Option<Duration>,
    /// Age at which records cannot be read any more, in steps of a tenth of it.
    pub trim_after: Duration,
}

impl ShardOptions {
    /// Returns the number of open shards from which closing one does not add any.
    pub(super) fn max_open(self) -> usize {
        usize::try_from(self.shards.get().saturating_mul(2)).unwrap_or(usize::MAX)
    }
}

/// One shard that is not split, with records of the last 24 hours.
impl Default for ShardOptions {
    fn default() -> Self {
        Self {
            shards: NonZeroU32::MIN,
            split_every: None,
            trim_after: RETENTION,
        }
    }
}

/// Error of changing the shards of a stream.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ShardError {
    /// The cloud was started without [`Config::shards`](crate::Config::shards).
    #[error("the local cloud was started without virtual shards")]
    NotVirtual,
    /// The table does not exist or has no stream.
    #[error("table `{0}` has no stream")]
    NoStream(String),
    /// The shard does not exist or is closed.
    #[error("`{0}` is not an open shard")]
    NotOpen(String),
    /// The database failed.
    #[error("the embedded database failed: {0}")]
    Database(String),
}

impl From<DynoxideError> for ShardError {
    fn from(error: DynoxideError) -> Self {
        Self::Database(error.to_string())
    }
}
