//! Relay process that crashes, freezes, stops and restarts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox::Buckets;
use outbox_relay::engine::{Engine, EngineConfig, EngineError, EngineStatus, OnFailure};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::meter::Gaps;
use crate::ports::{Mutation, View};
use crate::run::{MAX_INSTANCES, SETTLE_LIMIT, locked};
use crate::world::{CLOCKS, RETENTION, World};

/// Time limit for health to become green in the quiet phase: a listing of the shards is due once a
/// minute, and the leases of the shards that it finds must then be acquired.
const HEALTH_LIMIT: Duration = Duration::from_secs(120);

/// Shortest interval between two reads of a shard, by instance, in milliseconds.
pub(crate) const POLL_MIN_MILLIS: [u64; MAX_INSTANCES] = [10, 50, 100];

/// Relay process that is started repeatedly.
pub(crate) struct Instance {
    number: usize,
    incarnation: u32,
    world: Arc<Mutex<World>>,
    random: fastrand::Rng,
    mutation: Option<Mutation>,
    has_old_routes: bool,
    frozen: Arc<AtomicBool>,
    stop: CancellationToken,
    running: Option<Running>,
}

/// One start of the process.
struct Running {
    name: String,
    task: JoinHandle<Result<(), EngineError>>,
    status: EngineStatus,
    gaps: Gaps,
}

impl Instance {
    pub(crate) fn new(
        number: usize,
        world: &Arc<Mutex<World>>,
        random: fastrand::Rng,
        mutation: Option<Mutation>,
    ) -> Self {
        let mut instance = Self {
            number,
            incarnation: 0,
            world: Arc::clone(world),
            random,
            mutation,
            has_old_routes: false,
            frozen: Arc::default(),
            stop: CancellationToken::new(),
            running: None,
        };
        instance.start();
        instance
    }

    fn start(&mut self) {
        self.incarnation += 1;
        // The earlier process may have crashed while it was frozen.
        self.frozen = Arc::default();
        // Some restart under the same name, some under a new one.
        let instance = if self.random.bool() {
            format!("relay-{}", self.number)
        } else {
            format!("relay-{}-{}", self.number, self.incarnation)
        };
        let name = format!("{}.{}", self.number, self.incarnation);
        {
            let mut world = locked(&self.world);
            world.started(&name);
            world.log(format!("{name} starts as {instance}"));
        }
        let view = View {
            world: Arc::clone(&self.world),
            name: name.clone(),
            frozen: Arc::clone(&self.frozen),
            mutation: self.mutation,
        };
        let setup = locked(&self.world).setup.clone();
        let has_no_pauses = self.mutation == Some(Mutation::NoPauses);
        let poll = |millis| if has_no_pauses { 1 } else { millis };
        self.has_old_routes = setup.has_old_routes;
        let config = EngineConfig {
            instance,
            outbox_table: "outbox".to_owned(),
            buckets: Buckets::default(),
            routes: setup.routes(self.number).parse().expect("a route"),
            on_failure: if self.mutation == Some(Mutation::NotHolding) {
                OnFailure::Pass
            } else {
                setup.on_failure
            },
            lease_duration: setup.lease_duration(self.number),
            poll_min: Duration::from_millis(poll(POLL_MIN_MILLIS[self.number])),
            poll_max: Duration::from_millis(poll(200)),
            retention: Duration::from_secs(RETENTION.unsigned_abs()),
            sweep_interval: Duration::from_secs(5),
            sweep_after: Duration::from_secs(12),
            buffer_kib: if self.mutation == Some(Mutation::NoBound) {
                1 << 20
            } else {
                setup.buffer_events() * 2
            },
            clock: CLOCKS[self.number],
            suspended: || Duration::ZERO,
            seed: self.random.u64(..),
        };
        let gaps = Gaps::default();
        let engine = Engine::new(view.ports(), config, &gaps.meter());
        self.stop = CancellationToken::new();
        self.running = Some(Running {
            name,
            status: engine.status(),
            task: tokio::spawn(engine.run(self.stop.clone())),
            gaps,
        });
    }

    /// Starts the process if it does not run. One that lacks a route is restarted with it.
    pub(crate) async fn ensure_running(&mut self) {
        self.thaw();
        if self.has_old_routes {
            self.stop().await;
        }
        if self.running.is_none() {
            self.start();
        }
    }

    fn thaw(&mut self) {
        if let Some(running) = &self.running
            && self.frozen.swap(false, Ordering::Relaxed)
        {
            let mut world = locked(&self.world);
            world.thawed(&running.name);
            world.log(format!("{} continues", running.name));
        }
    }

    pub(crate) async fn disturb(&mut self, random: &mut fastrand::Rng) {
        let Some(running) = &self.running else {
            self.start();
            return;
        };
        if self.frozen.load(Ordering::Relaxed) {
            self.thaw();
            return;
        }
        let name = running.name.clone();
        let note = |kind| {
            let mut world = locked(&self.world);
            world.faults.note(kind);
            world.log(format!("{kind} of {name}"));
        };
        match random.u32(0..10) {
            0..5 => {
                note("crash");
                self.crash().await;
            }
            5..8 => {
                note("freeze");
                self.frozen.store(true, Ordering::Relaxed);
                locked(&self.world).frozen(&name);
            }
            _ => {
                note("graceful stop");
                self.stop().await;
            }
        }
    }

    pub(crate) async fn crash(&mut self) {
        if let Some(running) = self.running.take() {
            locked(&self.world).crashed(&running.name);
            running.task.abort();
            // Its tasks are dropped as well.
            let _ = running.task.await;
            locked(&self.world).check_gap(&running.name, running.gaps.count());
        }
    }

    pub(crate) async fn stop(&mut self) {
        self.thaw();
        if let Some(running) = self.running.take() {
            let abort = running.task.abort_handle();
            if self.mutation == Some(Mutation::NoShutdown) {
                abort.abort();
            } else {
                self.stop.cancel();
            }
            let stopped = tokio::time::timeout(SETTLE_LIMIT, running.task).await;
            let mut world = locked(&self.world);
            match stopped {
                Ok(Ok(Ok(()))) => {}
                Ok(ended) => {
                    let ended = format!("{} ended with {ended:?}", running.name);
                    world.violations.push(ended);
                }
                Err(_) => {
                    abort.abort();
                    world
                        .violations
                        .push(format!("{} did not stop", running.name));
                }
            }
            world.check_gap(&running.name, running.gaps.count());
            world.check_released(&running.name);
        }
    }

    /// Checks that `/healthz` becomes green in the quiet phase, and `/readyz` unless a queue is
    /// unavailable.
    pub(crate) async fn check_health(&self, is_ready: bool) {
        let Some(running) = &self.running else {
            return;
        };
        let healthy = async {
            while !(self.is_live() && (!is_ready || running.status.ready().healthy())) {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        if tokio::time::timeout(HEALTH_LIMIT, healthy).await.is_err() {
            locked(&self.world).violations.push(format!(
                "no silence: {} stays unhealthy: {:?}",
                running.name,
                [running.status.live(Instant::now()), running.status.ready()]
            ));
        }
    }

    /// Returns `true` if `/healthz` is green.
    pub(crate) fn is_live(&self) -> bool {
        let running = self.running.as_ref();
        self.mutation == Some(Mutation::AlwaysGreen)
            || running.is_none_or(|running| running.status.live(Instant::now()).healthy())
    }

    /// Returns the name of the current incarnation.
    pub(crate) fn name(&self) -> Option<&str> {
        Some(&self.running.as_ref()?.name)
    }
}
