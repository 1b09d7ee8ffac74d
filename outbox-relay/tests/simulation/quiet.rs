//! Quiet phase of a run: without faults everything settles, health is right, and what an
//! unavailable queue held up follows once it accepts again.

use std::sync::Mutex;
use std::time::Duration;

use outbox_relay::engine::OnFailure;
use outbox_relay::ports::LeaseState;

use crate::instance::Instance;
use crate::run::{locked, settle, wait_until};
use crate::world::{HealthFault, LEASE, World, clock};

/// Time for which health must stay green when nothing fails.
const GREEN: Duration = Duration::from_secs(15);

/// Time beyond three lease durations within which health must notice a fault or its end.
const NOTICE: Duration = Duration::from_secs(5);

pub(crate) async fn quiet_phase(world: &Mutex<World>, instances: &mut [Instance]) {
    // Before the faults end: an instance that is stopped during its start releases nothing.
    locked(world).setup.has_old_routes = false;
    for instance in instances.iter_mut() {
        instance.ensure_running().await;
    }
    {
        let mut world = locked(world);
        world.has_faults = false;
        let failing = world.setup.failing_queue;
        world.unavailable.retain(|queue| Some(*queue) == failing);
        world.log("quiet phase");
    }
    if locked(world).setup.failing_queue.is_some() {
        everything_else_settles(world).await;
        for instance in instances.iter() {
            instance.check_health(false).await;
        }
        let mut world = locked(world);
        world.unavailable.clear();
        world.log("the failing queue is available");
    }
    if locked(world).setup.on_failure == OnFailure::Hold {
        release_held(world).await;
    }
    settle(world).await;
    for instance in instances.iter() {
        instance.check_health(true).await;
    }
    check_balance(world, instances).await;
    let fault = locked(world).setup.health_fault;
    if let Some(fault) = fault {
        check_green(world, instances).await;
        check_red(world, instances, fault).await;
    }
}

/// Retries and discards quarantined events until none is left: those that are held follow.
async fn release_held(world: &Mutex<World>) {
    wait_until(world, |world| {
        let is_settled = !world.events.values().any(|event| event.is_held_up());
        if !is_settled {
            world.release_failed();
        }
        is_settled
    })
    .await;
}

/// Checks deferral: while a queue is unavailable, every event that does not wait for it is settled,
/// its own ones are deferred, and checkpoints and low-water marks advance.
async fn everything_else_settles(world: &Mutex<World>) {
    let started_at = clock();
    let settled = wait_until(world, |world| world.is_settled_but_for_failing_queue()).await;
    if !settled {
        let mut world = locked(world);
        let left = world.unsettled_but_for_failing_queue();
        world.violations.push(format!(
            "deferral: not settled while a queue is unavailable: {}",
            left.join(", ")
        ));
        return;
    }
    let advanced = wait_until(world, |world| {
        let stream = world.stream();
        let leases = world.leases.iter().filter(|((of, _), _)| *of == stream);
        let open = leases.filter(|(_, lease)| {
            lease.state == LeaseState::Open && world.shard(&lease.shard).is_some()
        });
        open.into_iter()
            .all(|(_, lease)| lease.low_watermark.is_some_and(|mark| mark > started_at))
    })
    .await;
    if !advanced {
        let violation = "deferral: a low-water mark stands still while a queue is unavailable";
        locked(world).violations.push(violation.to_owned());
    }
}

/// Checks balance: soon the instances hold equal numbers of shards.
async fn check_balance(world: &Mutex<World>, instances: &[Instance]) {
    let names: Vec<_> = instances.iter().filter_map(Instance::name).collect();
    if !wait_until(world, |world| world.is_balanced(&names)).await {
        let violation = "balance: an instance holds more shards than its share";
        locked(world).violations.push(violation.to_owned());
    }
}

/// Checks that health stays green while nothing fails.
async fn check_green(world: &Mutex<World>, instances: &[Instance]) {
    let until = tokio::time::Instant::now() + GREEN;
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(500)).await;
        for instance in instances {
            if !instance.is_live() {
                let name = instance.name().unwrap_or_default();
                let violation = format!("health: {name} is red in the quiet phase");
                locked(world).violations.push(violation);
                return;
            }
        }
    }
}

/// Checks that health turns red for a fault that lasts, and green after its end.
async fn check_red(world: &Mutex<World>, instances: &[Instance], fault: HealthFault) {
    let affected: Vec<&Instance> = {
        let mut world = locked(world);
        world.log(format!("lasting fault: {fault:?}"));
        match fault {
            HealthFault::Leases => {
                world.leases_unavailable = true;
                instances.iter().collect()
            }
            HealthFault::Shard => {
                let Some((shard, holder)) = world.open_shard() else {
                    return;
                };
                world.unreadable = Some(shard);
                let is_holder = |instance: &&Instance| instance.name() == Some(&*holder);
                instances.iter().filter(is_holder).collect()
            }
        }
    };
    let longest = locked(world).setup.lease_duration(1).max(LEASE);
    tokio::time::sleep(longest * 3 + NOTICE).await;
    // The shard may have moved to another instance meanwhile.
    let has_moved = fault == HealthFault::Shard && {
        let world = locked(world);
        let now = world.open_shard().map(|(_, holder)| holder);
        affected
            .iter()
            .any(|instance| instance.name() != now.as_deref())
    };
    for instance in affected {
        if instance.is_live() && !has_moved {
            let name = instance.name().unwrap_or_default();
            let violation = format!("health: {name} stays green although {fault:?} fails");
            locked(world).violations.push(violation);
        }
    }
    {
        let mut world = locked(world);
        world.leases_unavailable = false;
        world.unreadable = None;
        world.log("the fault has ended");
    }
    for instance in instances {
        instance.check_health(true).await;
    }
}
