//! SIGTERM and SIGKILL with messages in flight.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::order::OrderStatus;
use test_support::{Fault, PATIENCE, Proxy, Service, eventually};

use crate::support::{TestCloud, get, logged, on_transactions};

/// Orders of one SKU, which wait for each other.
const SAME_SKU: [&[(&str, u64)]; 10] = [&[("A", 1)]; 10];

/// Orders of ten SKUs, which do not.
const TEN_SKUS: [&[(&str, u64)]; 10] = [
    &[("S-0", 1)],
    &[("S-1", 1)],
    &[("S-2", 1)],
    &[("S-3", 1)],
    &[("S-4", 1)],
    &[("S-5", 1)],
    &[("S-6", 1)],
    &[("S-7", 1)],
    &[("S-8", 1)],
    &[("S-9", 1)],
];

async fn ten_skus() -> TestCloud {
    let stock = TEN_SKUS.map(|lines| (lines[0].0, 10));
    TestCloud::start(&stock).await
}

/// Waits until `count` transactions are held.
async fn held(dynamodb: &Proxy, count: usize) {
    let held = eventually(PATIENCE, || async {
        match dynamodb.held() {
            held if held == count => Ok(()),
            held => Err(held),
        }
    });
    held.await.unwrap();
}

/// Returns the number of processed orders.
async fn processed(cloud: &TestCloud) -> i64 {
    let mut reserved = 0;
    for lines in TEN_SKUS {
        reserved += cloud.stock(lines[0].0).await.1;
    }
    reserved
}

fn signal(worker: &Service, signal: Signal) {
    let pid = i32::try_from(worker.pid().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[tokio::test]
async fn sigterm_finishes_messages_in_flight_and_leaves_the_rest_in_the_queue() {
    let cloud = ten_skus().await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    on_transactions(&dynamodb, |_, _| Fault::Hold);
    let mut worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_CONCURRENCY", "4"),
        ])
        .await;
    cloud.place_and_send(&TEN_SKUS).await;
    held(&dynamodb, 4).await;

    signal(&worker, Signal::SIGTERM);
    logged(&worker, "stopping").await;
    let (ready, report) = get(&worker, "/readyz").await;
    assert_eq!((ready, get(&worker, "/healthz").await.0), (503, 200));
    assert!(report.contains("the process is stopping"), "{report}");
    dynamodb.heal();

    let status = worker.terminate().await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert_eq!(processed(&cloud).await, 4);
    assert_eq!(cloud.messages(&cloud.queue_url).await, (6, 0));
}

#[tokio::test]
async fn orders_that_wait_for_others_are_finished_or_visible_again_as_well() {
    for is_healed in [true, false] {
        let cloud = TestCloud::start(&[("A", 100)]).await;
        let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
        on_transactions(&dynamodb, |_, _| Fault::Hold);
        let mut worker = cloud
            .worker(&[
                ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
                ("WORKER_CONCURRENCY", "2"),
                ("WORKER_VISIBILITY_TIMEOUT", "1h"),
                ("SHUTDOWN_GRACE", if is_healed { "20s" } else { "1s" }),
            ])
            .await;
        // The first is in a transaction when the others arrive.
        cloud.place_and_send(&SAME_SKU[..1]).await;
        held(&dynamodb, 1).await;
        cloud.place_and_send(&SAME_SKU).await;
        let received = eventually(PATIENCE, || async {
            match cloud.messages(&cloud.queue_url).await {
                (0, 11) => Ok(()),
                messages => Err(messages),
            }
        });
        received.await.unwrap();

        signal(&worker, Signal::SIGTERM);
        logged(&worker, "stopping").await;
        if is_healed {
            dynamodb.heal();
        }
        let status = worker.terminate().await.unwrap();
        assert_eq!(status.code(), Some(0), "{}", worker.log());
        let expected = if is_healed { (89, 11) } else { (100, 0) };
        assert_eq!(cloud.stock("A").await, expected);
        let left = cloud.receive_all(&cloud.queue_url).await.len();
        assert_eq!(left, if is_healed { 0 } else { 11 });
    }
}

#[tokio::test]
async fn messages_that_do_not_finish_in_time_are_visible_again_at_once() {
    let cloud = ten_skus().await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    on_transactions(&dynamodb, |_, _| Fault::Hold);
    let mut worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_CONCURRENCY", "4"),
            ("WORKER_VISIBILITY_TIMEOUT", "1h"),
            ("SHUTDOWN_GRACE", "1s"),
        ])
        .await;
    cloud.place_and_send(&TEN_SKUS).await;
    held(&dynamodb, 4).await;

    let status = worker.terminate().await.unwrap();

    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert_eq!(cloud.receive_all(&cloud.queue_url).await.len(), 10);
}

#[tokio::test]
async fn an_outage_does_not_delay_shutdown() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    let mut worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "1h"),
            ("SHUTDOWN_GRACE", "1h"),
        ])
        .await;
    logged(&worker, "DynamoDB is available").await;
    dynamodb.rule(|_| Fault::Cut);
    cloud.place_and_send(&SAME_SKU).await;
    logged(&worker, "DynamoDB is unavailable").await;

    let status = worker.terminate().await.unwrap();

    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert_eq!(cloud.receive_all(&cloud.queue_url).await.len(), 10);
}

#[tokio::test]
async fn an_idle_worker_stops_at_once() {
    let cloud = TestCloud::start(&[]).await;
    let mut worker = cloud.worker(&[]).await;
    logged(&worker, "DynamoDB is available").await;
    assert_eq!(get(&worker, "/readyz").await.0, 200);

    let started = std::time::Instant::now();
    assert_eq!(worker.terminate().await.unwrap().code(), Some(0));

    // A long poll would have lasted 20 seconds.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[tokio::test]
async fn messages_of_a_killed_worker_take_effect_once() {
    let cloud = ten_skus().await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    // Every other transaction takes effect, but its response does not arrive.
    on_transactions(&dynamodb, |_, count| match count % 2 {
        0 => Fault::HoldAnswer,
        _ => Fault::Hold,
    });
    let mut killed = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "2s"),
        ])
        .await;
    let placed = cloud.place_and_send(&TEN_SKUS).await;
    held(&dynamodb, 10).await;
    killed.kill().await.unwrap();

    let _successor = cloud.worker(&[]).await;

    cloud.drained().await;
    cloud.all(&placed, OrderStatus::Processed).await;
    assert_eq!(processed(&cloud).await, 10);
    assert_eq!(cloud.messages(&cloud.dead_letters_url).await, (0, 0));
}
