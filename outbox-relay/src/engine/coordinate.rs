//! Takes, asks for and gives up leases.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::crash;
use super::listing::Listing;
use super::shard::{Ending, Surroundings, hold};
use crate::decide::backoff;
use crate::decide::ownership::{
    Observations, removable, takable, to_ask, unregistered, with_registered,
};
use crate::ports::{Asked, Lease, LeaseError, SWEEPER, Shard, ShardId};

/// Leases are looked at this often, so that one that was given back is taken
/// soon, plus a bit for every row, as a look reads them all; but four times a
/// lease duration at least.
const LOOK_INTERVAL: Duration = Duration::from_millis(400);
const LOOK_PER_ROW: Duration = Duration::from_millis(1);

/// Lease requests at once, when a stream has many shards.
const LEASE_REQUESTS: usize = 16;

/// Runs until the engine stops and every lease is let go.
pub(super) async fn run(mut around: Surroundings, mut random: fastrand::Rng) {
    while let Some(stream) = locate(&around, &mut random).await {
        around.stream = stream;
        let mut coordinator = Coordinator {
            around: around.clone(),
            random: random.fork(),
            listing: Listing::new(),
            observations: Observations::default(),
            rows: 0,
            held: BTreeSet::new(),
            holders: JoinSet::new(),
        };
        // Those of an earlier stream say nothing about this one.
        around.set_shards(Vec::new());
        if let Outcome::Stopping = coordinator.work().await {
            while let Some(ended) = coordinator.holders.join_next().await {
                coordinator.ended(ended).await;
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

struct Coordinator {
    around: Surroundings,
    random: fastrand::Rng,
    listing: Listing,
    observations: Observations,
    /// Rows of the lease table at the last look.
    rows: usize,
    held: BTreeSet<ShardId>,
    holders: JoinSet<(ShardId, Ending)>,
}

impl Coordinator {
    async fn work(&mut self) -> Outcome {
        let stop = self.around.stop.clone();
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
            let pause = self.pause();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Outcome::Stopping,
                Some(ended) = self.holders.join_next() => self.ended(ended).await,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    fn pause(&self) -> Duration {
        let per_row = LOOK_PER_ROW * u32::try_from(self.rows).unwrap_or(u32::MAX);
        LOOK_INTERVAL
            .saturating_add(per_row)
            .min(self.around.config.lease_duration / 4)
    }

    async fn ended(&mut self, ended: Result<(ShardId, Ending), tokio::task::JoinError>) {
        match ended {
            Ok((shard, ending)) => {
                self.held.remove(&shard);
                if ending == Ending::Ended && !self.around.stop.is_cancelled() {
                    self.listing.find_children(&self.around, &shard).await;
                }
            }
            Err(error) => crash(error),
        }
    }

    /// One look at shards and leases: what to take. What fails is looked at
    /// again next time.
    async fn look(&mut self) -> Round {
        let mut failure = None;
        match self.listing.go_on(&self.around).await {
            Ok(true) => return Round::StreamChanged,
            Ok(false) => {}
            Err(error) => {
                failure = Some(error.to_string());
                self.around.status.stream(Err(error.to_string()));
                tracing::warn!(%error, "the stream's shards could not be listed; trying again");
            }
        }
        // The sweeper's lease is one among those of the shards.
        let mut shards = self.around.shards();
        shards.push(Shard {
            id: ShardId(SWEEPER.into()),
            parent: None,
        });
        let leases = match self.leases(&shards).await {
            Ok(leases) => leases,
            Err(error) => {
                tracing::warn!(%error, "the lease table could not be read; trying again");
                self.around
                    .status
                    .coordination(Err(error.to_string()), Instant::now());
                return Round::Free(Vec::new());
            }
        };
        let shards = with_registered(shards, &leases);
        let now = Instant::now();
        self.around
            .status
            .coordination(failure.map_or(Ok(()), Err), now);
        self.rows = leases.len();
        self.observations.note(&leases, now);
        let config = &self.around.config;
        let free: Vec<Lease> = takable(
            &shards,
            &leases,
            &self.observations,
            &self.held,
            &config.instance,
            now,
            config.lease_duration,
        )
        .into_iter()
        .cloned()
        .collect();
        self.around.status.unowned(free.len(), now);
        if free.is_empty() {
            self.balance(&leases, now).await;
        }
        Round::Free(free)
    }

    /// All rows, after adding those of new shards and removing those that say
    /// nothing any more.
    async fn leases(&self, shards: &[Shard]) -> Result<Vec<Lease>, LeaseError> {
        let table = &self.around.ports.leases;
        let arn = &self.around.stream;
        let leases = table.list(arn).await?;
        if let Some(listed_at) = self.listing.listed_at() {
            let gone = removable(shards, &leases, &self.observations, listed_at);
            for gone in gone.chunks(LEASE_REQUESTS) {
                let removed = gone.iter().map(|lease| table.remove(arn, lease));
                for outcome in join_all(removed).await {
                    if let Err(LeaseError::Unavailable(reason)) = outcome {
                        tracing::debug!(reason, "an old lease could not be removed");
                    }
                }
            }
        }
        let new: Vec<_> = unregistered(shards, &leases)
            .into_iter()
            .map(|shard| Lease::unread(shard.id.clone(), shard.parent.clone()))
            .collect();
        if new.is_empty() {
            return Ok(leases);
        }
        for new in new.chunks(LEASE_REQUESTS) {
            let created = join_all(new.iter().map(|lease| table.create(arn, lease))).await;
            created.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
        table.list(arn).await
    }

    async fn take(&mut self, leases: &[Lease]) {
        let me = &self.around.config.instance;
        let began = Instant::now();
        let mine: Vec<_> = leases
            .iter()
            .map(|seen| {
                let mut mine = seen.clone();
                mine.owner = Some(me.clone());
                mine.epoch += 1;
                mine.beat += 1;
                mine.asked = Asked::default();
                mine
            })
            .collect();
        let requests = leases.iter().zip(&mine).map(|(seen, mine)| {
            let table = &self.around.ports.leases;
            table.take(&self.around.stream, seen, mine)
        });
        let answers = join_all(requests).await;
        for (lease, answer) in mine.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    let shard = lease.shard.clone();
                    self.held.insert(shard.clone());
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
            .ask(&self.around.stream, wanted, &config.instance)
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
