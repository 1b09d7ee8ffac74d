//! Settings for how closely the embedded DynamoDB follows AWS where that costs time.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// Default interval between two deletions of expired items.
const TTL_INTERVAL: Duration = Duration::from_secs(60);

/// Behaviour of DynamoDB that can be switched off, because it makes requests slower or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fidelity {
    /// Time for which a transaction holds its items before it is executed, in addition to the
    /// execution itself. Meanwhile every other write of these items fails with a transaction
    /// conflict, and a request with the same `ClientRequestToken` with
    /// `TransactionInProgressException`. `None`: neither happens.
    pub transaction_time: Option<Duration>,
    /// Write units per second of each partition key, in a table and in each of its global
    /// secondary indexes (AWS: 1,000). Writes beyond it are throttled; reads never are.
    /// `None`: no limit. With a limit, each item is read before and after it is written.
    pub partition_write_units: Option<NonZeroU32>,
    /// Time after which global secondary indexes receive a change. `None`: at once, for the life
    /// of the cloud. With `Some`, even of zero, every change is stored twice.
    pub index_delay: Option<Duration>,
    /// Time after which streams have the records of a change. `None`: at once, for the life of the
    /// cloud. Otherwise streams have virtual shards, those of
    /// [`ShardOptions::default`](crate::ShardOptions::default) unless
    /// [`Config::shards`](crate::Config::shards) is set.
    pub stream_delay: Option<Duration>,
    /// Interval at which items are deleted whose time to live has passed. Each deletion reads the
    /// tables with a time to live. `None`: only
    /// [`LocalCloud::sweep_ttl`](crate::LocalCloud::sweep_ttl) deletes them.
    pub ttl_interval: Option<Duration>,
}

/// The behaviour that costs next to nothing: transactions conflict while they are executed, and
/// expired items are deleted every minute.
impl Default for Fidelity {
    fn default() -> Self {
        Self {
            transaction_time: Some(Duration::ZERO),
            partition_write_units: None,
            index_delay: None,
            stream_delay: None,
            ttl_interval: Some(TTL_INTERVAL),
        }
    }
}

/// Reads and changes the fidelity of a running cloud. The delays of indexes and streams can be
/// changed, but have no effect if they were `None` when the cloud was started.
#[derive(Clone, Debug)]
pub struct FidelityControl(Arc<watch::Sender<Fidelity>>);

impl FidelityControl {
    pub(crate) fn new(fidelity: Fidelity) -> Self {
        Self(Arc::new(watch::Sender::new(fidelity)))
    }

    /// Returns the present fidelity.
    #[must_use]
    pub fn get(&self) -> Fidelity {
        *self.0.borrow()
    }

    /// Changes the fidelity, from the next request on.
    pub fn update(&self, change: impl FnOnce(&mut Fidelity)) {
        self.0.send_modify(change);
    }

    pub(crate) fn subscribe(&self) -> watch::Receiver<Fidelity> {
        self.0.subscribe()
    }
}
