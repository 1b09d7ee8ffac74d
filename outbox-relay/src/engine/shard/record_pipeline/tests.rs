use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use aws_sdk_dynamodb::types::AttributeValue;
use clap::Parser;
use outbox::timestamp::Timestamp;
use outbox::{Buckets, Status};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config::Config;
use crate::engine::buffer_budget::BufferBudget;
use crate::engine::health::status::EngineStatus;
use crate::engine::metrics::RelayMetrics;
use crate::engine::publish_command::PublishCommand;
use crate::engine::queue_states::{QueueCondition, QueueStates};
use crate::engine::service_clock::ServiceClock;
use crate::engine::shard_directory::ShardDirectory;
use crate::engine::{EngineConfig, OnFailure};
use crate::policy::checkpoint_tracker::CheckpointTracker;
use crate::ports::{
    Change, Deferral, EarlierEvent, EventKey, Item, MarkOutcome, OutboxTable, Page, PendingCursor,
    PendingPage, Published, Quarantine, Record, SequenceNumber, ShardId, StoredStatus, TableError,
};
use crate::routes::QueueRef;

const PENDING: StoredStatus = StoredStatus {
    status: Status::Pending,
    is_deferred: false,
    replays: 0,
};

/// Table in which the first event of each aggregate has the same status, and the second as well.
#[derive(Debug)]
struct Table {
    first: Mutex<StoredStatus>,
    second: Mutex<StoredStatus>,
    /// Look-ups of first events.
    look_ups: Mutex<Vec<EventKey>>,
}

impl Table {
    fn set(&self, status: Status) {
        self.first.lock().status = status;
    }

    fn count(&self) -> usize {
        self.look_ups.lock().len()
    }
}

#[async_trait]
impl OutboxTable for Table {
    async fn mark(&self, _: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        panic!("no publisher runs")
    }

    async fn defer(&self, _: &[Deferral]) -> Result<Vec<MarkOutcome>, TableError> {
        panic!("no publisher runs")
    }

    async fn quarantine(&self, _: &Quarantine) -> Result<MarkOutcome, TableError> {
        panic!("no publisher runs")
    }

    async fn statuses(&self, keys: &[EventKey]) -> Result<Vec<Option<StoredStatus>>, TableError> {
        let status = |key: &EventKey| {
            if key.sequence == "1" {
                self.look_ups.lock().push(key.clone());
                Some(*self.first.lock())
            } else {
                Some(*self.second.lock())
            }
        };
        Ok(keys.iter().map(status).collect())
    }

    async fn items(&self, _: &[EventKey]) -> Result<Vec<Option<Item>>, TableError> {
        Ok(Vec::new())
    }

    async fn pending(&self, _: u32, _: Option<PendingCursor>) -> Result<PendingPage, TableError> {
        panic!("no sweeper runs")
    }

    async fn latest_before(
        &self,
        _: &str,
        _: &str,
        _: usize,
    ) -> Result<Vec<EarlierEvent>, TableError> {
        Ok(Vec::new())
    }

    async fn count_pending(&self) -> Result<u64, TableError> {
        panic!("no monitor runs")
    }

    async fn count_failed(&self) -> Result<u64, TableError> {
        panic!("no monitor runs")
    }
}

#[derive(clap::Parser)]
struct Options {
    #[command(flatten)]
    config: Config,
}

fn now() -> Timestamp {
    Timestamp::from_millis(0)
}

/// Returns the time of the shard's records, long after its takeover.
fn created_at() -> Timestamp {
    Timestamp::from_millis(1_000_000_000)
}

/// A running pipeline.
struct Stage {
    table: Arc<Table>,
    queues: QueueStates,
    pages: mpsc::Sender<ReadPage>,
    commands: mpsc::UnboundedReceiver<PublishCommand>,
}

impl Stage {
    /// Starts the pipeline of a shard that was read to its end before.
    async fn new() -> Self {
        let stage = Self::of_acquired_shard();
        stage.read(&[]).await;
        stage
    }

    /// Starts the pipeline of a shard that another instance may have read before.
    fn of_acquired_shard() -> Self {
        let table = Arc::new(Table {
            first: Mutex::new(PENDING),
            second: Mutex::new(PENDING),
            look_ups: Mutex::default(),
        });
        let (commands, received) = mpsc::unbounded_channel();
        let ctx = context(&table, commands);
        let queues = ctx.queues.clone();
        let shard = Arc::new(ShardState::new(
            ShardId("shard".into()),
            CheckpointTracker::default(),
            Instant::now() + Duration::from_secs(3600),
            || Duration::ZERO,
        ));
        let (pages, read_pages) = mpsc::channel(1);
        let pipeline = RecordPipeline::new(ctx, shard, &mut fastrand::Rng::with_seed(0));
        tokio::spawn(pipeline.run(read_pages));
        Self {
            table,
            queues,
            pages,
            commands: received,
        }
    }

    /// Passes a page with the second event of each of some aggregates, and lets the pipeline
    /// process it.
    async fn read(&self, aggregate_ids: &[&str]) {
        let record = |(number, id): (usize, &&str)| Record {
            sequence_number: SequenceNumber(number.to_string().into()),
            created_at: Some(created_at()),
            change: Change::Insert(second_event(id)),
        };
        let page = ReadPage {
            page: Page {
                records: aggregate_ids.iter().enumerate().map(record).collect(),
                ..Page::default()
            },
            started_at: created_at(),
            budget: None,
        };
        self.pages.send(page).await.unwrap();
        tokio::time::sleep(Duration::from_millis(1)).await;
    }

    /// Returns the next command.
    async fn command(&mut self) -> &'static str {
        let command = tokio::time::timeout(Duration::from_secs(60), self.commands.recv());
        match command.await {
            Ok(Some(PublishCommand::Publish { .. })) => "publish",
            Ok(Some(PublishCommand::Defer { .. })) => "defer",
            other => panic!("{other:?}"),
        }
    }
}

fn context(table: &Arc<Table>, commands: mpsc::UnboundedSender<PublishCommand>) -> ShardContext {
    let routes: crate::routes::Routes = "*=q".parse().unwrap();
    let config = EngineConfig {
        instance: "relay".to_owned(),
        outbox_table: "outbox".to_owned(),
        buckets: Buckets::default(),
        routes,
        on_failure: OnFailure::Pass,
        lease_duration: Duration::from_secs(10),
        poll_min: Duration::from_millis(50),
        poll_max: Duration::from_secs(10),
        retention: Duration::from_secs(90_000),
        sweep_interval: Duration::from_secs(30),
        sweep_after: Duration::from_secs(60),
        buffer_kib: 8 * 1_024,
        clock: now,
        suspended: || Duration::ZERO,
        seed: 0,
    };
    let clients = shared::aws::Clients {
        dynamodb: aws_sdk_dynamodb::Client::from_conf(
            aws_sdk_dynamodb::Config::builder()
                .behavior_version(aws_sdk_dynamodb::config::BehaviorVersion::latest())
                .build(),
        ),
        streams: aws_sdk_dynamodbstreams::Client::from_conf(
            aws_sdk_dynamodbstreams::Config::builder()
                .behavior_version(aws_sdk_dynamodbstreams::config::BehaviorVersion::latest())
                .build(),
        ),
        sqs: aws_sdk_sqs::Client::from_conf(
            aws_sdk_sqs::Config::builder()
                .behavior_version(aws_sdk_sqs::config::BehaviorVersion::latest())
                .build(),
        ),
    };
    let mut ports = crate::aws::ports(&clients, &Options::parse_from(["relay"]).config);
    ports.outbox = Arc::clone(table) as Arc<dyn OutboxTable>;
    let status = EngineStatus::new(config.lease_duration);
    let budget = BufferBudget::new(config.buffer_kib);
    let meter = opentelemetry::global::meter("test");
    ShardContext {
        ports,
        clock: ServiceClock::new(config.clock),
        metrics: RelayMetrics::new(&meter, &status, &budget, Vec::new(), config.clock),
        budget,
        config: Arc::new(config),
        status,
        stream: "".into(),
        commands,
        queues: QueueStates::default(),
        directory: ShardDirectory::default(),
        stop: CancellationToken::new(),
        release: CancellationToken::new(),
    }
}

fn second_event(aggregate_id: &str) -> Item {
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let attributes = [
        ("aggregate_id", text(aggregate_id)),
        ("sequence", AttributeValue::N("2".to_owned())),
        ("event_id", text(&format!("{aggregate_id}:2"))),
        ("aggregate_type", text("order")),
        ("event_type", text("order.placed")),
        ("payload", text("{}")),
        ("occurred_at", text("2026-01-31T08:15:30.123Z")),
        ("status", text("PENDING")),
        ("state_bucket", text("PENDING#0")),
    ];
    let attributes = attributes.into_iter();
    attributes
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

#[tokio::test(start_paused = true)]
async fn an_event_follows_its_predecessor_soon_although_its_shard_is_idle() {
    let mut stage = Stage::new().await;
    stage.read(&["a"]).await;
    tokio::time::sleep(Duration::from_millis(4_321)).await;
    stage.table.set(Status::Published);
    let published_at = Instant::now();
    assert_eq!(stage.command().await, "publish");
    assert!(published_at.elapsed() <= Duration::from_millis(500));
}

#[tokio::test(start_paused = true)]
async fn the_number_of_look_ups_does_not_depend_on_that_of_reads() {
    for interval in [10, 50, 200, 5_000] {
        let mut stage = Stage::new().await;
        stage.read(&["a", "b", "c"]).await;
        let read_at = Instant::now();
        while read_at.elapsed() < Duration::from_secs(9) {
            stage.read(&[]).await;
            tokio::time::sleep(Duration::from_millis(interval)).await;
        }
        let count = stage.table.count() / 3;
        assert!((18..=30).contains(&count), "{interval} ms: {count}");
        assert!(stage.commands.try_recv().is_err());
    }
}

#[tokio::test(start_paused = true)]
async fn a_wait_takes_ten_seconds_and_twenty_reads() {
    let mut stage = Stage::new().await;
    stage.read(&["a"]).await;
    let read_at = Instant::now();
    tokio::time::sleep(Duration::from_secs(15)).await;
    for _ in 1..19 {
        stage.read(&[]).await;
    }
    assert!(stage.commands.try_recv().is_err());
    stage.read(&[]).await;
    // Nothing earlier is in the table.
    assert_eq!(stage.command().await, "publish");
    assert!(read_at.elapsed() < Duration::from_secs(16));

    stage.table.set(Status::Pending);
    stage.read(&["b"]).await;
    let read_at = Instant::now();
    for _ in 0..100 {
        stage.read(&[]).await;
    }
    assert!(stage.commands.try_recv().is_err());
    assert_eq!(stage.command().await, "publish");
    assert!((10_000..10_600).contains(&read_at.elapsed().as_millis()));
}

#[tokio::test(start_paused = true)]
async fn no_event_is_deferred_behind_a_published_one_when_its_shard_ends() {
    let mut stage = Stage::new().await;
    stage.read(&["a"]).await;
    tokio::time::sleep(Duration::from_millis(4_321)).await;
    for _ in 0..5 {
        stage.read(&[]).await;
    }
    stage.table.set(Status::Published);
    let (pages, _) = mpsc::channel(1);
    stage.pages = pages;
    assert_eq!(stage.command().await, "publish");
}

#[tokio::test(start_paused = true)]
async fn no_event_is_deferred_behind_a_published_one_when_its_queue_fails() {
    for (status, expected) in [(Status::Published, "publish"), (Status::Pending, "defer")] {
        let mut stage = Stage::new().await;
        stage.read(&["a"]).await;
        tokio::time::sleep(Duration::from_millis(4_321)).await;
        for _ in 0..5 {
            stage.read(&[]).await;
        }
        stage.table.set(status);
        let condition = QueueCondition {
            is_deferring: true,
            has_table_batch: false,
        };
        let failing = BTreeMap::from([(QueueRef::new("q"), condition)]);
        stage.queues.replace(failing);
        stage.read(&[]).await;
        assert_eq!(stage.command().await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn after_a_takeover_the_record_of_a_replayed_event_is_not_sent() {
    for (replays, is_sent) in [(0, true), (1, false)] {
        let mut stage = Stage::of_acquired_shard();
        stage.table.set(Status::Published);
        stage.table.second.lock().replays = replays;
        stage.read(&["a"]).await;
        assert_eq!(stage.commands.try_recv().is_ok(), is_sent, "{replays}");
    }
}
