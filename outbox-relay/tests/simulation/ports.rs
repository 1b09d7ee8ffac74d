//! The engine's ports, in front of the world. Every call takes time, may fail
//! before it takes effect, and may take effect and then fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use outbox_relay::ports::{
    Asked, Cursor, EntryFailure, EventKey, Item, Lease, LeaseError, LeaseTable, MarkOutcome,
    OutboxTable, Page, PendingCursor, PendingPage, Ports, Position, Published, Quarantine, Queue,
    SWEEPER, SendEntry, SendError, Shard, ShardId, Stream, StreamError, TableError,
};
use outbox_relay::routes::QueueRef;
use shared::outbox::Status;

use crate::world::{PAGE, World};

/// Shards a listing returns at once: few, so that it takes several.
const LISTING_PAGE: usize = 3;

/// A rule that a run goes without: a port that behaves as if the engine did
/// not keep it. The checks must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Rule 1: parents are not known, so children do not wait for them.
    ChildrenFirst,
    /// Rule 2: leases are written without a condition.
    NoFence,
    /// Rule 4: nobody hears that a lease is lost, or when it expires.
    LostUnnoticed,
    /// Rule 8: a send counts as done before it is.
    NotWaitingForSends,
    /// Rule 10: a mark counts as done, and is not.
    NotMarking,
    /// Rule 12: nobody looks for pending events in the table.
    NoSweeper,
}

impl Mutation {
    pub(crate) const ALL: [Self; 6] = [
        Self::ChildrenFirst,
        Self::NoFence,
        Self::LostUnnoticed,
        Self::NotWaitingForSends,
        Self::NotMarking,
        Self::NoSweeper,
    ];
}

/// What one instance sees of the world.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) world: Arc<Mutex<World>>,
    /// Instance and incarnation.
    pub(crate) name: String,
    /// Its name in the lease table.
    pub(crate) instance: String,
    /// While this is set the process is stopped (SIGSTOP): nothing goes out,
    /// and no answer is seen.
    pub(crate) frozen: Arc<AtomicBool>,
    pub(crate) mutation: Option<Mutation>,
}

impl View {
    pub(crate) fn ports(self) -> Ports {
        let view = Arc::new(self);
        Ports {
            stream: view.clone(),
            queue: view.clone(),
            outbox: view.clone(),
            leases: view,
        }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().expect("no panic holds the world")
    }

    /// One way of a request.
    async fn travel(&self) {
        let latency = self.world().latency();
        tokio::time::sleep(latency).await;
        // Looked at again and again: waking up waiters has no fixed order.
        while self.frozen.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn lacks(&self, rule: Mutation) -> bool {
        self.mutation == Some(rule)
    }

    /// An earlier stream of the table is gone with all its shards.
    fn check_stream(&self, stream: &str) -> Result<(), StreamError> {
        if self.world().stream() == stream {
            Ok(())
        } else {
            Err(StreamError::NotFound(format!("{stream} is gone")))
        }
    }

    /// The shards, as this instance sees them.
    fn listed(&self) -> Vec<Shard> {
        let mut shards = self.world().listed();
        if self.lacks(Mutation::ChildrenFirst) {
            for shard in &mut shards {
                shard.parent = None;
            }
        }
        shards
    }

    fn strikes(&self, kind: &'static str, probability: f64) -> bool {
        self.world().strikes(kind, probability)
    }
}

fn row(stream: &str, shard: &ShardId) -> (String, ShardId) {
    (stream.to_owned(), shard.clone())
}

fn key_of(entry: &SendEntry<'_>) -> EventKey {
    let sequence = entry
        .deduplication
        .rsplit(':')
        .next()
        .expect("ids have a colon");
    EventKey {
        aggregate_id: entry.group.to_owned(),
        sequence: sequence.to_owned(),
    }
}

#[async_trait]
impl Stream for View {
    async fn locate(&self) -> Result<Arc<str>, StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.02) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        Ok(self.world().stream().into())
    }

    async fn shards(
        &self,
        stream: &str,
        after: Option<&ShardId>,
    ) -> Result<(Vec<Shard>, Option<ShardId>), StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.05) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        self.check_stream(stream)?;
        let mut rest = self.listed();
        if let Some(after) = after {
            let at = rest.iter().position(|shard| shard.id == *after);
            rest.drain(..at.map_or(0, |at| at + 1));
        }
        let next = (rest.len() > LISTING_PAGE).then(|| rest[LISTING_PAGE - 1].id.clone());
        rest.truncate(LISTING_PAGE);
        Ok((rest, next))
    }

    async fn children(
        &self,
        stream: &str,
        parent: &ShardId,
    ) -> Result<Option<Vec<Shard>>, StreamError> {
        self.travel().await;
        if self.strikes("no child filter", 0.3) {
            return Ok(None);
        }
        if self.strikes("stream unavailable", 0.05) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        self.check_stream(stream)?;
        let mut children = self.world().listed();
        children.retain(|shard| shard.parent.as_ref() == Some(parent));
        Ok(Some(children))
    }

    async fn cursor(
        &self,
        stream: &str,
        shard: &ShardId,
        position: &Position,
    ) -> Result<Cursor, StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.03) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        self.check_stream(stream)?;
        let after = match position {
            Position::TrimHorizon => self.world().trimmed(shard),
            Position::After(number) => number.0.parse().expect("a number made here"),
        };
        if after < self.world().trimmed(shard) {
            return Err(StreamError::Trimmed);
        }
        Ok(Cursor(format!("{shard}|{after}")))
    }

    async fn read(&self, cursor: &Cursor) -> Result<Page, StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.03) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        if self.strikes("expired iterator", 0.01) {
            return Err(StreamError::Expired);
        }
        let (shard, after) = cursor.0.split_once('|').expect("a cursor made here");
        let after: u64 = after.parse().expect("a cursor made here");
        if self.world().shard(&ShardId(shard.into())).is_none() {
            return Err(StreamError::NotFound("trimmed away".to_owned()));
        }
        if after < self.world().trimmed(&ShardId(shard.into())) {
            return Err(StreamError::Trimmed);
        }
        self.world().check_parent(&ShardId(shard.into()));
        let empty = self.strikes("empty page", 0.02);
        let page = {
            let mut world = self.world();
            let most = world.random.usize(1..=PAGE);
            let model = world
                .shard(&ShardId(shard.into()))
                .expect("a cursor made here");
            let rest = model.records.iter().filter(|record| record.number > after);
            let left = rest.clone().count();
            let found: Vec<_> = rest.take(if empty { 0 } else { most }).cloned().collect();
            let ended = model.closed && found.len() == left;
            let last = found.last().map_or(after, |record| record.number);
            let keys = found
                .iter()
                .filter_map(|record| record.event.clone())
                .collect();
            let records = found.iter().map(|record| world.record(record)).collect();
            world.read(&self.name, keys);
            Page {
                records,
                next: (!ended).then(|| Cursor(format!("{shard}|{last}"))),
            }
        };
        self.travel().await;
        Ok(page)
    }
}

#[async_trait]
impl Queue for View {
    async fn send(
        &self,
        _: &QueueRef,
        entries: &[SendEntry<'_>],
    ) -> Result<Vec<Result<String, EntryFailure>>, SendError> {
        assert!((1..=10).contains(&entries.len()));
        for entry in entries {
            self.world()
                .check_sender(&self.name, &self.instance, &key_of(entry));
        }
        if self.lacks(Mutation::NotWaitingForSends) {
            for entry in entries {
                let (view, key) = (self.clone(), key_of(entry));
                tokio::spawn(async move {
                    view.travel().await;
                    view.world().deliver(&view.name, key);
                });
            }
            return Ok(entries.iter().map(|_| Ok("m".to_owned())).collect());
        }
        self.travel().await;
        let unavailable = || SendError::Unavailable {
            kind: "simulated".to_owned(),
            message: "simulated".to_owned(),
        };
        if self.world().queue_away || self.strikes("send failed", 0.05) {
            return Err(unavailable());
        }
        let answers = entries
            .iter()
            .map(|entry| {
                if self.strikes("entry failed", 0.03) {
                    return Err(EntryFailure {
                        code: "InternalError".to_owned(),
                        message: "simulated".to_owned(),
                        sender_fault: false,
                    });
                }
                let mut world = self.world();
                world.deliver(&self.name, key_of(entry));
                Ok(format!("m-{}", world.deliveries.len()))
            })
            .collect();
        let lost = self.strikes("send answer lost", 0.02);
        self.travel().await;
        if lost {
            Err(unavailable())
        } else {
            Ok(answers)
        }
    }
}

#[async_trait]
impl OutboxTable for View {
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        assert!((1..=25).contains(&published.len()));
        self.travel().await;
        if self.lacks(Mutation::NotMarking) {
            return Ok(vec![MarkOutcome::Marked; published.len()]);
        }
        if self.strikes("mark failed", 0.05) {
            return Err(TableError("simulated".to_owned()));
        }
        let outcomes = published
            .iter()
            .map(|event| {
                if self.strikes("mark failed", 0.02) {
                    MarkOutcome::TryAgain
                } else if self.world().mark(&self.name, &event.key) {
                    MarkOutcome::Marked
                } else {
                    MarkOutcome::NotPending
                }
            })
            .collect();
        let lost = self.strikes("mark answer lost", 0.02);
        self.travel().await;
        if lost {
            Err(TableError("simulated".to_owned()))
        } else {
            Ok(outcomes)
        }
    }

    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        self.travel().await;
        let mut world = self.world();
        let name = &self.name;
        world
            .violations
            .push(format!("{name} quarantined the good event {:?}", event.key));
        Ok(MarkOutcome::Marked)
    }

    async fn states(&self, keys: &[EventKey]) -> Result<Vec<Option<Status>>, TableError> {
        assert!((1..=100).contains(&keys.len()));
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(TableError("simulated".to_owned()));
        }
        let states = {
            let world = self.world();
            keys.iter()
                .map(|key| world.events.get(key).map(|event| event.status))
                .collect()
        };
        self.travel().await;
        Ok(states)
    }

    async fn pending(
        &self,
        bucket: u32,
        after: Option<PendingCursor>,
    ) -> Result<PendingPage, TableError> {
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(TableError("simulated".to_owned()));
        }
        if self.lacks(Mutation::NoSweeper) {
            return Ok(PendingPage::default());
        }
        let page = self.world().pending(bucket, after);
        self.travel().await;
        Ok(page)
    }

    async fn pending_between(
        &self,
        aggregate_id: &str,
        first: u64,
        last: u64,
    ) -> Result<Vec<Item>, TableError> {
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(TableError("simulated".to_owned()));
        }
        if self.lacks(Mutation::NoSweeper) {
            return Ok(Vec::new());
        }
        let items = self.world().pending_between(aggregate_id, first, last);
        self.travel().await;
        Ok(items)
    }

    async fn count_pending(&self) -> Result<u64, TableError> {
        Ok(0)
    }

    async fn count_failed(&self) -> Result<u64, TableError> {
        Ok(0)
    }
}

#[async_trait]
impl LeaseTable for View {
    async fn list(&self, stream: &str) -> Result<Vec<Lease>, LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.02) {
            return Err(LeaseError::Unavailable("simulated".to_owned()));
        }
        let leases = {
            let world = self.world();
            let of_stream = world.leases.iter().filter(|((of, _), _)| of == stream);
            of_stream.map(|(_, lease)| lease.clone()).collect()
        };
        self.travel().await;
        Ok(leases)
    }

    async fn create(&self, stream: &str, lease: &Lease) -> Result<(), LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.05) {
            return Err(LeaseError::Unavailable("simulated".to_owned()));
        }
        let mut world = self.world();
        world
            .leases
            .entry(row(stream, &lease.shard))
            .or_insert_with(|| lease.clone());
        Ok(())
    }

    async fn take(&self, stream: &str, seen: &Lease, new: &Lease) -> Result<(), LeaseError> {
        self.write(stream, new, |stored| {
            (&stored.owner, stored.epoch, stored.beat) == (&seen.owner, seen.epoch, seen.beat)
        })
        .await?;
        self.world().tell(&self.name, &new.shard, false);
        Ok(())
    }

    async fn renew(&self, stream: &str, holder: &str, lease: &Lease) -> Result<Asked, LeaseError> {
        self.write(stream, lease, |stored| {
            stored.owner.as_deref() == Some(holder) && stored.epoch == lease.epoch
        })
        .await
    }

    async fn ask(&self, stream: &str, seen: &Lease, instance: &str) -> Result<(), LeaseError> {
        self.travel().await;
        let mut world = self.world();
        let Some(stored) = world.leases.get_mut(&row(stream, &seen.shard)) else {
            return Err(LeaseError::Lost);
        };
        if (&stored.owner, stored.epoch) != (&seen.owner, seen.epoch) {
            return Err(LeaseError::Lost);
        }
        stored.asked.wanted_by = Some(instance.to_owned());
        let name = &self.name;
        world.log(format!("{name} asks for {}", seen.shard));
        world.faults.note("handover asked");
        Ok(())
    }

    async fn ask_for_sweep(&self, stream: &str) -> Result<(), LeaseError> {
        self.travel().await;
        let mut world = self.world();
        let sweeper = ShardId(SWEEPER.into());
        if let Some(stored) = world.leases.get_mut(&row(stream, &sweeper)) {
            stored.asked.sweep = true;
        }
        Ok(())
    }

    async fn remove(&self, stream: &str, seen: &Lease) -> Result<(), LeaseError> {
        self.travel().await;
        let mut world = self.world();
        match world.leases.get(&row(stream, &seen.shard)) {
            Some(stored) if stored.owner.is_none() && stored.epoch == seen.epoch => {
                world.leases.remove(&row(stream, &seen.shard));
                Ok(())
            }
            _ => Err(LeaseError::Lost),
        }
    }
}

impl View {
    async fn write(
        &self,
        stream: &str,
        lease: &Lease,
        condition: impl Fn(&Lease) -> bool + Send,
    ) -> Result<Asked, LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.04) {
            return Err(LeaseError::Unavailable("simulated".to_owned()));
        }
        let asked = {
            let mut world = self.world();
            let stored = world.leases.get(&row(stream, &lease.shard)).cloned();
            let Some(stored) = stored else {
                return Err(LeaseError::Lost);
            };
            if !condition(&stored) {
                world.tell(&self.name, &lease.shard, true);
                if self.lacks(Mutation::LostUnnoticed) {
                    return Ok(Asked::default());
                }
                if !self.lacks(Mutation::NoFence) {
                    return Err(LeaseError::Lost);
                }
            }
            world.check_fence(&stored, lease);
            world.check_checkpoint(lease);
            let name = &self.name;
            world.log(format!(
                "{name} writes {} owner {:?} epoch {} checkpoint {:?}",
                lease.shard,
                lease.owner,
                lease.epoch,
                lease.checkpoint.as_ref().map(ToString::to_string)
            ));
            world
                .leases
                .insert(row(stream, &lease.shard), lease.clone());
            stored.asked
        };
        let lost = self.strikes("lease answer lost", 0.02);
        self.travel().await;
        if lost {
            Err(LeaseError::Unavailable("simulated".to_owned()))
        } else {
            Ok(asked)
        }
    }
}
