//! Two instances behind a load balancer are restarted one after the other under load.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use test_support::reserved_port::Reservation;
use test_support::{PATIENCE, Service, eventually};
use tokio::task::JoinSet;
use tokio::time::interval;
use tokio_util::task::AbortOnDropHandle;

use crate::support::{PROGRAM, World, an_order};

/// 200 requests a second.
const BETWEEN_REQUESTS: Duration = Duration::from_millis(5);

/// Interval of the load balancer's health checks; well below the drain delay.
const BETWEEN_PROBES: Duration = Duration::from_millis(50);
const DRAIN_DELAY: &str = "1s";

/// An instance with ports that stay the same over restarts.
struct Instance {
    port: Reservation,
    admin_port: Reservation,
    /// Result of the last health check.
    ready: Arc<AtomicBool>,
    _probes: AbortOnDropHandle<()>,
}

impl Instance {
    fn reserve() -> Self {
        let [port, admin_port] =
            std::array::from_fn(|_| Reservation::take(([127, 0, 0, 1], 0).into()).unwrap());
        let ready = Arc::new(AtomicBool::new(false));
        let probes = probe(format!("{}/readyz", admin_port.url()), Arc::clone(&ready));
        Self {
            port,
            admin_port,
            ready,
            _probes: AbortOnDropHandle::new(tokio::spawn(probes)),
        }
    }

    /// Starts the process and waits until a health check succeeds.
    async fn start(&self, world: &World) -> Service {
        let environment = world.environment_with(&[
            ("ORDER_API_LISTEN", &self.port.address().to_string()),
            (
                "ORDER_API_ADMIN_LISTEN",
                &self.admin_port.address().to_string(),
            ),
            ("ORDER_API_DRAIN_DELAY", DRAIN_DELAY),
        ]);
        let service = Service::start(PROGRAM, &[], environment).await.unwrap();
        let ready = async || match self.ready.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(service.log()),
        };
        eventually(PATIENCE, ready).await.unwrap();
        service
    }
}

async fn probe(url: String, ready: Arc<AtomicBool>) {
    let http = reqwest::Client::new();
    let mut ticks = interval(BETWEEN_PROBES);
    loop {
        ticks.tick().await;
        let answer = http.get(&url).send().await;
        let is_ready = answer.is_ok_and(|answer| answer.status() == 200);
        ready.store(is_ready, Ordering::Relaxed);
    }
}

/// Sends orders to the ready instances in turn until `stop`. Returns the number of requests by
/// their result.
async fn traffic(instances: &[Instance; 2], stop: &AtomicBool) -> BTreeMap<String, usize> {
    let http = reqwest::Client::new();
    let order = an_order();
    let mut ticks = interval(BETWEEN_REQUESTS);
    let mut requests = JoinSet::new();
    let mut turn = 0;
    while !stop.load(Ordering::Relaxed) {
        ticks.tick().await;
        turn += 1;
        let ready = |instance: &&Instance| instance.ready.load(Ordering::Relaxed);
        let mut candidates = instances.iter().cycle().skip(turn % 2).take(2);
        let instance = candidates.find(ready).expect("an instance is ready");
        let request = http.post(format!("{}/orders", instance.port.url()));
        let request = request.json(&order).send();
        requests.spawn(async move {
            match request.await {
                Ok(answer) => answer.status().to_string(),
                Err(error) => format!("{error:?}"),
            }
        });
    }
    let mut results = BTreeMap::new();
    while let Some(result) = requests.join_next().await {
        *results.entry(result.unwrap()).or_default() += 1;
    }
    results
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_loses_no_request() {
    let world = World::start().await;
    let instances = [Instance::reserve(), Instance::reserve()];
    let mut services = Vec::new();
    for instance in &instances {
        services.push(instance.start(&world).await);
    }
    let stop = AtomicBool::new(false);
    let restart = async {
        for (instance, service) in instances.iter().zip(&mut services) {
            let ended = service.terminate().await.unwrap();
            assert_eq!(ended.code(), Some(0), "{}", service.log());
            *service = instance.start(&world).await;
        }
        stop.store(true, Ordering::Relaxed);
    };
    let (results, ()) = tokio::join!(traffic(&instances, &stop), restart);
    println!("{results:?}");
    let created = results.get("201 Created").copied().unwrap_or_default();
    assert_eq!(results.len(), 1, "{results:?}");
    assert_eq!(world.counts().await, [created, created, 0]);
}
