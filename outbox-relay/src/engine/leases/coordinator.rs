//! Lease coordinator: polls the leases of one stream, acquires those that belong to the share of
//! this instance, and gives up the others (the "balance" rule).

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::lease_balancer::{HeldLeases, divide_maintenance, divide_shards};
use super::lease_creation::{MAX_LEASE_REQUESTS, create_leases, create_maintenance_leases};
use super::lease_reader::{GroupLeases, LeaseReader};
use super::lease_renewer::{LeaseEnd, ShardSignals};
use super::shard_consumer::run_shard;
use crate::engine::context::ShardContext;
use crate::engine::crash;
use crate::policy::child_look_ups::ChildLookUps;
use crate::policy::lease_assignment::InstanceView;
use crate::policy::lease_liveness::{LeaseLiveness, MIN_CHECKPOINT_INTERVAL};
use crate::ports::{Lease, LeaseError, LeaseRequests, ShardId, maintenance_id};

/// Interval between two polls of the leases, and the time added to it for every lease that a poll
/// reads. The interval never exceeds a quarter of the lease duration, so that a released lease is
/// acquired soon.
const POLL_INTERVAL: Duration = Duration::from_millis(400);
const POLL_INTERVAL_PER_LEASE: Duration = Duration::from_millis(1);

/// Interval between two look-ups of the table's stream, which may be another one.
const LOCATE_INTERVAL: Duration = Duration::from_secs(60);

/// Minimum interval between two look-ups and requested listings.
const MIN_LOCATE_INTERVAL: Duration = Duration::from_secs(2);

/// Maximum number of shards whose children are requested individually at once. A listing finds the
/// children of more shards with fewer requests.
const MAX_CHILD_REQUESTS: usize = 4;

/// Reason for which a coordinator ended.
pub(super) enum StopReason {
    Stopping,
    /// The table has another stream now.
    StreamChanged,
}

/// Coordinator of the leases of one stream.
pub(super) struct LeaseCoordinator {
    ctx: ShardContext,
    random: fastrand::Rng,
    reader: LeaseReader,
    liveness: LeaseLiveness,
    /// Number of leases that the last poll read.
    count: usize,
    held: HeldLeases,
    child_look_ups: ChildLookUps,
    /// Consumed shards whose children are to be looked up.
    consumed: Vec<ShardId>,
    consumers: JoinSet<(ShardId, LeaseEnd)>,
    /// Time of the last look-up of the stream.
    located_at: Instant,
    /// The last look-up failed.
    has_locate_failed: bool,
}

impl LeaseCoordinator {
    pub(super) fn new(ctx: &ShardContext, random: &mut fastrand::Rng) -> Self {
        ctx.directory.replace(&[], MIN_CHECKPOINT_INTERVAL);
        Self {
            ctx: ctx.clone(),
            random: random.fork(),
            reader: LeaseReader::default(),
            liveness: LeaseLiveness::default(),
            count: 0,
            held: HeldLeases::default(),
            child_look_ups: ChildLookUps::default(),
            consumed: Vec::new(),
            consumers: JoinSet::new(),
            located_at: Instant::now(),
            has_locate_failed: false,
        }
    }

    /// Coordinates the leases until the engine stops or the table has another stream.
    pub(super) async fn coordinate(&mut self) -> StopReason {
        let stop = self.ctx.stop.clone();
        loop {
            let available = tokio::select! {
                biased;
                () = stop.cancelled() => return StopReason::Stopping,
                available = async {
                    if self.has_stream_changed().await {
                        return None;
                    }
                    Some(self.poll().await)
                } => available,
            };
            let Some(available) = available else {
                return StopReason::StreamChanged;
            };
            // An acquisition is not cancelled: a lease that was acquired and forgotten would keep
            // its shard idle for a lease duration.
            for leases in available.chunks(MAX_LEASE_REQUESTS) {
                if stop.is_cancelled() {
                    return StopReason::Stopping;
                }
                self.acquire(leases).await;
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return StopReason::Stopping,
                () = async {
                    self.find_children().await;
                    self.wait_for_next_poll().await;
                    self.find_children().await;
                } => {}
            }
        }
    }

    /// Waits until every lease is released.
    pub(super) async fn until_released(&mut self) {
        while let Some(ended) = self.consumers.join_next().await {
            self.remove_consumer(ended);
        }
    }

    /// Ends all consumers without releasing their leases.
    pub(super) async fn abort(mut self) {
        self.consumers.shutdown().await;
    }

    /// Waits until the next poll. The end of a shard shortens the wait, and new leases end it.
    async fn wait_for_next_poll(&mut self) {
        let now = Instant::now();
        let mut until = now + self.poll_interval();
        let directory = self.ctx.directory.clone();
        loop {
            tokio::select! {
                biased;
                Some(ended) = self.consumers.join_next() => {
                    until = until.min(now + self.per_leases());
                    self.remove_consumer(ended);
                }
                () = tokio::time::sleep_until(until) => return,
                () = directory.new_leases() => return,
            }
        }
    }

    /// Returns the interval between two polls.
    fn poll_interval(&self) -> Duration {
        let longest = self.ctx.config.lease_duration / 4;
        POLL_INTERVAL.saturating_add(self.per_leases()).min(longest)
    }

    /// Returns the part of the interval that depends on the number of leases.
    fn per_leases(&self) -> Duration {
        POLL_INTERVAL_PER_LEASE * u32::try_from(self.count).unwrap_or(u32::MAX)
    }

    /// Removes a consumer that has ended.
    fn remove_consumer(&mut self, ended: Result<(ShardId, LeaseEnd), JoinError>) {
        match ended {
            Ok((shard, end)) => {
                self.held.remove(&shard);
                if end == LeaseEnd::FullyConsumed {
                    self.consumed.push(shard);
                }
            }
            Err(error) => crash(error),
        }
    }

    /// Creates the leases of the children of fully consumed shards, unless they exist already.
    pub(super) async fn find_children(&mut self) {
        let parents = self.ctx.directory.without_children(&self.consumed);
        if parents.len() > MAX_CHILD_REQUESTS {
            self.ctx.directory.request_listing();
        } else {
            self.look_up_children(&parents).await;
        }
        // After the last wait, so that a call that is cancelled can be repeated.
        self.consumed.clear();
    }

    async fn look_up_children(&self, parents: &[ShardId]) {
        let ctx = &self.ctx;
        let source = &ctx.ports.stream;
        let requests = parents.iter().map(|id| source.children(&ctx.stream, id));
        for (parent, children) in parents.iter().zip(join_all(requests).await) {
            let created = match children {
                // The children of a closed shard may not be listed yet.
                Ok(children) => match children.unwrap_or_default() {
                    children if children.is_empty() => Err("none is listed yet".to_owned()),
                    children => {
                        let leases = children.into_iter().map(|child| Lease {
                            start: child.starts_at,
                            ..Lease::unread(child.id, child.parent)
                        });
                        let created = create_leases(ctx, leases.collect()).await;
                        created.map_err(|error| error.to_string())
                    }
                },
                Err(error) => Err(error.to_string()),
            };
            if let Err(reason) = created {
                tracing::info!(shard = %parent, reason, "children of a shard could not be found; requesting a listing of all shards");
                ctx.directory.request_listing();
            }
        }
    }

    /// Looks the stream up if that is due or requested, and passes the request on to the lister.
    /// Returns `true` if the table has another stream now.
    async fn has_stream_changed(&mut self) -> bool {
        let age = self.located_at.elapsed();
        let is_requested = age >= MIN_LOCATE_INTERVAL && self.ctx.directory.take_listing_request();
        if age < LOCATE_INTERVAL && !is_requested {
            return false;
        }
        self.located_at = Instant::now();
        let status = &self.ctx.status;
        match self.ctx.ports.stream.locate().await {
            Ok(stream) => {
                // The lister records the outcome of its listings, and an instance that was the
                // lister before no longer does.
                let is_lister = self.held.contains(&maintenance_id());
                if std::mem::take(&mut self.has_locate_failed) || !is_lister {
                    status.record_stream(Ok(()));
                }
                if stream != self.ctx.stream {
                    return true;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "outbox stream could not be looked up; retrying");
                self.has_locate_failed = true;
                status.record_stream(Err(error.to_string()));
                self.ctx.directory.request_listing();
                return false;
            }
        }
        if is_requested {
            self.request_listing().await;
        }
        false
    }

    async fn request_listing(&self) {
        if let Some(signals) = self.held.signals(&maintenance_id()) {
            signals.listing.notify_one();
            return;
        }
        let table = &self.ctx.ports.leases;
        if let Err(error) = table.request_listing(&self.ctx.stream).await {
            tracing::warn!(%error, "listing could not be requested; the next regular one finds the shards");
        }
    }

    /// Polls the leases, gives up those beyond the share of this instance, and returns those to
    /// acquire. A failed request is repeated by the next poll.
    async fn poll(&mut self) -> Vec<Lease> {
        let read = match self.read().await {
            Ok(read) => read,
            Err(error) => {
                tracing::warn!(%error, "leases could not be read or created; retrying");
                let outcome = Err(error.to_string());
                self.ctx.status.record_coordination(outcome, Instant::now());
                return Vec::new();
            }
        };
        let now = Instant::now();
        self.liveness.observe(read.all(), now);
        let status = &self.ctx.status;
        status.record_coordination(Ok(()), now);
        status.record_unreadable(&read.unreadable);
        let interval = self.liveness.checkpoint_interval(now);
        self.ctx.directory.replace(&read.shards, interval);
        let view = InstanceView {
            name: &self.ctx.config.instance,
            unreadable: &read.unreadable,
            liveness: &self.liveness,
            now,
            lease_duration: self.ctx.config.lease_duration,
        };
        let (maintenance, of_maintenance) = divide_maintenance(&read, view, &self.held);
        let (shards, of_shards) = divide_shards(&read, view, &self.held);
        let open: Vec<_> = maintenance.into_iter().chain(shards).collect();
        let unowned = view.available(&open, |shard| self.held.contains(shard));
        let unowned = unowned.iter().map(|lease| lease.shard.clone()).collect();
        status.record_unowned(unowned, now);
        self.count = read.count;
        for shard in of_maintenance.give_up.iter().chain(&of_shards.give_up) {
            if let Some(signals) = self.held.signals(shard) {
                tracing::info!(%shard, "giving the lease up to an instance with fewer leases");
                signals.give_up.cancel();
            }
        }
        self.request(&of_shards.request).await;
        if self.held.contains(&maintenance_id()) {
            self.delete_members(&read.members, view).await;
            let interval = self.poll_interval();
            let due = self.child_look_ups.due(&read.shards, interval, now);
            self.consumed.extend(due);
        }
        // The maintenance lease first: its holder finds the shards.
        let acquire = of_maintenance.acquire.iter().chain(&of_shards.acquire);
        acquire.copied().cloned().collect()
    }

    /// Reads the leases, after creating those of maintenance.
    async fn read(&mut self) -> Result<GroupLeases, LeaseError> {
        let read = self.reader.read(&self.ctx).await?;
        let existing = read.maintenance.iter().map(|lease| &lease.shard);
        let existing = existing.chain(&read.unreadable).collect();
        if create_maintenance_leases(&self.ctx, &existing).await? {
            return self.reader.read(&self.ctx).await;
        }
        Ok(read)
    }

    /// Requests leases from their owners of an older release, which transfer them.
    async fn request(&self, leases: &[&Lease]) {
        let table = &self.ctx.ports.leases;
        let instance = &self.ctx.config.instance;
        let requests = leases
            .iter()
            .map(|lease| table.request(&self.ctx.stream, lease, instance));
        for outcome in join_all(requests).await {
            // A lost lease has another owner by now; the next poll reads it.
            if let Err(error @ LeaseError::Unavailable(_)) = outcome {
                tracing::debug!(%error, "shard could not be requested; retrying");
            }
        }
    }

    /// Deletes the items of members that are not alive: an instance that starts would count them
    /// for a lease duration.
    async fn delete_members(&self, members: &[Lease], view: InstanceView<'_>) {
        let table = &self.ctx.ports.leases;
        for member in members {
            if view.is_expired(member)
                && let Err(LeaseError::Unavailable(reason)) =
                    table.remove(&self.ctx.stream, member).await
            {
                tracing::debug!(reason, "member item could not be deleted; retrying later");
            }
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
                Ok(()) => self.start(lease, started_at),
                Err(LeaseError::Lost(_)) => {
                    tracing::debug!(shard = %lease.shard, "another instance acquired the lease first");
                }
                Err(LeaseError::Unavailable(reason)) => {
                    tracing::warn!(shard = %lease.shard, reason, "lease could not be acquired; retrying");
                }
            }
        }
    }

    /// Starts the consumer of a lease that was acquired by a request that started at `started_at`.
    fn start(&mut self, lease: Lease, started_at: Instant) {
        let shard = lease.shard.clone();
        let signals = Arc::<ShardSignals>::default();
        self.held.insert(shard.clone(), Arc::clone(&signals));
        self.ctx.status.record_acquired(Instant::now());
        let ctx = self.ctx.clone();
        let random = self.random.fork();
        self.consumers.spawn(async move {
            let end = run_shard(lease, started_at, ctx, signals, random).await;
            (shard, end)
        });
    }
}
