//! Takes, asks for and gives up leases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use crate::engine::crash;
use crate::engine::leases::shard_consumer::{Ending, Surroundings, hold};
use crate::engine::leases::shard_discovery::{Listing, Turn};
use crate::policy::backoff;
use crate::policy::lease_assignment::{Myself, takable, to_ask, wants_listing, with_registered};
use crate::policy::lease_liveness::Observations;
use crate::ports::{Lease, LeaseError, LeaseRequests, SWEEPER, Shard, ShardId};

/// Leases are looked at this often, so that one that was given back is taken
/// soon, plus a bit for every row, as a look reads them all; but four times a
/// lease duration at least.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);
const LOOK_PER_ROW: Duration = Duration::from_millis(1);

/// Lease requests at once, when a stream has many shards.
pub(crate) const LEASE_REQUESTS: usize = 16;

/// Runs until the engine stops and every lease is let go.
pub(crate) async fn run(mut around: Surroundings, mut random: fastrand::Rng) {
    while let Some(stream) = locate(&around, &mut random).await {
        around.stream = stream;
        let mut coordinator = Coordinator {
            around: around.clone(),
            random: random.fork(),
            listing: Listing::new(&around),
            observations: Observations::default(),
            rows: 0,
            held: BTreeSet::new(),
            holders: JoinSet::new(),
        };
        if let Outcome::Stopping = coordinator.work().await {
            while let Some(ended) = coordinator.holders.join_next().await {
                coordinator.ended(ended);
            }
            break;
        }
        // What was being read is closed by its end; the sweeper of the new
        // stream publishes what is left.
        coordinator.holders.shutdown().await;
    }
    around.release.cancelled().await;
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
                    around
                        .status
                        .coordination(Err(error.to_string()), Instant::now());
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

/// Why a coordinator ended.
enum Outcome {
    Stopping,
    /// The table has another stream now.
    StreamChanged,
}

pub(crate) struct Coordinator {
    pub(crate) around: Surroundings,
    random: fastrand::Rng,
    pub(crate) listing: Listing,
    pub(crate) observations: Observations,
    /// Rows of the lease table at the last look.
    rows: usize,
    held: BTreeSet<ShardId>,
    holders: JoinSet<(ShardId, Ending)>,
}

impl Coordinator {
    async fn work(&mut self) -> Outcome {
        let stop = self.around.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => return Outcome::Stopping,
            () = self.enter() => {}
        }
        loop {
            let round = tokio::select! {
                biased;
                () = stop.cancelled() => return Outcome::Stopping,
                round = self.look() => round,
            };
            let free = match round {
                Round::StreamChanged => return Outcome::StreamChanged,
                Round::Free(free) => free,
            };
            // Taking is not cut off: a lease that was taken and forgotten
            // would keep its shard idle for a lease duration.
            for leases in free.chunks(LEASE_REQUESTS) {
                if stop.is_cancelled() {
                    return Outcome::Stopping;
                }
                self.take(leases).await;
            }
            let parents = tokio::select! {
                biased;
                () = stop.cancelled() => return Outcome::Stopping,
                parents = self.rest() => parents,
            };
            self.listing.find_children(&self.around, &parents).await;
        }
    }

    /// The pause until the next look; returns the shards that were read to
    /// their end meanwhile. The end of a shard makes it a short one.
    async fn rest(&mut self) -> Vec<ShardId> {
        let now = Instant::now();
        let per_row = LOOK_PER_ROW * u32::try_from(self.rows).unwrap_or(u32::MAX);
        let longest = self.around.config.lease_duration / 4;
        let mut until = now + LOOK_INTERVAL.saturating_add(per_row).min(longest);
        let mut parents = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.holders.join_next() => {
                    until = until.min(now + per_row);
                    parents.extend(self.ended(ended));
                }
                () = tokio::time::sleep_until(until) => return parents,
            }
        }
    }

    /// A lease is let go; returns its shard when it was read to its end.
    fn ended(&mut self, ended: Result<(ShardId, Ending), JoinError>) -> Option<ShardId> {
        match ended {
            Ok((shard, ending)) => {
                self.held.remove(&shard);
                (ending == Ending::Ended).then_some(shard)
            }
            Err(error) => {
                crash(error);
                None
            }
        }
    }

    /// Rule 7: when the consumer group read another stream before, what nobody
    /// read of that is a gap. Of all instances one is told.
    async fn enter(&mut self) {
        let mut failures = 0;
        loop {
            let stream = &self.around.stream;
            match self.around.ports.leases.register_stream(stream).await {
                Ok(None) => return,
                Ok(Some(old)) => {
                    self.around.metrics.gap();
                    tracing::error!(
                        old,
                        new = %stream,
                        "stream gap: the outbox table has another stream; pending events of the old one are published from the table"
                    );
                    return;
                }
                Err(error) => {
                    self.around
                        .status
                        .coordination(Err(error.to_string()), Instant::now());
                    failures += 1;
                    tracing::warn!(%error, "the lease table could not be written; trying again");
                    tokio::time::sleep(backoff::delay(failures, self.random.f64())).await;
                }
            }
        }
    }

    /// One look at shards and leases: what to take. What fails is looked at
    /// again next time.
    async fn look(&mut self) -> Round {
        let mut failure = None;
        match self.listing.go_on(&self.around).await {
            Ok(Turn::StreamChanged) => return Round::StreamChanged,
            Ok(Turn::Complete { at }) => {
                let listed = self.shards();
                self.observations.note_listing(&listed, at);
            }
            Ok(Turn::NotDue) => {}
            Err(error) => {
                failure = Some(error.to_string());
                self.around.status.stream(Err(error.to_string()));
                tracing::warn!(%error, "the stream's shards could not be listed; trying again");
            }
        }
        let leases = match self.rows().await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(%error, "the lease table could not be read; trying again");
                self.around
                    .status
                    .coordination(Err(error.to_string()), Instant::now());
                return Round::Free(Vec::new());
            }
        };
        let shards = with_registered(self.shards(), &leases);
        let now = Instant::now();
        self.around
            .status
            .coordination(failure.map_or(Ok(()), Err), now);
        self.rows = leases.len();
        self.observations.note(&leases, now);
        // Without a listing it is not known which parents are gone.
        if self.listing.listed_at().is_none() {
            return Round::Free(Vec::new());
        }
        let free: Vec<Lease> = takable(&shards, &leases, &self.observations, self.myself(now))
            .into_iter()
            .cloned()
            .collect();
        let me = self.myself(now);
        if wants_listing(&shards, &leases, &self.observations, me) {
            self.around.want_listing();
        }
        let unowned = free.iter().map(|lease| lease.shard.clone()).collect();
        self.around.status.unowned(unowned, now);
        if free.is_empty() {
            self.balance(&leases, now).await;
        }
        Round::Free(free)
    }

    /// The listed shards, and the sweeper's lease, which is one like theirs.
    pub(crate) fn shards(&self) -> Vec<Shard> {
        let mut shards = self.around.shards();
        shards.push(Shard {
            id: ShardId(SWEEPER.into()),
            parent: None,
        });
        shards
    }

    fn myself(&self, now: Instant) -> Myself<'_> {
        Myself {
            name: &self.around.config.instance,
            held: &self.held,
            now,
            lease_duration: self.around.config.lease_duration,
        }
    }

    /// The row as this instance writes it when it takes it.
    fn mine(&self, seen: &Lease) -> Lease {
        let mut mine = seen.clone();
        mine.owner = Some(self.around.config.instance.clone());
        mine.epoch += 1;
        mine.heartbeat += 1;
        mine.requests = LeaseRequests::default();
        mine
    }

    async fn take(&mut self, leases: &[Lease]) {
        let began = Instant::now();
        let mine: Vec<_> = leases.iter().map(|seen| self.mine(seen)).collect();
        let requests = leases.iter().zip(&mine).map(|(seen, mine)| {
            let table = &self.around.ports.leases;
            table.acquire(&self.around.stream, seen, mine)
        });
        let answers = join_all(requests).await;
        for (lease, answer) in mine.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    let shard = lease.shard.clone();
                    self.held.insert(shard.clone());
                    self.around.status.took(Instant::now());
                    let around = self.around.clone();
                    let random = self.random.fork();
                    self.holders.spawn(async move {
                        let ending = hold(lease, began, around, random).await;
                        (shard, ending)
                    });
                }
                Err(LeaseError::Lost) => {
                    tracing::debug!(shard = %lease.shard, "another instance was faster");
                }
                Err(LeaseError::Unavailable(reason)) => {
                    tracing::warn!(shard = %lease.shard, reason, "the lease could not be taken; trying again");
                }
            }
        }
    }

    /// Rule 3: asks for a shard when another instance has too many.
    async fn balance(&self, leases: &[Lease], now: Instant) {
        let config = &self.around.config;
        let mine = self
            .held
            .iter()
            .filter(|shard| *shard.0 != *SWEEPER)
            .count();
        let wanted = to_ask(
            leases,
            &self.observations,
            mine,
            &config.instance,
            now,
            config.lease_duration,
        );
        let Some(wanted) = wanted else {
            return;
        };
        let table = &self.around.ports.leases;
        match table
            .request(&self.around.stream, wanted, &config.instance)
            .await
        {
            Ok(()) => tracing::info!(
                shard = %wanted.shard,
                owner = wanted.owner,
                "asked another instance for a shard"
            ),
            // It changed hands meanwhile; the next round sees how.
            Err(LeaseError::Lost) => {}
            Err(error) => tracing::debug!(%error, "a shard could not be asked for"),
        }
    }
}

/// What a look at shards and leases came to.
enum Round {
    StreamChanged,
    /// To be taken.
    Free(Vec<Lease>),
}
