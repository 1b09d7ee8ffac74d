//! Large backlogs: what they delay, what they cost, and that nothing of them is lost.
//!
//! Each test runs with a small number of events; its full size is ignored, and runs by
//! `cargo test --release -p outbox-relay --test it scale -- --ignored --nocapture --test-threads=1`
//! on an otherwise idle machine. `SCALE_EVENTS=20000` replaces the number of events of the tests of
//! deferral.

mod deferral;
mod hold;
mod holes;
mod load;
mod sends;

use std::time::Duration;

use test_support::Service;

use crate::support::{Item, Stage, string};

impl Stage {
    /// Returns the lease of the only shard.
    async fn shard_lease(&self) -> Option<Item> {
        let rows = self
            .dynamodb
            .scan()
            .table_name("relay_leases")
            .consistent_read(true)
            .send()
            .await
            .unwrap()
            .items
            .unwrap_or_default();
        rows.into_iter()
            .find(|row| string(row, "lease").is_some_and(|lease| lease.starts_with("shardId-")))
    }
}

/// Returns the number of events of a full-size test.
fn full_size(events: usize) -> usize {
    std::env::var("SCALE_EVENTS").map_or(events, |count| count.parse().unwrap())
}

/// Resident memory of a process in MiB.
#[derive(Clone, Copy, Debug)]
struct Memory {
    now: u64,
    peak: u64,
}

impl Memory {
    fn of(relay: &Service) -> Self {
        let pid = relay.pid().unwrap();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let field = |name: &str| -> u64 {
            let value = status.lines().find_map(|line| line.strip_prefix(name));
            let value = value.unwrap().trim().strip_suffix(" kB").unwrap();
            value.parse::<u64>().unwrap() / 1024
        };
        Self {
            now: field("VmRSS:"),
            peak: field("VmHWM:"),
        }
    }
}

/// Returns the smallest of `values` that at least 99 % of them do not exceed.
fn p99(mut values: Vec<Duration>) -> Duration {
    values.sort_unstable();
    values
        .get((values.len() * 99).div_ceil(100).saturating_sub(1))
        .copied()
        .unwrap_or_default()
}

/// Returns the number of events of the metric `name`, whatever its labels.
async fn sum_of(relay: &Service, name: &str) -> u64 {
    let answer = reqwest::get(relay.url("/metrics")).await.unwrap();
    let metrics = answer.text().await.unwrap();
    metrics
        .lines()
        .filter_map(|line| {
            let rest = line.strip_prefix(name)?;
            let (labels, value) = rest.rsplit_once(' ')?;
            let plain = labels.is_empty() || labels.starts_with('{');
            plain.then(|| value.parse::<f64>().ok()).flatten()
        })
        .map(|value| {
            #[allow(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a counter"
            )]
            let value = value as u64;
            value
        })
        .sum()
}
