//! CPU usage of idle services.

use std::time::Duration;

use test_support::{PATIENCE, Service, eventually};

use crate::support::{Stack, get_order, post_order};

const WATCHED: Duration = Duration::from_secs(10);

/// Share of one core, for all three together. The documented bound is 3 % in the release profile;
/// this profile is not optimised.
const ALLOWED: f64 = 0.06;

/// Linux reports hundredths of a second in /proc, regardless of the tick of the kernel.
const TICKS_A_SECOND: f64 = 100.0;

/// Returns the CPU time so far, in user and kernel mode.
fn cpu_ticks(service: &Service) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", service.pid().unwrap())).unwrap();
    // proc(5): utime and stime are fields 14 and 15, and the name ends at `)`.
    let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[tokio::test]
async fn idle_services_use_almost_no_cpu() {
    let stack = Stack::start(&[]).await;
    let services = [
        stack.service("order-api").await,
        stack.service("outbox-relay").await,
        stack.service("inventory-worker").await,
    ];
    let http = reqwest::Client::new();
    let api = services[0].url("");
    let order = post_order(&http, &api, 1).await;
    let processed = eventually(PATIENCE, || async {
        match get_order(&http, &api, &order.id).await {
            order if order["status"] == "PROCESSED" => Ok(()),
            order => Err(order),
        }
    });
    processed.await.unwrap();

    let before: u64 = services.iter().map(cpu_ticks).sum();
    // A measurement over time, not a wait for a condition.
    tokio::time::sleep(WATCHED).await;
    let each: Vec<_> = services.iter().map(cpu_ticks).collect();
    let ticks = u32::try_from(each.iter().sum::<u64>() - before).unwrap();
    let share = f64::from(ticks) / TICKS_A_SECOND / WATCHED.as_secs_f64();
    println!("idle: {:.1} % of a core", share * 100.0);
    assert!(
        share < ALLOWED,
        "{:.1} % of a core, ticks of each: {each:?}",
        share * 100.0
    );
}
