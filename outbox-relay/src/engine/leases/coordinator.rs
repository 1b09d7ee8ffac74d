//! Lease coordinator: polls shards and leases, acquires available leases, and lets the balancer
//! request one if none is available.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::lease_balancer::LeaseBalancer;
use super::lease_renewer::LeaseEnd;
use super::lease_sync::{MAX_LEASE_REQUESTS, duties, sync_leases};
use super::shard_consumer::run_shard;
use super::shard_discovery::{DiscoveryOutcome, ShardDiscovery};
use crate::engine::context::ShardContext;
use crate::engine::crash;
use crate::engine::publish::sweep_requests;
use crate::policy::backoff;
use crate::policy::lease_assignment::{InstanceView, acquirable, needs_listing, with_registered};
use crate::policy::lease_liveness::LeaseLiveness;
use crate::ports::{Lease, LeaseError, LeaseRequests, Shard, ShardId, maintenance_id};

/// Interval between two polls of the leases, so that a released lease is acquired soon, and the
/// time added for every lease, as a poll reads all of them. The interval never exceeds a quarter of
/// the lease duration.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
const POLL_INTERVAL_PER_LEASE: Duration = Duration::from_millis(1);

/// Coordinates the leases until the engine stops and every lease is released.
pub(crate) async fn run(mut ctx: ShardContext, mut random: fastrand::Rng) {
    while let Some(stream) = locate(&ctx, &mut random).await {
        ctx.stream = stream;
        let mut coordinator = LeaseCoordinator {
            ctx: ctx.clone(),
            random: random.fork(),
            discovery: ShardDiscovery::new(&ctx),
            liveness: LeaseLiveness::default(),
            lease_count: 0,
            held: BTreeSet::new(),
            consumers: JoinSet::new(),
        };
        let reason = tokio::select! {
            biased;
            reason = coordinator.coordinate() => reason,
            never = sweep_requests::run(&ctx) => match never {},
        };
        if let StopReason::Stopping = reason {
            while let Some(ended) = coordinator.consumers.join_next().await {
                coordinator.remove_consumer(ended);
            }
            break;
        }
        // The shards of the old stream no longer exist; the sweeper of the new one publishes what
        // was not read of them.
        coordinator.consumers.shutdown().await;
    }
    ctx.release.cancelled().await;
}

/// Waits until the table has a stream, and returns its ARN, or `None` if the engine stops before.
async fn locate(ctx: &ShardContext, random: &mut fastrand::Rng) -> Option<Arc<str>> {
    let mut failures = 0;
    loop {
        tokio::select! {
            biased;
            () = ctx.stop.cancelled() => return None,
            located = ctx.ports.stream.locate() => match located {
                Ok(stream) => {
                    ctx.status.record_stream(Ok(()));
                    tracing::info!(%stream, "stream found");
                    return Some(stream);
                }
                Err(error) => {
                    let reason = error.to_string();
                    ctx.status.record_stream(Err(reason.clone()));
                    ctx.status.record_coordination(Err(reason), Instant::now());
                    failures += 1;
                    tracing::warn!(%error, "outbox stream is not available; retrying");
                }
            }
        }
        tokio::select! {
            biased;
            () = ctx.stop.cancelled() => return None,
            () = tokio::time::sleep(backoff::delay(failures, random.f64())) => {}
        }
    }
}

/// Reason for which a coordinator ended.
enum StopReason {
    Stopping,
    /// The table has another stream now.
    StreamChanged,
}

/// Outcome of a poll.
enum PollOutcome {
    StreamChanged,
    /// Leases to acquire.
    Acquirable(Vec<Lease>),
}

/// Coordinator of the leases of one stream.
struct LeaseCoordinator {
    ctx: ShardContext,
    random: fastrand::Rng,
    discovery: ShardDiscovery,
    liveness: LeaseLiveness,
    /// Number of leases at the last poll.
    lease_count: usize,
    held: BTreeSet<ShardId>,
    consumers: JoinSet<(ShardId, LeaseEnd)>,
}

impl LeaseCoordinator {
    async fn coordinate(&mut self) -> StopReason {
        let stop = self.ctx.stop.clone();
        tokio::select! {
            biased;
            () = stop.cancelled() => return StopReason::Stopping,
            () = self.enter_stream() => {}
        }
        loop {
            let outcome = tokio::select! {
                biased;
                () = stop.cancelled() => return StopReason::Stopping,
                outcome = self.poll() => outcome,
            };
            let leases = match outcome {
                PollOutcome::StreamChanged => return StopReason::StreamChanged,
                PollOutcome::Acquirable(leases) => leases,
            };
            // An acquisition is not cancelled: a lease that was acquired and forgotten would keep
            // its shard idle for a lease duration.
            for leases in leases.chunks(MAX_LEASE_REQUESTS) {
                if stop.is_cancelled() {
                    return StopReason::Stopping;
                }
                self.acquire(leases).await;
            }
            let parents = tokio::select! {
                biased;
                () = stop.cancelled() => return StopReason::Stopping,
                parents = self.wait_for_next_poll() => parents,
            };
            self.discovery.find_children(&self.ctx, &parents).await;
        }
    }

    /// Waits until the next poll, and returns the shards that were fully consumed meanwhile. The
    /// end of a shard shortens the wait.
    async fn wait_for_next_poll(&mut self) -> Vec<ShardId> {
        let now = Instant::now();
        let count = u32::try_from(self.lease_count).unwrap_or(u32::MAX);
        let per_lease = POLL_INTERVAL_PER_LEASE * count;
        let longest = self.ctx.config.lease_duration / 4;
        let mut until = now + POLL_INTERVAL.saturating_add(per_lease).min(longest);
        let mut parents = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.consumers.join_next() => {
                    until = until.min(now + per_lease);
                    parents.extend(self.remove_consumer(ended));
                }
                () = tokio::time::sleep_until(until) => return parents,
            }
        }
    }

    /// Removes a consumer that has ended, and returns its shard if it is fully consumed.
    fn remove_consumer(
        &mut self,
        ended: Result<(ShardId, LeaseEnd), JoinError>,
    ) -> Option<ShardId> {
        match ended {
            Ok((shard, end)) => {
                self.held.remove(&shard);
                (end == LeaseEnd::FullyConsumed).then_some(shard)
            }
            Err(error) => {
                crash(error);
                None
            }
        }
    }

    /// Records that the consumer group reads this stream. If it read another stream before, the
    /// unread part of that is a gap (the "gap" rule), which only one instance reports.
    async fn enter_stream(&mut self) {
        let mut failures = 0;
        loop {
            let stream = &self.ctx.stream;
            match self.ctx.ports.leases.register_stream(stream).await {
                Ok(None) => return,
                Ok(Some(old)) => {
                    self.ctx.metrics.record_gap();
                    tracing::error!(
                        old,
                        new = %stream,
                        "stream gap: the outbox table has another stream; pending events of the old one are published from the table"
                    );
                    return;
                }
                Err(error) => {
                    self.ctx
                        .status
                        .record_coordination(Err(error.to_string()), Instant::now());
                    failures += 1;
                    tracing::warn!(%error, "lease table could not be written; retrying");
                    tokio::time::sleep(backoff::delay(failures, self.random.f64())).await;
                }
            }
        }
    }

    /// Polls shards and leases, and returns the leases to acquire. A failed request is repeated by
    /// the next poll.
    async fn poll(&mut self) -> PollOutcome {
        let mut failure = None;
        let is_lister = self.held.contains(&maintenance_id());
        let discovered = self
            .discovery
            .poll(&self.ctx, is_lister, &mut self.random)
            .await;
        match discovered {
            Ok(DiscoveryOutcome::StreamChanged) => return PollOutcome::StreamChanged,
            Ok(DiscoveryOutcome::Complete { listed_at }) => {
                let listed = self.shards();
                self.liveness.observe_listing(&listed, listed_at);
            }
            Ok(DiscoveryOutcome::NotDue) => {}
            Err(error) => {
                failure = Some(error.to_string());
                self.ctx.status.record_stream(Err(error.to_string()));
                tracing::warn!(%error, "shards of the stream could not be listed; retrying");
            }
        }
        let leases =
            match sync_leases(&self.ctx, &mut self.discovery, &self.liveness, is_lister).await {
                Ok(leases) => leases,
                Err(error) => {
                    tracing::warn!(%error, "lease table could not be read; retrying");
                    self.ctx
                        .status
                        .record_coordination(Err(error.to_string()), Instant::now());
                    return PollOutcome::Acquirable(Vec::new());
                }
            };
        if !is_lister || self.discovery.listed_at().is_none() {
            self.ctx.directory.replace_by_leases(&leases);
        }
        let shards = with_registered(self.shards(), &leases);
        let now = Instant::now();
        self.ctx
            .status
            .record_coordination(failure.map_or(Ok(()), Err), now);
        self.lease_count = leases.len();
        self.liveness.observe(&leases, now);
        let view = self.view(now);
        let available: Vec<Lease> = acquirable(&shards, &leases, &self.liveness, view)
            .into_iter()
            .cloned()
            .collect();
        if needs_listing(&shards, &leases, &self.liveness, view) {
            self.ctx.directory.request_listing();
        }
        let unowned = available.iter().map(|lease| lease.shard.clone()).collect();
        self.ctx.status.record_unowned(unowned, now);
        if available.is_empty() {
            let balancer = LeaseBalancer {
                ctx: &self.ctx,
                liveness: &self.liveness,
                held: &self.held,
            };
            balancer.balance(&leases, now).await;
        }
        PollOutcome::Acquirable(available)
    }

    /// Returns the listed shards and the pseudo-shards whose leases are like theirs.
    fn shards(&self) -> Vec<Shard> {
        let mut shards = self.ctx.directory.shards();
        shards.extend(duties());
        shards
    }

    fn view(&self, now: Instant) -> InstanceView<'_> {
        InstanceView {
            name: &self.ctx.config.instance,
            held: &self.held,
            now,
            lease_duration: self.ctx.config.lease_duration,
        }
    }

    /// Returns the lease as this instance writes it to acquire it.
    fn acquired(&self, seen: &Lease) -> Lease {
        let mut lease = seen.clone();
        lease.owner = Some(self.ctx.config.instance.clone());
        lease.epoch += 1;
        lease.heartbeat += 1;
        lease.lease_duration = Some(self.ctx.config.lease_duration);
        lease.requests = LeaseRequests::default();
        lease
    }

    /// Acquires leases, and starts a consumer for each.
    async fn acquire(&mut self, leases: &[Lease]) {
        let started_at = self.ctx.config.lease_clock();
        let acquired: Vec<_> = leases.iter().map(|seen| self.acquired(seen)).collect();
        let requests = leases.iter().zip(&acquired).map(|(seen, acquired)| {
            let table = &self.ctx.ports.leases;
            table.acquire(&self.ctx.stream, seen, acquired)
        });
        let answers = join_all(requests).await;
        for (lease, answer) in acquired.into_iter().zip(answers) {
            match answer {
                Ok(()) => {
                    let shard = lease.shard.clone();
                    self.held.insert(shard.clone());
                    self.ctx.status.record_acquired(Instant::now());
                    let ctx = self.ctx.clone();
                    let random = self.random.fork();
                    self.consumers.spawn(async move {
                        let end = run_shard(lease, started_at, ctx, Arc::default(), random).await;
                        (shard, end)
                    });
                }
                Err(LeaseError::Lost(_)) => {
                    tracing::debug!(shard = %lease.shard, "another instance acquired the lease first");
                }
                Err(LeaseError::Unavailable(reason)) => {
                    tracing::warn!(shard = %lease.shard, reason, "lease could not be acquired; retrying");
                }
            }
        }
    }
}
