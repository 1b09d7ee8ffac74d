//! Lease table port.

use async_trait::async_trait;
use outbox::timestamp::Timestamp;
use outbox_relay::ports::{
    Lease, LeaseError, LeaseRequests, LeaseTable, Leases, ShardId, maintenance_id,
};

use super::{Mutation, View};
use crate::world::Limit;

/// Returns the error of a write that takes effect after its sender gave up.
fn may_time_out<T>() -> Option<Result<T, LeaseError>> {
    Some(Err(unavailable()))
}

fn unavailable() -> LeaseError {
    LeaseError::Unavailable("simulated".to_owned())
}

/// Returns `true` if it is the item of a member of the group.
fn is_member(id: &ShardId) -> bool {
    id.to_string().starts_with("member#")
}

fn lease_id(stream: &str, shard: &ShardId) -> (String, ShardId) {
    (stream.to_owned(), shard.clone())
}

#[async_trait]
impl LeaseTable for View {
    async fn register_stream(&self, stream: &str) -> Result<Option<String>, LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.02) || self.world().leases_unavailable {
            return Err(unavailable());
        }
        let mut world = self.world();
        let before = world.entered.replace(stream.to_owned());
        Ok(before.filter(|before| before != stream))
    }

    async fn previous_stream(&self) -> Result<Option<String>, LeaseError> {
        Ok(None)
    }

    async fn forget_previous_stream(&self, _previous: &str) -> Result<(), LeaseError> {
        Ok(())
    }

    async fn register_group(
        &self,
        _stream: &str,
        _stopped: Option<&str>,
    ) -> Result<Option<String>, LeaseError> {
        Ok(None)
    }

    async fn list_of_group(&self, _stream: &str, _group: &str) -> Result<Leases, LeaseError> {
        Ok(Leases::default())
    }

    async fn list(&self, stream: &str, from: Option<&ShardId>) -> Result<Leases, LeaseError> {
        self.list_where(stream, |id| {
            !id.is_in_maintenance_partition() && from.is_none_or(|from| id >= from)
        })
        .await
    }

    async fn list_maintenance(&self, stream: &str) -> Result<Leases, LeaseError> {
        self.list_where(stream, ShardId::is_in_maintenance_partition)
            .await
    }

    async fn create(&self, stream: &str, lease: &Lease) -> Result<(), LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.05) || self.refuses_lease_write() {
            return Err(unavailable());
        }
        let mut world = self.world();
        world
            .leases
            .entry(lease_id(stream, &lease.shard))
            .or_insert_with(|| lease.clone());
        Ok(())
    }

    async fn acquire(&self, stream: &str, seen: &Lease, new: &Lease) -> Result<(), LeaseError> {
        let (id, seen, lease) = (lease_id(stream, &new.shard), seen.clone(), new.clone());
        self.request(may_time_out(), move |view, _| {
            let acquired = view.write(&id, &lease, |stored| stored.is_same_write(&seen));
            // Even if the answer is lost.
            if view.has_written(&id, &lease) {
                view.world().acquired(&view.name, id);
            }
            acquired
        })
        .await?;
        self.world().inform(&self.name, &new.shard, false);
        Ok(())
    }

    async fn renew(
        &self,
        stream: &str,
        holder: &str,
        lease: &Lease,
    ) -> Result<LeaseRequests, LeaseError> {
        let (id, holder, lease) = (
            lease_id(stream, &lease.shard),
            holder.to_owned(),
            lease.clone(),
        );
        let shard = lease.shard.clone();
        let is_release = lease.owner.as_ref() != Some(&holder);
        let renewed = self.request(may_time_out(), move |view, _| {
            let renewed = view.write(&id, &lease, |stored| {
                stored.owner.as_deref() == Some(&*holder)
                    && stored.epoch == lease.epoch
                    && stored.heartbeat < lease.heartbeat
            });
            if view.has_written(&id, &lease) && is_release {
                view.world().released(&id);
            }
            renewed
        });
        let renewed = renewed.await;
        if renewed.is_ok() && is_release {
            self.world().forget_informed(&self.name, &shard);
        }
        let is_told = match &renewed {
            Ok(_) => self.lacks(Mutation::LostUnnoticed),
            Err(error) => matches!(error, LeaseError::Lost(_)),
        };
        if is_told {
            self.world().tell(&self.name, &shard);
        }
        renewed
    }

    async fn request(&self, stream: &str, seen: &Lease, instance: &str) -> Result<(), LeaseError> {
        self.travel().await;
        if self.refuses_lease_write() {
            return Err(unavailable());
        }
        let mut world = self.world();
        if self.lacks(Mutation::NoBalance) {
            return Ok(());
        }
        let Some(stored) = world.leases.get_mut(&lease_id(stream, &seen.shard)) else {
            return Err(LeaseError::Lost(None));
        };
        if (&stored.owner, stored.epoch) != (&seen.owner, seen.epoch) {
            return Err(LeaseError::Lost(None));
        }
        stored.requests.requested_by = Some(instance.to_owned());
        let name = &self.name;
        world.log(format!("{name} requests {}", seen.shard));
        Ok(())
    }

    async fn request_sweep(&self, stream: &str) -> Result<(), LeaseError> {
        self.travel().await;
        if self.refuses_lease_write() {
            return Err(unavailable());
        }
        let mut world = self.world();
        let value = world.next_value();
        let sweepers = world
            .leases
            .iter_mut()
            .filter(|((of, id), _)| of == stream && id.sweeper_index().is_some());
        for (_, stored) in sweepers {
            stored.requests.sweep = Some(value.clone());
        }
        Ok(())
    }

    async fn request_listing(&self, stream: &str) -> Result<(), LeaseError> {
        self.travel().await;
        let mut world = self.world();
        let value = world.next_value();
        let maintenance = (stream.to_owned(), maintenance_id());
        if let Some(stored) = world.leases.get_mut(&maintenance) {
            stored.requests.listing = Some(value);
        }
        Ok(())
    }

    async fn mark_unlisted(
        &self,
        stream: &str,
        shard: &ShardId,
        since: Option<Timestamp>,
    ) -> Result<(), LeaseError> {
        self.travel().await;
        let mut world = self.world();
        match world.leases.get_mut(&lease_id(stream, shard)) {
            Some(stored) => {
                stored.unlisted_at = since;
                Ok(())
            }
            None => Err(LeaseError::Lost(None)),
        }
    }

    async fn remove(&self, stream: &str, seen: &Lease) -> Result<(), LeaseError> {
        self.travel().await;
        if self.refuses_lease_write() {
            return Err(unavailable());
        }
        let mut world = self.world();
        match world.leases.get(&lease_id(stream, &seen.shard)) {
            Some(stored) if stored.is_same_write(seen) => {
                let lease = lease_id(stream, &seen.shard);
                world.leases.remove(&lease);
                world.holders.remove(&lease);
                Ok(())
            }
            _ => Err(LeaseError::Lost(None)),
        }
    }
}

impl View {
    async fn list_where(
        &self,
        stream: &str,
        is_listed: impl Fn(&ShardId) -> bool,
    ) -> Result<Leases, LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.02) || self.world().leases_unavailable {
            return Err(unavailable());
        }
        let leases = {
            let world = self.world();
            let of_stream = world
                .leases
                .iter()
                .filter(|((of, id), _)| of == stream && is_listed(id))
                .filter(|((_, id), _)| !(self.lacks(Mutation::NoBalance) && is_member(id)));
            let leases = of_stream.map(|(_, lease)| lease.clone());
            leases.map(|lease| self.as_seen(lease)).collect()
        };
        self.travel().await;
        Ok(Leases {
            leases,
            ..Leases::default()
        })
    }

    /// Returns `true` if the stored lease is the one that was written, even if the answer is lost.
    fn has_written(&self, id: &(String, ShardId), lease: &Lease) -> bool {
        let world = self.world();
        let stored = world.leases.get(id);
        stored.is_some_and(|stored| stored.is_same_write(lease))
    }

    /// Returns `true` if the table refuses a write: it is unavailable or throttles.
    fn refuses_lease_write(&self) -> bool {
        let mut world = self.world();
        world.leases_unavailable || world.is_throttled(Limit::LeaseWrites)
    }

    /// Returns a lease as this instance receives it.
    fn as_seen(&self, mut lease: Lease) -> Lease {
        if self.lacks(Mutation::NotWaitingForReaders) {
            lease.low_watermark = Some(Timestamp::from_millis(i64::MAX));
        }
        lease
    }

    fn write(
        &self,
        id: &(String, ShardId),
        lease: &Lease,
        condition: impl Fn(&Lease) -> bool,
    ) -> Result<LeaseRequests, LeaseError> {
        if self.strikes("lease write failed", 0.04) || self.refuses_lease_write() {
            return Err(unavailable());
        }
        let mut world = self.world();
        let Some(stored) = world.leases.get(id).cloned() else {
            return Err(LeaseError::Lost(None));
        };
        if !condition(&stored) {
            // A late write of the same epoch, or of an earlier one of this incarnation, fails as
            // well, and loses nothing.
            let is_own = world.holders.get(id) == Some(&self.name);
            if stored.epoch != lease.epoch && !is_own {
                world.inform(&self.name, &lease.shard, true);
            }
            if self.lacks(Mutation::LostUnnoticed) {
                return Ok(LeaseRequests::default());
            }
            if !self.lacks(Mutation::NoFence) {
                return Err(LeaseError::Lost(Some(Box::new(stored))));
            }
        }
        world.check_fence(&stored, lease);
        world.check_checkpoint(lease);
        world.check_progress(&stored, lease);
        let name = &self.name;
        world.log(format!(
            "{name} writes {} owner {:?} epoch {} checkpoint {:?} until {:?}",
            lease.shard,
            lease.owner,
            lease.epoch,
            lease.checkpoint.as_ref().map(ToString::to_string),
            lease.low_watermark.map(|mark| mark.to_string()),
        ));
        let mut written = lease.clone();
        let is_change = stored.epoch != lease.epoch;
        written.requests = if is_change {
            LeaseRequests::default()
        } else {
            stored.requests
        };
        written.unlisted_at = stored.unlisted_at;
        if written.owner != stored.owner {
            written.requests.requested_by = None;
        }
        let requests = written.requests.clone();
        world.leases.insert(id.clone(), written);
        if world.strikes("lease answer lost", 0.02) {
            Err(unavailable())
        } else {
            Ok(requests)
        }
    }
}
