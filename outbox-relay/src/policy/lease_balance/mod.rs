//! Decides which leases this instance acquires, gives up and requests, so that the leases are
//! divided evenly among the live instances (the "balance" rule).
//!
//! Every instance reads the same lease items and computes the same shares, so instances need not
//! send each other requests: one that has too many leases releases them, and those that have too
//! few acquire them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::ports::{Lease, ShardId, maintenance_id};

/// Leases that are divided among the instances: those of the shards that may be read, or those of
/// maintenance.
#[derive(Clone, Debug)]
pub struct Division<'v, 'a> {
    /// Name of the instance that decides.
    pub name: &'v str,
    /// Live instances, among them the one that decides.
    pub live: &'v BTreeSet<&'v str>,
    /// Open leases whose shards may be read.
    pub leases: &'v [&'a Lease],
    /// Those of them that no live instance owns.
    pub available: &'v [&'a Lease],
    /// Those of `available` that no instance acquired for so long that the view of the live
    /// instances may be wrong.
    pub left_over: &'v [&'a Lease],
    /// Leases that the deciding instance holds and does not give up yet, in the order in which it
    /// acquired them.
    pub held: &'v [ShardId],
}

/// Changes that the deciding instance makes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision<'a> {
    pub acquire: Vec<&'a Lease>,
    pub give_up: Vec<ShardId>,
    /// Leases to request from owners of an older release, which release none by themselves.
    pub request: Vec<&'a Lease>,
}

/// Returns the instances that share the leases: the live members of the group, the live owners of
/// an older release, which have no member item, and the instances of an older release that request
/// a lease.
pub fn live_instances<'a>(
    name: &'a str,
    members: &'a [Lease],
    leases: &'a [Lease],
    is_alive: impl Fn(&Lease) -> bool,
) -> BTreeSet<&'a str> {
    let members = members
        .iter()
        .filter(|member| member.owner.is_some() && is_alive(member))
        .filter_map(|member| member.shard.member());
    let older_owners = leases
        .iter()
        .filter(|lease| is_of_older_release(lease) && is_alive(lease))
        .filter_map(|lease| lease.owner.as_deref());
    let requesters = leases
        .iter()
        .filter_map(|lease| lease.requests.requested_by.as_deref());
    members
        .chain(older_owners)
        .chain(requesters)
        .chain([name])
        .collect()
}

impl<'v, 'a> Division<'v, 'a> {
    /// Returns what the deciding instance does to hold its share.
    pub fn decide(&self) -> Decision<'a> {
        let counts = self.counts();
        let share = self.share(self.name, &counts);
        let held = self.held.len();
        if held > share {
            return Decision {
                give_up: self.surplus(held - share),
                ..Decision::default()
            };
        }
        let mut acquire = self.by_preference(&counts);
        let lacking = share - held;
        acquire.truncate(lacking);
        let request = self.to_request(&counts, lacking - acquire.len());
        let share: BTreeSet<_> = acquire.iter().map(|lease| &lease.shard).collect();
        let left_over = self.left_over.iter();
        let more = left_over.filter(|lease| !share.contains(&lease.shard));
        acquire.extend(more.copied().collect::<Vec<_>>());
        Decision {
            acquire,
            give_up: Vec::new(),
            request,
        }
    }

    /// Returns the number of leases of each live instance.
    fn counts(&self) -> BTreeMap<&'v str, usize> {
        let mut counts: BTreeMap<_, _> = self.live.iter().map(|name| (*name, 0)).collect();
        for lease in self.leases {
            if let Some(owner) = lease.owner.as_deref()
                && let Some(count) = counts.get_mut(owner)
            {
                *count += 1;
            }
        }
        counts
    }

    /// Returns the number of leases that `instance` is to hold. Shares differ by at most one; the
    /// instances with the most leases have the larger ones, so that as few leases as possible move.
    fn share(&self, instance: &str, counts: &BTreeMap<&str, usize>) -> usize {
        let count = |name: &str| Reverse(counts.get(name).copied().unwrap_or_default());
        let own = (count(instance), hash(&[instance]), instance);
        let is_earlier = |name: &&&str| (count(name), hash(&[**name]), **name) < own;
        let earlier = self.live.iter().filter(is_earlier).count();
        let remainder = self.leases.len() % self.live.len();
        self.leases.len() / self.live.len() + usize::from(earlier < remainder)
    }

    /// Returns the `count` leases to give up: the most recently acquired ones, so that after a
    /// restart the same leases return. The maintenance lease moves last, because its next holder
    /// starts the listing of the stream from the beginning.
    fn surplus(&self, count: usize) -> Vec<ShardId> {
        let maintenance = maintenance_id();
        let (last, rest): (Vec<_>, Vec<_>) =
            self.held.iter().partition(|shard| **shard == maintenance);
        let order = rest.into_iter().rev().chain(last);
        order.take(count).cloned().collect()
    }

    /// Returns the available leases in the order in which this instance acquires them: those that
    /// an earlier process of this instance owns, then the others by rendezvous hashing among the
    /// instances with too few leases, so that these rarely compete for the same lease.
    fn by_preference(&self, counts: &BTreeMap<&'v str, usize>) -> Vec<&'a Lease> {
        let most = self.leases.len().div_ceil(self.live.len());
        let takers: Vec<_> = counts
            .iter()
            .filter(|(name, count)| **name == self.name || **count < most)
            .map(|(name, _)| *name)
            .collect();
        let mut available = self.available.to_vec();
        available.sort_by_cached_key(|lease| {
            let own = hash(&[self.name, &lease.shard.0]);
            let rank = takers
                .iter()
                .filter(|taker| hash(&[taker, &lease.shard.0]) < own)
                .count();
            let is_owned = lease.owner.as_deref() == Some(self.name);
            (!is_owned, rank, own)
        });
        available
    }

    /// Returns up to `lacking` leases of owners of an older release that have more than their
    /// share, minus those that are requested already.
    fn to_request(&self, counts: &BTreeMap<&'v str, usize>, lacking: usize) -> Vec<&'a Lease> {
        let is_own = |lease: &&&Lease| lease.requests.requested_by.as_deref() == Some(self.name);
        let open = self.leases.iter().filter(is_own).count();
        let mut surplus: BTreeMap<&str, usize> = counts
            .iter()
            .map(|(name, count)| (*name, count.saturating_sub(self.share(name, counts))))
            .collect();
        let mut requested = Vec::new();
        for lease in self.leases {
            if let Some(owner) = lease.owner.as_deref()
                && is_of_older_release(lease)
                && requested.len() + open < lacking
                && let Some(surplus @ 1..) = surplus.get_mut(owner)
            {
                *surplus -= 1;
                if lease.requests.requested_by.is_none() {
                    requested.push(*lease);
                }
            }
        }
        requested
    }
}

/// Returns `true` if an older release, which writes no lease duration, wrote the item last.
pub fn is_of_older_release(lease: &Lease) -> bool {
    lease.owner.is_some() && lease.lease_duration.is_none()
}

/// Returns a hash that is the same in every instance and every release: FNV-1a, with the finalizer
/// of MurmurHash3, since the last bytes of a name would change few of the high bits otherwise.
fn hash(parts: &[&str]) -> u64 {
    let hash = parts
        .iter()
        .flat_map(|part| part.bytes().chain([0]))
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
        });
    let hash = (hash ^ (hash >> 33_u32)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33_u32)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33_u32)
}

#[cfg(test)]
mod tests;
