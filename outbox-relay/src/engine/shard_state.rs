//! A shard this instance holds, as reader, publisher and keeper share it.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::engine::publish::send_spans::Source;
use crate::policy::checkpoint_tracker::{Progress, RecordNumber};
use crate::policy::send_scheduler::Permission;
use crate::ports::{EventKey, SequenceNumber, ShardId};

/// How long to hold events back while it is unclear whether the lease is still
/// held.
const DOUBT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct HeldShard {
    pub(crate) id: ShardId,
    // Locks are held for a few instructions, never across an await.
    progress: Mutex<Progress>,
    fence: Mutex<Fence>,
    /// Events that are with the publisher.
    outstanding: AtomicUsize,
    /// Those of them that were found in the table, where they are met again
    /// until they are done.
    found: Mutex<HashSet<EventKey>>,
}

/// Whether events of the shard may still be sent (rule 4).
#[derive(Clone, Copy, Debug)]
enum Fence {
    /// Nobody else can have taken the shard before this instant.
    HeldUntil(Instant),
    Closed,
}

impl HeldShard {
    pub(crate) fn new(id: ShardId, progress: Progress, held_until: Instant) -> Self {
        Self {
            id,
            progress: Mutex::new(progress),
            fence: Mutex::new(Fence::HeldUntil(held_until)),
            outstanding: AtomicUsize::new(0),
            found: Mutex::default(),
        }
    }

    pub(crate) fn progress(&self) -> MutexGuard<'_, Progress> {
        // Every change of it is complete in itself, also before a panic.
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fence(&self) -> MutexGuard<'_, Fence> {
        self.fence.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lease was renewed by a request that began a lease duration before
    /// `until`.
    pub(crate) fn held_until(&self, until: Instant) {
        let mut fence = self.fence();
        if let Fence::HeldUntil(_) = *fence {
            *fence = Fence::HeldUntil(until);
        }
    }

    /// Nothing more may be sent from here: another instance has the shard, or
    /// is to have it. There is no way back.
    pub(crate) fn close(&self) {
        *self.fence() = Fence::Closed;
    }

    /// Nothing of it is with the publisher.
    pub(crate) fn is_quiet(&self) -> bool {
        self.outstanding.load(Ordering::Relaxed) == 0
    }

    fn found(&self) -> MutexGuard<'_, HashSet<EventKey>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the event was found in the table and is with the publisher. Who
    /// asks before the table is asked about it, and hands over only what was
    /// not, hands nothing over twice.
    pub(crate) fn has_found(&self, key: &EventKey) -> bool {
        self.found().contains(key)
    }

    /// The same for all events of an aggregate.
    pub(crate) fn found_of(&self, aggregate_id: &str) -> HashSet<EventKey> {
        let found = self.found();
        let same = |key: &&EventKey| key.aggregate_id == aggregate_id;
        found.iter().filter(same).cloned().collect()
    }

    /// Whether its events may be sent at `now`. An instance that was paused
    /// past its lease finds out here, before it sends.
    pub(crate) fn permission(&self, now: Instant) -> Permission {
        match *self.fence() {
            Fence::Closed => Permission::Never,
            Fence::HeldUntil(until) if now < until => Permission::Send,
            Fence::HeldUntil(_) => Permission::Later(now + DOUBT),
        }
    }
}

/// How an event came to be published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Stream,
    Sweep,
}

impl Path {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Stream => "stream",
            Self::Sweep => "sweep",
        }
    }
}

/// Where an event came from.
#[derive(Debug)]
enum Origin {
    /// Where in the shard it was read.
    Record(RecordNumber, SequenceNumber),
    /// The table.
    Found(EventKey),
}

/// Stands for one event that was handed over: it takes up room until it is
/// done.
#[derive(Debug)]
pub(crate) struct Ack {
    shard: Arc<HeldShard>,
    origin: Origin,
    /// Given back when dropped.
    _room: OwnedSemaphorePermit,
}

impl Ack {
    pub(crate) fn new(
        shard: &Arc<HeldShard>,
        key: &EventKey,
        record: Option<(RecordNumber, SequenceNumber)>,
        room: OwnedSemaphorePermit,
    ) -> Self {
        shard.outstanding.fetch_add(1, Ordering::Relaxed);
        let origin = match record {
            Some((number, position)) => Origin::Record(number, position),
            None => {
                shard.found().insert(key.clone());
                Origin::Found(key.clone())
            }
        };
        Self {
            shard: Arc::clone(shard),
            origin,
            _room: room,
        }
    }

    pub(crate) fn path(&self) -> Path {
        match self.origin {
            Origin::Record(..) => Path::Stream,
            Origin::Found(_) => Path::Sweep,
        }
    }

    /// Where the event was read.
    pub(crate) fn source(&self) -> Source {
        Source {
            path: self.path(),
            record: match &self.origin {
                Origin::Record(_, position) => {
                    Some((self.shard.id.to_string(), position.to_string()))
                }
                Origin::Found(_) => None,
            },
        }
    }

    /// Published and marked, or quarantined.
    pub(crate) fn done(self) {
        if let Origin::Record(number, _) = self.origin {
            self.shard.progress().done(number);
        }
    }
}

impl Drop for Ack {
    fn drop(&mut self) {
        if let Origin::Found(key) = &self.origin {
            self.shard.found().remove(key);
        }
        self.shard.outstanding.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What to do with an event that was read for `acks`.
pub(crate) fn permission(acks: &[Ack], now: Instant) -> Permission {
    acks.iter()
        .map(|ack| ack.shard.permission(now))
        .reduce(|one, other| match (one, other) {
            (Permission::Send, _) | (_, Permission::Send) => Permission::Send,
            (Permission::Later(at), _) | (_, Permission::Later(at)) => Permission::Later(at),
            (Permission::Never, Permission::Never) => Permission::Never,
        })
        .unwrap_or(Permission::Never)
}
