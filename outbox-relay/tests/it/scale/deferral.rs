//! A large backlog for a queue that does not exist yet, or of an event type without a route, beside
//! steady traffic to another queue.

use std::time::{Duration, Instant};

use test_support::{Service, eventually};

use super::load::SteadyLoad;
use super::sends::SqsRecorder;
use super::{Memory, full_size, sum_of};
use crate::support::{Item, Stage, event, string, text};

/// Events of each aggregate of the backlog.
const SEQUENCES: u64 = 20;

/// Upper bound on the 99th percentile of the lag of the healthy queue, while the backlog is read
/// and while it is published. One second holds in an optimised build on two cores that do nothing
/// else than this test, with the embedded cloud in its process. A build for tests, beside other
/// tests, is only shown not to wait for the failing queue.
const MAX_LAG: Duration = Duration::from_secs(if cfg!(debug_assertions) { 4 } else { 1 });
const MAX_MEMORY_MIB: u64 = 80;
const MAX_GROWTH_MIB: u64 = 16;

/// Time within which the backlog is published once its queue exists, under the same conditions.
const DRAIN: Duration = Duration::from_secs(if cfg!(debug_assertions) { 240 } else { 60 });

/// Lower bound on the rate of the table path, as a part of that of the stream path. The margin of a
/// build for tests is for the other tests on the machine.
const MIN_RATIO: f64 = if cfg!(debug_assertions) { 0.3 } else { 0.5 };

/// Upper bound on the events that one kill may repeat: those that were sent and not marked.
const REPEATS_PER_KILL: usize = 500;

/// Reason for which the backlog cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Obstacle {
    MissingQueue,
    NoRoute,
}

#[derive(Clone, Copy, Debug)]
struct Backlog {
    events: usize,
    /// Events written per second.
    rate: u32,
    /// Events per second of the healthy queue meanwhile.
    steady: u32,
    obstacle: Obstacle,
    /// Number of kills of the relay while the backlog is read, and while it is published.
    kills: [usize; 2],
}

impl Backlog {
    fn items(self) -> impl Iterator<Item = Item> {
        late_items("late", self.events)
    }

    /// Returns `true` if the lag is asserted after `kills`: during a restart nothing is sent, which
    /// is more than one percent of a short run.
    const fn bounds_lag(self, kills: usize) -> bool {
        kills == 0 || self.events >= 100_000
    }

    /// Returns the number of kills of the whole run.
    fn all_kills(self) -> usize {
        let for_routes = usize::from(self.obstacle == Obstacle::NoRoute);
        self.kills.iter().sum::<usize>() + for_routes
    }
}

/// Returns `count` events for the queue `late`, aggregate after aggregate in each round of one
/// sequence.
fn late_items(name: &str, count: usize) -> impl Iterator<Item = Item> {
    let aggregates = count / usize::try_from(SEQUENCES).unwrap();
    (1..=SEQUENCES).flat_map(move |sequence| {
        (0..aggregates).map(move |n| {
            let mut item = event(&format!("{name}-{n}"), sequence);
            item.insert("event_type".to_owned(), text("late.happened"));
            item
        })
    })
}

struct Run {
    stage: Stage,
    sqs: SqsRecorder,
    backlog: Backlog,
    relay: Service,
}

impl Run {
    async fn start(backlog: Backlog) -> Self {
        let stage = Stage::without_queue().await;
        stage.create_queue("healthy").await;
        let sqs = SqsRecorder::start(&stage).await;
        let routes = match backlog.obstacle {
            Obstacle::MissingQueue => "order.*=healthy,late.*=late",
            Obstacle::NoRoute => "order.*=healthy",
        };
        let relay = start_relay(&stage, &sqs, routes).await;
        Self {
            stage,
            sqs,
            backlog,
            relay,
        }
    }

    /// Kills the relay and starts it again, with the routes of the end of the run if
    /// `final_routes`.
    async fn restart(&mut self, final_routes: bool) {
        let routes = if final_routes || self.backlog.obstacle == Obstacle::MissingQueue {
            "order.*=healthy,late.*=late"
        } else {
            "order.*=healthy"
        };
        self.relay.kill().await.unwrap();
        self.relay = start_relay(&self.stage, &self.sqs, routes).await;
    }

    /// Returns the checkpoint and the low-water mark of the shard.
    async fn position(&self) -> (String, String) {
        let lease = self.stage.shard_lease().await.unwrap_or_default();
        let attribute = |name| string(&lease, name).unwrap_or_default().to_owned();
        (attribute("checkpoint"), attribute("passed"))
    }

    /// Writes the backlog in as many parts as there are kills, with a kill after each. Returns the
    /// relay's memory after the first part, or after a fifth without kills.
    async fn write(&mut self) -> Memory {
        let kills = self.backlog.kills[0];
        let parts = if kills == 0 { 5 } else { kills };
        let per_part = self.backlog.events.div_ceil(parts);
        let mut items = self.backlog.items();
        let mut memory = None;
        for _ in 0..parts {
            let part: Vec<_> = items.by_ref().take(per_part).collect();
            self.stage.write_paced(part, self.backlog.rate).await;
            memory.get_or_insert_with(|| Memory::of(&self.relay));
            if kills > 0 {
                self.restart(false).await;
            }
        }
        memory.unwrap()
    }

    fn sent(&self) -> usize {
        self.sqs.sends().count("late-")
    }

    async fn until_sent(&self, count: usize, limit: Duration) {
        self.sqs.until_sent("late-", count, limit).await;
    }
}

async fn start_relay(stage: &Stage, sqs: &SqsRecorder, routes: &str) -> Service {
    stage
        .relay(&[
            ("AWS_ENDPOINT_URL_SQS", sqs.url()),
            ("RELAY_ROUTES", routes),
            ("RELAY_LEASE_DURATION", "2s"),
            ("RELAY_SWEEP_INTERVAL", "2s"),
            // As in the container image.
            ("MALLOC_ARENA_MAX", "1"),
        ])
        .await
}

/// Runs one backlog from its start to the last published event, and asserts every limit.
async fn run(backlog: Backlog) {
    let mut run = Run::start(backlog).await;
    let mut steady = SteadyLoad::start(&run.stage, backlog.steady);
    eventually(Duration::from_secs(20), || async {
        match run.position().await {
            (checkpoint, passed) if !checkpoint.is_empty() && !passed.is_empty() => Ok(()),
            position => Err(format!("{position:?}")),
        }
    })
    .await
    .unwrap();
    let position_before = run.position().await;

    let began = Instant::now();
    let memory_before = run.write().await;
    let written = began.elapsed();
    let written_at = outbox::timestamp::Timestamp::now().to_string();
    // The shard's readers pass the whole backlog although none of it can be sent.
    eventually(Duration::from_secs(30), || async {
        match run.position().await {
            (checkpoint, passed) if passed > written_at && checkpoint != position_before.0 => {
                Ok(())
            }
            position => Err(format!("{position:?} after {written_at}")),
        }
    })
    .await
    .unwrap();
    let passed = began.elapsed();
    let (count, lag) = steady.lag(&run.sqs.sends(), began, Instant::now());
    let memory_read = Memory::of(&run.relay);
    let deferred = sum_of(&run.relay, "outbox_events_deferred_total").await;
    println!(
        "{backlog:?}: written in {written:.1?}, passed after {passed:.1?}; p99 lag of {count} healthy events {lag:.0?}; {deferred} deferred; {memory_before:?} after a part, {memory_read:?} after all"
    );
    assert_eq!(run.sent(), 0);

    run.stage.create_queue("late").await;
    if backlog.obstacle == Obstacle::NoRoute {
        run.restart(true).await;
    }
    let created = Instant::now();
    for kill in 1..=backlog.kills[1] {
        let before_kill = backlog.events * kill / (backlog.kills[1] + 1);
        run.until_sent(before_kill, DRAIN).await;
        run.restart(true).await;
    }
    run.until_sent(backlog.events, DRAIN.saturating_sub(created.elapsed()))
        .await;
    let drained = created.elapsed();
    let (healthy, drain_lag) = steady.lag(&run.sqs.sends(), created, Instant::now());
    let total = steady.stop().await + backlog.events;
    eventually(Duration::from_secs(30), || async {
        match run.stage.pending().await {
            0 => Ok(()),
            pending => Err(format!("{pending} of {total} events are pending")),
        }
    })
    .await
    .unwrap();
    let memory_end = Memory::of(&run.relay);
    let sends = run.sqs.sends();
    println!(
        "{backlog:?}: published {drained:.1?} after the queue was created; p99 lag of {healthy} healthy events meanwhile {drain_lag:.0?}; {} repeats, {} batches; {memory_end:?} at the end",
        sends.repeats, sends.batches
    );
    assert!(
        sends.out_of_order.is_empty(),
        "{} events out of order, such as {:?}",
        sends.out_of_order.len(),
        &sends.out_of_order[..sends.out_of_order.len().min(5)]
    );
    let kills = backlog.all_kills();
    assert!(
        sends.repeats <= kills * REPEATS_PER_KILL,
        "{} repeats after {kills} kills",
        sends.repeats
    );
    assert!(memory_end.peak < MAX_MEMORY_MIB, "{memory_end:?}");
    if backlog.bounds_lag(backlog.kills[0]) {
        assert!(lag < MAX_LAG, "p99 lag {lag:?} while it is read");
    }
    if backlog.bounds_lag(kills - backlog.kills[0]) {
        assert!(
            drain_lag < MAX_LAG,
            "p99 lag {drain_lag:?} while it is published"
        );
    }
    if backlog.kills == [0, 0] {
        let growth = memory_read.now.saturating_sub(memory_before.now);
        assert!(
            growth < MAX_GROWTH_MIB,
            "{memory_before:?}, {memory_read:?}"
        );
    }
}

/// Returns the events per second from the first to the last send of those with `prefix`.
fn rate_of(sqs: &SqsRecorder, prefix: &str) -> f64 {
    let sends = sqs.sends();
    let first = sends.first.iter().filter(|(id, _)| id.starts_with(prefix));
    let times: Vec<_> = first.map(|(_, at)| *at).collect();
    let span = *times.iter().max().unwrap() - *times.iter().min().unwrap();
    #[allow(clippy::cast_precision_loss, reason = "a few thousand")]
    let count = times.len() as f64;
    count / span.as_secs_f64()
}

/// Publishes `events` events from the table, and as many from the stream, and compares the rates.
async fn compare_paths(events: usize) {
    let stage = Stage::without_queue().await;
    stage.create_queue("healthy").await;
    let sqs = SqsRecorder::start(&stage).await;
    let routes = "order.*=healthy,late.*=late";
    let mut relay = start_relay(&stage, &sqs, routes).await;
    stage.write_paced(late_items("table", events), 5_000).await;
    eventually(DRAIN, || async {
        match sum_of(&relay, "outbox_events_deferred_total").await {
            count if count == u64::try_from(events).unwrap() => Ok(()),
            count => Err(format!("{count} of {events} are deferred")),
        }
    })
    .await
    .unwrap();
    stage.create_queue("late").await;
    sqs.until_sent("table-", events, DRAIN).await;
    let from_table = rate_of(&sqs, "table-");

    relay.kill().await.unwrap();
    stage.write_paced(late_items("stream", events), 5_000).await;
    let _relay = start_relay(&stage, &sqs, routes).await;
    sqs.until_sent("stream-", events, DRAIN).await;
    let from_stream = rate_of(&sqs, "stream-");
    println!(
        "{events} events: {from_table:.0}/s from the table, {from_stream:.0}/s from the stream, ratio {:.2}",
        from_table / from_stream
    );
    let out_of_order = sqs.sends().out_of_order.len();
    assert_eq!(out_of_order, 0);
    assert!(
        from_table >= MIN_RATIO * from_stream,
        "{from_table:.0}/s from the table, {from_stream:.0}/s from the stream"
    );
}

const SMALL: Backlog = Backlog {
    events: 3_000,
    rate: 600,
    steady: 100,
    obstacle: Obstacle::MissingQueue,
    kills: [0, 0],
};

/// Returns the full size, or another one.
fn full() -> Backlog {
    Backlog {
        events: full_size(100_000),
        rate: 1_000,
        steady: 200,
        ..SMALL
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_path_is_at_least_half_as_fast_as_the_stream_path() {
    compare_paths(4_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full size"]
async fn the_table_path_is_at_least_half_as_fast_for_fifty_thousand_events() {
    compare_paths(full_size(50_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_for_a_missing_queue_delay_no_others_and_follow_in_order() {
    run(SMALL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_a_route_delay_no_others_and_follow_in_order() {
    run(Backlog {
        obstacle: Obstacle::NoRoute,
        ..SMALL
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deferred_events_survive_kills_in_order() {
    run(Backlog {
        kills: [1, 1],
        ..SMALL
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full size"]
async fn a_hundred_thousand_events_for_a_missing_queue_delay_no_others_and_follow_in_order() {
    run(full()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full size"]
async fn a_hundred_thousand_events_without_a_route_delay_no_others_and_follow_in_order() {
    run(Backlog {
        obstacle: Obstacle::NoRoute,
        ..full()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "full size"]
async fn a_hundred_thousand_deferred_events_survive_five_kills_in_order() {
    run(Backlog {
        kills: [3, 2],
        ..full()
    })
    .await;
}
