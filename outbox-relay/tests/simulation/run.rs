//! One run: a fault phase with writers and instances that start and stop, then a quiet phase.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use outbox_relay::ports::EventKey;

use crate::check::check;
use crate::faults::Faults;
use crate::instance::Instance;
use crate::ports::Mutation;
use crate::quiet::quiet_phase;
use crate::world::{EventModel, QUEUES, Setup, World, start_clock};

/// Number of events that fit the buffer of one instance; each takes 2 KiB of it.
pub(crate) const BUFFER_EVENTS: usize = 24;
pub(crate) const MAX_INSTANCES: usize = 3;

/// Time limit for a run to settle once the faults have stopped.
pub(crate) const SETTLE_LIMIT: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) history: Vec<String>,
    pub(crate) faults: Faults,
    pub(crate) events: u64,
    pub(crate) deliveries: u64,
    pub(crate) repeats: u64,
    /// Highest number of events that one instance had read and not settled.
    pub(crate) max_unsettled: usize,
}

/// Runs `seed` to its end.
pub(crate) fn simulate(seed: u64) -> Outcome {
    simulate_without(None, seed)
}

/// Runs `seed` with one rule disabled.
pub(crate) fn simulate_without(rule: Option<Mutation>, seed: u64) -> Outcome {
    let setup = Setup::new(seed);
    in_simulation(seed, setup, async |world| play(world, seed, rule).await)
}

/// Runs one instance under steady load whose queues are unavailable for a minute. Returns the
/// outcome, the number of messages delivered in that minute, and the time from its end until every
/// event was published.
pub(crate) fn outage(seed: u64) -> (Outcome, usize, Duration) {
    let mut during = 0;
    let mut recovery = Duration::ZERO;
    let outcome = in_simulation(seed, Setup::plain(), async |world| {
        locked(world).has_faults = false;
        let mut random = fastrand::Rng::with_seed(seed);
        let mut instance = Instance::new(0, world, random.fork(), None);
        let mut sequences = vec![0_u64; 50];
        let mut load = async |seconds: u32| {
            for _ in 0..seconds * 10 {
                write(world, &mut sequences, &mut random);
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        load(10).await;
        locked(world).unavailable = QUEUES.into();
        let before = locked(world).deliveries.len();
        load(60).await;
        during = locked(world).deliveries.len() - before;
        locked(world).unavailable.clear();
        let restored = tokio::time::Instant::now();
        settle(world).await;
        recovery = restored.elapsed();
        instance.stop().await;
    });
    (outcome, during, recovery)
}

/// Runs `play` on paused time and checks the final state.
fn in_simulation(seed: u64, setup: Setup, play: impl AsyncFnOnce(&Arc<Mutex<World>>)) -> Outcome {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime without I/O always starts");
    runtime.block_on(async {
        start_clock();
        let world = Arc::new(Mutex::new(World::new(seed, setup)));
        play(&world).await;
        let mut world = world.lock().expect("no panic holds the world");
        let repeats = check(&mut world);
        Outcome {
            seed,
            violations: std::mem::take(&mut world.violations),
            history: std::mem::take(&mut world.history),
            faults: world.faults.clone(),
            events: world.events.len() as u64,
            deliveries: world.deliveries.len() as u64,
            repeats,
            max_unsettled: world.max_unsettled,
        }
    })
}

async fn play(world: &Arc<Mutex<World>>, seed: u64, rule: Option<Mutation>) {
    let mut random = fastrand::Rng::with_seed(seed ^ 0x5eed);
    let mut instances: Vec<Instance> = (0..random.usize(1..=MAX_INSTANCES))
        .map(|n| Instance::new(n, world, random.fork(), rule))
        .collect();
    let mut sequences = vec![0_u64; random.usize(2..=12)];
    let steps = random.usize(40..120);
    let failing_from = random.usize(..steps);
    for step in 0..steps {
        tokio::time::sleep(Duration::from_millis(random.u64(0..400))).await;
        if step == failing_from {
            locked(world).fail_queue();
        }
        match random.u32(0..100) {
            0..60 => write(world, &mut sequences, &mut random),
            60..65 if locked(world).shards.len() < 9 => locked(world).split(),
            65..67 => locked(world).trim(),
            67 if random.f64() < 0.2 => locked(world).recreate_stream(),
            68 => locked(world).delete_one(),
            69..73 => locked(world).toggle_queue_outage(),
            73..77 => locked(world).operate(),
            77 => burst(world, &mut sequences, &mut random),
            _ => {
                let n = random.usize(..instances.len());
                instances[n].disturb(&mut random).await;
            }
        }
        let condemned = std::mem::take(&mut locked(world).condemned);
        for instance in &mut instances {
            if instance.name().is_some_and(|name| condemned.contains(name)) {
                instance.crash().await;
            }
        }
    }
    quiet_phase(world, &mut instances).await;
    for instance in &mut instances {
        instance.stop().await;
    }
}

/// Waits until no event is pending. If that takes too long, the checkers report what is missing.
pub(crate) async fn settle(world: &Mutex<World>) {
    let waits = |event: &EventModel| event.is_pending() && !event.is_lost;
    wait_until(world, |world| !world.events.values().any(waits)).await;
}

/// Waits until `condition` holds, and returns `false` if that takes too long.
pub(crate) async fn wait_until(
    world: &Mutex<World>,
    condition: impl Fn(&mut World) -> bool,
) -> bool {
    let holds = async {
        while !condition(&mut locked(world)) {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::time::timeout(SETTLE_LIMIT, holds).await.is_ok()
}

pub(crate) fn locked(world: &Mutex<World>) -> std::sync::MutexGuard<'_, World> {
    world.lock().expect("no panic holds the world")
}

/// Commits one to four transactions. Most write one event; some write two of one aggregate, which
/// the stream may contain in reverse order.
fn write(world: &Mutex<World>, sequences: &mut [u64], random: &mut fastrand::Rng) {
    for _ in 0..random.usize(1..=4) {
        let aggregate = random.usize(..sequences.len());
        let mut next = |random: &mut fastrand::Rng| {
            let is_hole = locked(world).setup.has_holes && aggregate.is_multiple_of(2);
            sequences[aggregate] += if is_hole { random.u64(1..1_000) } else { 1 };
            EventKey {
                aggregate_id: format!("a{aggregate}"),
                sequence: sequences[aggregate].to_string(),
            }
        };
        let mut keys = vec![next(random)];
        if random.f64() < 0.15 {
            keys.push(next(random));
            if random.bool() {
                keys.reverse();
                locked(world).faults.note("reversed transaction");
            }
        }
        locked(world).commit(&keys);
    }
}

/// Commits more events than the buffers hold.
fn burst(world: &Mutex<World>, sequences: &mut [u64], random: &mut fastrand::Rng) {
    locked(world).faults.note("burst of events");
    for _ in 0..40 {
        write(world, sequences, random);
    }
}
