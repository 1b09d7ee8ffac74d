//! A shard this instance holds, as reader, publisher and keeper share it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;

use crate::decide::progress::{Progress, RecordNumber};
use crate::decide::schedule::Permission;
use crate::ports::{SequenceNumber, ShardId};

use super::spans::Source;

/// How long to hold events back while it is unclear whether the lease is still
/// held.
const DOUBT: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(crate) struct HeldShard {
    pub(crate) id: ShardId,
    // Locks are held for a few instructions, never across an await.
    progress: Mutex<Progress>,
    fence: Mutex<Fence>,
}

/// Whether events of the shard may still be sent (rule 4).
#[derive(Clone, Copy, Debug)]
enum Fence {
    /// Nobody else can have taken the shard before this instant.
    HeldUntil(Instant),
    Lost,
}

impl HeldShard {
    pub(crate) fn new(id: ShardId, progress: Progress, held_until: Instant) -> Self {
        Self {
            id,
            progress: Mutex::new(progress),
            fence: Mutex::new(Fence::HeldUntil(held_until)),
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

    /// Another instance has the shard. There is no way back.
    pub(crate) fn lost(&self) {
        *self.fence() = Fence::Lost;
    }

    /// Whether its events may be sent at `now`. An instance that was paused
    /// past its lease finds out here, before it sends.
    pub(crate) fn permission(&self, now: Instant) -> Permission {
        match *self.fence() {
            Fence::Lost => Permission::Never,
            Fence::HeldUntil(until) if now < until => Permission::Send,
            Fence::HeldUntil(_) => Permission::Later(now + DOUBT),
        }
    }
}

/// Stands for one record that was read: it takes up room until it is done.
#[derive(Debug)]
pub(crate) struct Ack {
    pub(crate) shard: Arc<HeldShard>,
    pub(crate) number: RecordNumber,
    pub(crate) position: SequenceNumber,
    /// Given back when dropped.
    pub(crate) _room: OwnedSemaphorePermit,
}

impl Ack {
    /// Where the event was read.
    pub(crate) fn source(&self) -> Source {
        Source {
            shard: self.shard.id.to_string(),
            position: self.position.to_string(),
        }
    }

    /// Published and marked, or quarantined.
    pub(crate) fn done(self) {
        self.shard.progress().done(self.number);
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
