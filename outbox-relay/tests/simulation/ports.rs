//! The engine's ports, in front of the world. Every call takes time, may fail
//! before it takes effect, and may take effect and then fail.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use outbox_relay::ports::{
    Cursor, EntryFailure, EventKey, Lease, LeaseError, LeaseTable, MarkOutcome, OutboxTable, Page,
    Ports, Position, Published, Quarantine, Queue, SendEntry, SendError, Shard, ShardId, Stream,
    StreamError, TableError,
};
use outbox_relay::routes::QueueRef;
use shared::outbox::Status;
use shared::timestamp::Timestamp;

use crate::world::{PAGE, World};

/// What one instance sees of the world.
#[derive(Clone)]
pub(crate) struct View {
    pub(crate) world: Arc<Mutex<World>>,
    /// Instance and incarnation.
    pub(crate) name: String,
    /// While this is set the process is stopped (SIGSTOP): nothing goes out,
    /// and no answer is seen.
    pub(crate) frozen: Arc<AtomicBool>,
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

    fn strikes(&self, kind: &'static str, probability: f64) -> bool {
        self.world().strikes(kind, probability)
    }
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
        Ok("stream".into())
    }

    async fn shards(&self, _: &str) -> Result<Vec<Shard>, StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.05) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        let mut world = self.world();
        let mut shards: Vec<_> = world
            .shards
            .iter()
            .map(|shard| Shard {
                id: shard.id.clone(),
                parent: shard.parent.clone(),
            })
            .collect();
        world.random.shuffle(&mut shards);
        Ok(shards)
    }

    async fn cursor(
        &self,
        _: &str,
        shard: &ShardId,
        position: &Position,
    ) -> Result<Cursor, StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.03) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        let after = match position {
            Position::TrimHorizon => "0",
            Position::After(number) => &number.0,
        };
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
        self.travel().await;
        let unavailable = || SendError::Unavailable {
            kind: "simulated".to_owned(),
            message: "simulated".to_owned(),
        };
        if self.strikes("send failed", 0.05) {
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

    async fn quarantine(&self, event: &Quarantine) -> Result<(), TableError> {
        self.travel().await;
        let mut world = self.world();
        let name = &self.name;
        world
            .violations
            .push(format!("{name} quarantined the good event {:?}", event.key));
        Ok(())
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

    async fn pending(&self) -> Result<(u64, Option<Timestamp>), TableError> {
        Ok((0, None))
    }
}

#[async_trait]
impl LeaseTable for View {
    async fn list(&self, _: &str) -> Result<Vec<Lease>, LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.02) {
            return Err(LeaseError::Unavailable("simulated".to_owned()));
        }
        let leases = self.world().leases.values().cloned().collect();
        self.travel().await;
        Ok(leases)
    }

    async fn create(&self, _: &str, lease: &Lease) -> Result<(), LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.05) {
            return Err(LeaseError::Unavailable("simulated".to_owned()));
        }
        let mut world = self.world();
        world
            .leases
            .entry(lease.shard.clone())
            .or_insert_with(|| lease.clone());
        Ok(())
    }

    async fn take(&self, _: &str, seen: &Lease, new: &Lease) -> Result<(), LeaseError> {
        self.write(new, |stored| {
            (&stored.owner, stored.epoch, stored.beat) == (&seen.owner, seen.epoch, seen.beat)
        })
        .await
    }

    async fn renew(&self, _: &str, holder: &str, lease: &Lease) -> Result<(), LeaseError> {
        self.write(lease, |stored| {
            stored.owner.as_deref() == Some(holder) && stored.epoch == lease.epoch
        })
        .await
    }
}

impl View {
    async fn write(
        &self,
        lease: &Lease,
        condition: impl Fn(&Lease) -> bool + Send,
    ) -> Result<(), LeaseError> {
        self.travel().await;
        if self.strikes("lease write failed", 0.04) {
            return Err(LeaseError::Unavailable("simulated".to_owned()));
        }
        {
            let mut world = self.world();
            let holds = world.leases.get(&lease.shard).is_some_and(condition);
            if !holds {
                return Err(LeaseError::Lost);
            }
            world.check_checkpoint(lease);
            let name = &self.name;
            world.log(format!(
                "{name} writes {} owner {:?} epoch {} checkpoint {:?}",
                lease.shard,
                lease.owner,
                lease.epoch,
                lease.checkpoint.as_ref().map(ToString::to_string)
            ));
            world.leases.insert(lease.shard.clone(), lease.clone());
        }
        let lost = self.strikes("lease answer lost", 0.02);
        self.travel().await;
        if lost {
            Err(LeaseError::Unavailable("simulated".to_owned()))
        } else {
            Ok(())
        }
    }
}
