//! Lease balancer: divides the leases among the instances of the group (the "balance" rule).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lease_reader::GroupLeases;
use super::lease_renewer::ShardSignals;
use crate::policy::lease_assignment::InstanceView;
use crate::policy::lease_balance::{Decision, Division, is_of_older_release, live_instances};
use crate::ports::{Lease, ShardId};

/// Leases that this process holds.
#[derive(Default)]
pub(super) struct HeldLeases {
    /// Number of each acquisition, and the signals to the renewer.
    leases: BTreeMap<ShardId, (u64, Arc<ShardSignals>)>,
    acquisitions: u64,
}

impl HeldLeases {
    pub(super) fn insert(&mut self, shard: ShardId, signals: Arc<ShardSignals>) {
        self.leases.insert(shard, (self.acquisitions, signals));
        self.acquisitions += 1;
    }

    pub(super) fn remove(&mut self, shard: &ShardId) {
        self.leases.remove(shard);
    }

    pub(super) fn contains(&self, shard: &ShardId) -> bool {
        self.leases.contains_key(shard)
    }

    pub(super) fn signals(&self, shard: &ShardId) -> Option<&ShardSignals> {
        self.leases.get(shard).map(|(_, signals)| &**signals)
    }

    /// Returns the leases that are not given up, in the order of their acquisition.
    fn kept(&self, is_counted: impl Fn(&ShardId) -> bool) -> Vec<ShardId> {
        let mut kept: Vec<_> = self
            .leases
            .iter()
            .filter(|(shard, (_, signals))| is_counted(shard) && !signals.give_up.is_cancelled())
            .collect();
        kept.sort_by_key(|(_, (acquisition, _))| *acquisition);
        kept.into_iter().map(|(shard, _)| shard.clone()).collect()
    }
}

/// Returns the open leases of shards, and what to do with them.
pub(super) fn divide_shards<'a>(
    read: &'a GroupLeases,
    view: InstanceView<'_>,
    held: &HeldLeases,
) -> (Vec<&'a Lease>, Decision<'a>) {
    let live = live_instances(view.name, &read.members, &read.shards, |lease| {
        !view.is_expired(lease)
    });
    let leases = view.startable(&read.shards);
    let decision = decide(&leases, &live, view, held, ShardId::is_shard);
    (leases, decision)
}

/// Returns the maintenance leases, and what to do with them. While an older release holds the
/// maintenance lease it sweeps all events, so that no other instance may hold a sweeper's.
pub(super) fn divide_maintenance<'a>(
    read: &'a GroupLeases,
    view: InstanceView<'_>,
    held: &HeldLeases,
) -> (Vec<&'a Lease>, Decision<'a>) {
    let maintenance = read.maintenance_lease();
    let older = maintenance.filter(|lease| is_of_older_release(lease));
    let leases = match older {
        Some(maintenance) => vec![maintenance],
        None => view.startable(&read.maintenance),
    };
    let live = live_instances(view.name, &read.members, &[], |lease| {
        !view.is_expired(lease)
    });
    let is_maintenance = |id: &ShardId| !id.is_shard();
    let mut decision = decide(&leases, &live, view, held, is_maintenance);
    decision.request.clear();
    if older.is_some() {
        decision.give_up = held.kept(is_maintenance);
    }
    (leases, decision)
}

fn decide<'a>(
    leases: &[&'a Lease],
    live: &BTreeSet<&str>,
    view: InstanceView<'_>,
    held: &HeldLeases,
    is_divided: impl Fn(&ShardId) -> bool,
) -> Decision<'a> {
    let available = view.available(leases, |shard| held.contains(shard));
    let division = Division {
        name: view.name,
        live,
        leases,
        available: &available,
        left_over: &view.left_over(&available),
        held: &held.kept(is_divided),
    };
    division.decide()
}
