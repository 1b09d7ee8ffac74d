//! The engine's ports, in front of the world. Every call takes time, may fail
//! before it takes effect, may take effect and then fail, and may take effect
//! when its sender is dead.

mod leases;
mod outbox;
mod queue;
mod stream;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use outbox_relay::ports::{Ports, Shard, StreamError};

use crate::world::World;

/// A rule that a run goes without: a port, or a setting, that lets the engine
/// behave as if it did not keep it. The checks must notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// Rule 1: parents are not known, so children do not wait for them.
    ChildrenFirst,
    /// Rule 2: leases are written without a condition.
    NoFence,
    /// Rule 4: nobody hears that a lease is lost, or when it expires.
    LostUnnoticed,
    /// Rule 5: the buffer has no bound.
    NoBound,
    /// Rule 8: a send counts as done before it is.
    NotWaitingForSends,
    /// Rule 10: a mark counts as done, and is not.
    NotMarking,
    /// Rule 11: what is published is not known when it is looked up.
    NoLookUps,
    /// Rule 12: nobody looks for pending events in the table.
    NoSweeper,
    /// Rule 12: the sweeper believes that readers have passed everything.
    NotWaitingForReaders,
}

impl Mutation {
    pub(crate) const ALL: [Self; 9] = [
        Self::ChildrenFirst,
        Self::NoFence,
        Self::LostUnnoticed,
        Self::NoBound,
        Self::NotWaitingForSends,
        Self::NotMarking,
        Self::NoLookUps,
        Self::NoSweeper,
        Self::NotWaitingForReaders,
    ];

    /// The check that is to notice.
    pub(crate) fn breaks(self) -> &'static str {
        match self {
            Self::ChildrenFirst => "rule 1",
            Self::NoFence | Self::NotMarking => "G6",
            Self::LostUnnoticed => "rule 4",
            Self::NoBound => "G7",
            Self::NotWaitingForSends => "G5",
            Self::NoLookUps | Self::NotWaitingForReaders => "G3",
            Self::NoSweeper => "G2",
        }
    }
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

    /// One way of a request, or of its answer.
    async fn travel(&self) {
        let latency = self.world().latency();
        tokio::time::sleep(latency).await;
        self.awake().await;
    }

    /// Waits while the process is stopped.
    async fn awake(&self) {
        // Looked at again and again: waking up waiters has no fixed order.
        while self.frozen.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A request that changes something, and its answer. Once it has left, it
    /// does not need its sender any more.
    async fn request<T: Send + 'static>(
        &self,
        effect: impl FnOnce(&Self) -> T + Send + 'static,
    ) -> T {
        self.awake().await;
        let view = self.clone();
        let latency = self.world().latency();
        let arrival = tokio::spawn(async move {
            tokio::time::sleep(latency).await;
            let arrives = view.world().arrives(&view.name);
            arrives.then(|| effect(&view))
        });
        let answer = arrival.await.expect("the services do not panic");
        self.travel().await;
        match answer {
            Some(answer) => answer,
            // Lost on the way, as its sender is dead.
            None => std::future::pending().await,
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
