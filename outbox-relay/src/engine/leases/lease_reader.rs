//! Reads the leases of the group.

use std::collections::BTreeSet;

use tokio::time::Instant;

use crate::engine::context::ShardContext;
use crate::ports::{Lease, LeaseError, LeaseState, ShardId, maintenance_id};

/// Number of leases of consumed shards from which on reads usually omit them. A stream keeps a
/// closed shard for a day, and shard ids increase with time, so the consumed ones are first.
const MANY_ENDED: usize = 1_000;

/// Leases of the group as of one read.
#[derive(Debug, Default)]
pub(super) struct GroupLeases {
    pub(super) shards: Vec<Lease>,
    /// The maintenance lease and those of the sweepers.
    pub(super) maintenance: Vec<Lease>,
    pub(super) members: Vec<Lease>,
    pub(super) unreadable: BTreeSet<ShardId>,
    /// Number of leases that were read, without those that are remembered.
    pub(super) count: usize,
}

impl GroupLeases {
    /// Returns all leases.
    pub(super) fn all(&self) -> impl Iterator<Item = &Lease> {
        self.shards
            .iter()
            .chain(&self.maintenance)
            .chain(&self.members)
    }

    /// Returns the maintenance lease.
    pub(super) fn maintenance_lease(&self) -> Option<&Lease> {
        let id = maintenance_id();
        self.maintenance.iter().find(|lease| lease.shard == id)
    }
}

/// Reads the leases of one stream.
#[derive(Debug, Default)]
pub(super) struct LeaseReader {
    /// Result of the last read of all leases, if the next ones can omit some.
    last_full: Option<FullRead>,
}

#[derive(Debug)]
struct FullRead {
    read_at: Instant,
    /// Leases of consumed shards before `from`.
    ended: Vec<Lease>,
    unreadable: BTreeSet<ShardId>,
    /// First lease that is not `ended`.
    from: ShardId,
}

impl LeaseReader {
    /// Reads the leases: all of them at least once per lease duration, and otherwise those that can
    /// have changed.
    pub(super) async fn read(&mut self, ctx: &ShardContext) -> Result<GroupLeases, LeaseError> {
        let now = Instant::now();
        let lease_duration = ctx.config.lease_duration;
        self.last_full
            .take_if(|full| now.saturating_duration_since(full.read_at) >= lease_duration);
        let from = self.last_full.as_ref().map(|full| &full.from);
        let (table, stream) = (&ctx.ports.leases, &ctx.stream);
        let (listed, others) =
            tokio::try_join!(table.list(stream, from), table.list_maintenance(stream))?;
        let mut read = GroupLeases {
            unreadable: listed.unreadable,
            count: listed.leases.len() + others.leases.len(),
            ..GroupLeases::default()
        };
        (read.shards, read.maintenance) = listed
            .leases
            .into_iter()
            .partition(|lease| lease.shard.is_shard());
        match &self.last_full {
            Some(full) => {
                read.shards.extend(full.ended.iter().cloned());
                read.unreadable.extend(full.unreadable.iter().cloned());
            }
            None => self.remember(&read, now),
        }
        for lease in others.leases {
            if lease.shard.member().is_some() {
                read.members.push(lease);
            } else {
                read.maintenance.push(lease);
            }
        }
        read.unreadable.extend(others.unreadable);
        Ok(read)
    }

    /// Remembers the leases that the next reads omit.
    fn remember(&mut self, read: &GroupLeases, now: Instant) {
        let is_open = |lease: &&Lease| lease.state == LeaseState::Open;
        let open = read.shards.iter().filter(is_open);
        let from = open.map(|lease| lease.shard.clone()).min();
        let from = from.unwrap_or_else(maintenance_id);
        let ended = read.shards.iter().filter(|lease| lease.shard < from);
        if ended.clone().count() >= MANY_ENDED {
            self.last_full = Some(FullRead {
                read_at: now,
                ended: ended.cloned().collect(),
                unreadable: read.unreadable.clone(),
                from,
            });
        }
    }
}
