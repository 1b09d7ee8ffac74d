//! Virtual shards in front of the single shard of each of dynoxide's streams: shards that split,
//! close and are trimmed, as in DynamoDB.
//!
//! - `tree`: the shards of one stream. `iterator`: shard iterators. `requests`: `DescribeStream`,
//!   `GetShardIterator` and `GetRecords`. `options`: the options of a cloud.
//!
//! A virtual shard is a filter over the records of the stream: those of a hash range of the
//! partition key, between two sequence numbers. All changes of one partition key are therefore in
//! one open shard, in the order of the stream. Records are neither copied nor kept. Only the
//! tree takes memory, some 200 bytes for each shard that still has readable records.
//!
//! Costs: a reader of one shard reads the records of all shards from the database, up to
//! [`requests::MAX_PAGES`] pages of 1,000 in one `GetRecords`, and drops those of other shards.
//! With n open shards every record is read n times, and a page may be empty while there are further
//! records, as in DynamoDB. Finding the end of a stream, once for each split, reads the sequence
//! numbers of all its records.
//!
//! Readers hold the lock of the tree for reading while they read from the database; a split holds
//! it for writing while it determines the end of the stream and closes the shard. So the closed
//! shard returns no record after its end, and every record after its end is in its children.

mod iterator;
mod options;
mod requests;
pub(crate) mod tree;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dynoxide::actions::describe_table::DescribeTableRequest;
use dynoxide::actions::get_shard_iterator::{self, GetShardIteratorRequest};
use dynoxide::errors::DynoxideError;
use dynoxide::types::KeyType;
use dynoxide::{Database, streams};
pub use options::{MAX_SHARDS, ShardError, ShardOptions};
pub(crate) use requests::Operation;
use tokio::time::MissedTickBehavior;
use tree::{Children, Horizon, Micros, ShardTree};

use crate::fidelity::FidelityControl;

/// The virtual shards of all streams of a cloud.
pub(crate) struct VirtualShards {
    database: Database,
    options: ShardOptions,
    /// Has the delay of the streams.
    fidelity: FidelityControl,
    /// By stream ARN; a stream is added when it is first used.
    // Locked for one lookup and insertion, never across a statement of the database.
    streams: Mutex<HashMap<String, Arc<Stream>>>,
}

impl fmt::Debug for VirtualShards {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VirtualShards")
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

/// The virtual shards of one stream.
struct Stream {
    table: String,
    partition_key: String,
    tree: RwLock<ShardTree>,
}

impl VirtualShards {
    pub(crate) fn new(
        database: Database,
        options: ShardOptions,
        fidelity: FidelityControl,
    ) -> Self {
        Self {
            database,
            options,
            fidelity,
            streams: Mutex::default(),
        }
    }

    /// Closes one shard of every known stream at each interval; never returns.
    pub(crate) async fn split_periodically(self: Arc<Self>) {
        let Some(interval) = self.options.split_every else {
            return std::future::pending().await;
        };
        let mut due = tokio::time::interval(interval);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first tick is immediate.
        due.tick().await;
        loop {
            due.tick().await;
            let shards = Arc::clone(&self);
            let split = tokio::task::spawn_blocking(move || shards.split_oldest());
            match split.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "no shard was split; trying again"),
                Err(error) => tracing::error!(%error, "splitting a shard panicked"),
            }
        }
    }

    /// Closes the oldest open shard of every known stream. It gets two children as long as there
    /// are fewer than [`ShardOptions::max_open`] open shards, and then one.
    fn split_oldest(&self) -> Result<(), DynoxideError> {
        let streams: Vec<_> = self.streams().values().cloned().collect();
        for stream in streams {
            let mut tree = stream.write();
            let open = tree.open_shards();
            let children = if open.len() < self.options.max_open() {
                Children::Two
            } else {
                Children::One
            };
            if let Some(oldest) = open.first() {
                self.close(&stream, &mut tree, oldest, children)?;
            }
        }
        Ok(())
    }

    /// Closes the open shard `shard` of the stream of `table` and returns the ids of its children.
    pub(crate) fn close_shard(
        &self,
        table: &str,
        shard: &str,
        children: Children,
    ) -> Result<Vec<String>, ShardError> {
        let stream = self.stream_of(table)?;
        let closed = self.close(&stream, &mut stream.write(), shard, children)?;
        closed.ok_or_else(|| ShardError::NotOpen(shard.to_owned()))
    }

    /// Trims all present records of the stream of `table`.
    pub(crate) fn trim(&self, table: &str) -> Result<(), ShardError> {
        let stream = self.stream_of(table)?;
        let mut tree = stream.write();
        let last = self.last_record(&stream)?;
        tree.trim_before(last + 1);
        Ok(())
    }

    fn close(
        &self,
        stream: &Stream,
        tree: &mut ShardTree,
        shard: &str,
        children: Children,
    ) -> Result<Option<Vec<String>>, DynoxideError> {
        let now = now();
        let last = self.last_record(stream)?;
        let opened = tree.close(shard, children, last, now);
        if let Some(children) = &opened {
            let table = &stream.table;
            tracing::debug!(table, shard, ?children, "shard closed");
        }
        let lifetime = i64::try_from(iterator::LIFETIME.as_micros()).unwrap_or(i64::MAX);
        tree.prune(self.horizon(tree, now), now.saturating_sub(lifetime));
        Ok(opened)
    }

    /// Returns the highest sequence number of the stream. Every later record has a higher one,
    /// because dynoxide assigns them within its transactions, of which there is one at a time.
    fn last_record(&self, stream: &Stream) -> Result<i64, DynoxideError> {
        let latest = self.database.get_shard_iterator(GetShardIteratorRequest {
            stream_arn: streams::stream_arn(&stream.table, ""),
            shard_id: streams::shard_id(&stream.table),
            shard_iterator_type: "LATEST".to_owned(),
            sequence_number: None,
        })?;
        latest
            .shard_iterator
            .as_deref()
            .and_then(get_shard_iterator::decode_shard_iterator)
            .map(|(_, _, last)| last)
            .ok_or_else(|| {
                DynoxideError::InternalServerError("unknown form of iterator".to_owned())
            })
    }

    /// Returns the trim horizon. The horizon by age moves in steps of a tenth of it: if it moved
    /// with the clock, it would have passed most iterators at the trim horizon before their use.
    fn horizon(&self, tree: &ShardTree, now: Micros) -> Horizon {
        let age = i64::try_from(self.options.trim_after.as_micros()).unwrap_or(i64::MAX);
        let oldest = now.saturating_sub(age);
        let step = (age / 10).max(1);
        tree.horizon(oldest - oldest.rem_euclid(step))
    }

    /// Returns the highest sequence number that readers can see at `now`. Sequence numbers are
    /// microseconds since the epoch.
    fn visible(&self, now: Micros) -> i64 {
        match self.fidelity.get().stream_delay {
            Some(delay) => {
                let delay = i64::try_from(delay.as_micros()).unwrap_or(i64::MAX);
                now.saturating_sub(delay)
            }
            None => i64::MAX,
        }
    }

    fn stream_of(&self, table: &str) -> Result<Arc<Stream>, ShardError> {
        let no_stream = || ShardError::NoStream(table.to_owned());
        let described = self.database.describe_table(DescribeTableRequest {
            table_name: table.to_owned(),
        });
        let arn = match described {
            Ok(described) => described.table.latest_stream_arn.ok_or_else(no_stream)?,
            Err(DynoxideError::ResourceNotFoundException(_)) => return Err(no_stream()),
            Err(error) => return Err(error.into()),
        };
        self.stream(&arn).map_err(Into::into)
    }

    /// Returns the shards of a stream, which exist from its first use on.
    fn stream(&self, arn: &str) -> Result<Arc<Stream>, DynoxideError> {
        if let Some(known) = self.streams().get(arn) {
            return Ok(Arc::clone(known));
        }
        let not_found = || {
            let what = format!("Requested resource not found: Stream: {arn} not found");
            DynoxideError::ResourceNotFoundException(what)
        };
        // Such as arn:aws:dynamodb:dynoxide:000000000000:table/outbox/stream/1700000000.0
        let table = arn.split('/').nth(1).ok_or_else(not_found)?.to_owned();
        let described = self.database.describe_table(DescribeTableRequest {
            table_name: table.clone(),
        })?;
        if described.table.latest_stream_arn.as_deref() != Some(arn) {
            return Err(not_found());
        }
        let mut keys = described.table.key_schema.into_iter();
        let partition_key = keys
            .find(|key| key.key_type == KeyType::HASH)
            .ok_or_else(not_found)?;
        let created = Arc::new(Stream {
            table,
            partition_key: partition_key.attribute_name,
            tree: RwLock::new(ShardTree::new(self.options.shards.get(), now())),
        });
        // A concurrent request may have added it.
        let mut streams = self.streams();
        Ok(Arc::clone(streams.entry(arn.to_owned()).or_insert(created)))
    }

    fn streams(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stream {
    fn read(&self) -> RwLockReadGuard<'_, ShardTree> {
        self.tree.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, ShardTree> {
        self.tree.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    i64::try_from(since.unwrap_or(Duration::ZERO).as_micros()).unwrap_or(i64::MAX)
}
