//! An instance on a host whose clock is a day ahead.

use std::time::Duration;

use clap::Parser;
use outbox::timestamp::Timestamp;
use outbox_relay::engine::{Engine, EngineConfig};
use outbox_relay::{Config, aws};
use shared::aws::Clients;
use test_support::eventually;
use tokio_util::sync::CancellationToken;

use crate::support::{DEADLINE, Stage, event, string};

const DAY_MILLIS: i64 = 24 * 60 * 60 * 1_000;

/// Deviation of a healthy clock, and the time that this test may take.
const TOLERANCE_MILLIS: i64 = 60_000;

const HEARTBEATS: u64 = 10;

#[derive(Debug, Parser)]
struct Options {
    #[command(flatten)]
    config: Config,
}

fn a_day_ahead() -> Timestamp {
    Timestamp::from_millis(Timestamp::now().as_millis() + DAY_MILLIS)
}

/// Returns an instance with this clock, in this process.
fn instance(stage: &Stage, clock: fn() -> Timestamp) -> Engine {
    let clients = Clients {
        dynamodb: stage.cloud.dynamodb_client(),
        streams: stage.cloud.streams_client(),
        sqs: stage.cloud.sqs_client(),
    };
    let Options { config } = Options::parse_from(["relay"]);
    let engine = EngineConfig {
        instance: "ahead".to_owned(),
        outbox_table: config.outbox_table.clone(),
        buckets: outbox::Buckets::default(),
        routes: config.routes.clone(),
        on_failure: outbox_relay::engine::OnFailure::Pass,
        lease_duration: Duration::from_secs(2),
        poll_min: config.poll_min,
        poll_max: config.poll_max,
        retention: config.retention,
        sweep_interval: Duration::from_millis(500),
        sweep_after: Duration::from_secs(1),
        buffer_kib: 8 * 1024,
        clock,
        suspended: || Duration::ZERO,
        seed: 1,
    };
    Engine::new(
        aws::ports(&clients, &config),
        engine,
        &opentelemetry::global::meter("test"),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_a_day_ahead_does_not_move_the_low_water_mark_ahead() {
    let stage = Stage::new().await;
    let stop = CancellationToken::new();
    let running = tokio::spawn(instance(&stage, a_day_ahead).run(stop.clone()));
    for sequence in 1..=5 {
        stage.put(event("a", sequence)).await;
        stage.until_status("a", sequence, "PUBLISHED").await;
    }
    let lease = eventually(DEADLINE, || async {
        let lease = stage.lease().await.unwrap_or_default();
        // After some heartbeats it has read the idle stream to its end.
        let heartbeats = lease
            .get("beat")
            .and_then(|beat| beat.as_n().ok()?.parse().ok());
        if heartbeats >= Some(HEARTBEATS) && lease.contains_key("passed") {
            Ok(lease)
        } else {
            Err(format!("{lease:?}"))
        }
    })
    .await
    .unwrap();
    let passed: Timestamp = string(&lease, "passed").unwrap().parse().unwrap();
    let ahead = passed.as_millis() - Timestamp::now().as_millis();
    stop.cancel();
    running.await.unwrap().unwrap();
    assert!(ahead < TOLERANCE_MILLIS, "{ahead} ms ahead");

    // Its successor, whose clock is right, publishes and sweeps.
    let options = [
        ("RELAY_SWEEP_AFTER", "1s"),
        ("RELAY_SWEEP_INTERVAL", "500ms"),
        ("RELAY_LEASE_DURATION", "2s"),
    ];
    let _relay = stage.relay(&options).await;
    stage.put(event("a", 6)).await;
    stage.until_status("a", 6, "PUBLISHED").await;
    let received = stage.receive("order-events", 6).await;
    assert_eq!(received.len(), 6);
}
