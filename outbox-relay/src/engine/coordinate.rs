//! Finds the stream's shards and takes those that are free.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior};

use super::shard::{Ending, Surroundings, hold};
use crate::decide::backoff;
use crate::decide::ownership::{Observations, takable, unregistered};
use crate::ports::{Lease, LeaseError, Shard, ShardId};

/// The stream's shards are listed this often; more often would cost a busy
/// stream's few DescribeStream calls.
const LISTING_INTERVAL: Duration = Duration::from_secs(60);

/// After the end of a shard its children are looked for, but not more often
/// than this, however many shards end at once.
const LISTING_PAUSE: Duration = Duration::from_secs(2);

/// Runs until the engine stops and every shard is let go.
pub(super) async fn run(mut around: Surroundings, mut random: fastrand::Rng) {
    let Some(stream) = locate(&around, &mut random).await else {
        around.release.cancelled().await;
        return;
    };
    around.stream = stream;
    let mut coordinator = Coordinator {
        around,
        random,
        shards: Vec::new(),
        listed_at: None,
        relist: false,
        observations: Observations::default(),
        held: BTreeSet::new(),
        holders: JoinSet::new(),
    };
    coordinator.work().await;
    while let Some(ended) = coordinator.holders.join_next().await {
        coordinator.ended(ended);
    }
}

/// Asks for the stream until there is one; `None` when stopped before.
async fn locate(around: &Surroundings, random: &mut fastrand::Rng) -> Option<Arc<str>> {
    let mut failures = 0;
    loop {
        tokio::select! {
            biased;
            () = around.stop.cancelled() => return None,
            located = around.ports.stream.locate() => match located {
                Ok(stream) => {
                    around.status.stream(Ok(()));
                    tracing::info!(%stream, "stream found");
                    return Some(stream);
                }
                Err(error) => {
                    around.status.stream(Err(error.to_string()));
                    failures += 1;
                    tracing::warn!(%error, "the outbox stream cannot be read yet");
                }
            }
        }
        tokio::select! {
            biased;
            () = around.stop.cancelled() => return None,
            () = tokio::time::sleep(backoff::delay(failures, random.f64())) => {}
        }
    }
}

struct Coordinator {
    around: Surroundings,
    random: fastrand::Rng,
    shards: Vec<Shard>,
    listed_at: Option<Instant>,
    relist: bool,
    observations: Observations,
    held: BTreeSet<ShardId>,
    holders: JoinSet<(ShardId, Ending)>,
}

impl Coordinator {
    async fn work(&mut self) {
        let stop = self.around.stop.clone();
        let mut turns = tokio::time::interval(self.around.config.lease_duration / 4);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                Some(ended) = self.holders.join_next() => self.ended(ended),
                _ = turns.tick() => {}
            }
            let free = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                free = self.free_leases() => free,
            };
            // Taking is not cut off: a lease that was taken and forgotten
            // would keep its shard idle for a lease duration.
            for lease in free {
                if stop.is_cancelled() {
                    return;
                }
                self.take(lease).await;
            }
        }
    }

    fn ended(&mut self, ended: Result<(ShardId, Ending), tokio::task::JoinError>) {
        match ended {
            Ok((shard, ending)) => {
                self.held.remove(&shard);
                self.relist |= ending == Ending::Ended;
            }
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::error!(%error, "a shard's task failed"),
        }
    }

    /// One look at shards and leases: what to take. What fails is looked at
    /// again next time.
    async fn free_leases(&mut self) -> Vec<Lease> {
        self.list_shards().await;
        let leases = match self.leases().await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(%error, "the lease table could not be read; trying again");
                return Vec::new();
            }
        };
        let now = Instant::now();
        self.observations.note(&leases, now);
        let config = &self.around.config;
        takable(
            &self.shards,
            &leases,
            &self.observations,
            &self.held,
            &config.instance,
            now,
            config.lease_duration,
        )
        .into_iter()
        .cloned()
        .collect()
    }

    async fn list_shards(&mut self) {
        let due = self.listed_at.is_none_or(|at| {
            let age = at.elapsed();
            age >= LISTING_INTERVAL || (self.relist && age >= LISTING_PAUSE)
        });
        if !due {
            return;
        }
        match self.around.ports.stream.shards(&self.around.stream).await {
            Ok(shards) => {
                self.shards = shards;
                self.listed_at = Some(Instant::now());
                self.relist = false;
                self.around.status.stream(Ok(()));
            }
            Err(error) => {
                self.around.status.stream(Err(error.to_string()));
                tracing::warn!(%error, "the stream's shards could not be listed; trying again");
            }
        }
    }

    /// All rows, after adding those of new shards.
    async fn leases(&self) -> Result<Vec<Lease>, LeaseError> {
        let table = &self.around.ports.leases;
        let stream = &self.around.stream;
        let leases = table.list(stream).await?;
        let new = unregistered(&self.shards, &leases);
        if new.is_empty() {
            return Ok(leases);
        }
        for shard in new {
            let lease = Lease::unread(shard.id.clone(), shard.parent.clone());
            table.create(stream, &lease).await?;
        }
        table.list(stream).await
    }

    async fn take(&mut self, seen: Lease) {
        let mut mine = seen.clone();
        mine.owner = Some(self.around.config.instance.clone());
        mine.epoch += 1;
        mine.beat += 1;
        let began = Instant::now();
        match self
            .around
            .ports
            .leases
            .take(&self.around.stream, &seen, &mine)
            .await
        {
            Ok(()) => {
                let shard = mine.shard.clone();
                self.held.insert(shard.clone());
                let around = self.around.clone();
                let random = self.random.fork();
                self.holders
                    .spawn(async move { (shard, hold(mine, began, around, random).await) });
            }
            Err(LeaseError::Lost) => {
                tracing::debug!(shard = %seen.shard, "another instance was faster");
            }
            Err(LeaseError::Unavailable(reason)) => {
                tracing::warn!(shard = %seen.shard, reason, "the shard could not be taken; trying again");
            }
        }
    }
}

/// Looks at the pending events of the table from time to time, for the gauges.
pub(super) async fn survey(around: Surroundings) {
    let mut turns = tokio::time::interval(around.config.survey_interval);
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            () = around.stop.cancelled() => return,
            _ = turns.tick() => {}
        }
        tokio::select! {
            biased;
            () = around.stop.cancelled() => return,
            pending = around.ports.outbox.pending() => match pending {
                Ok((count, oldest)) => around.status.pending(count, oldest),
                Err(error) => tracing::warn!(%error, "pending events could not be counted"),
            }
        }
    }
}
