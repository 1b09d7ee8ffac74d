//! SIGTERM and SIGKILL with messages in flight.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shared::order::OrderStatus;
use test_support::{Call, Fault, Proxy, Service};

use crate::support::{TestCloud, get, logged};

const TEN: [&[(&str, u64)]; 10] = [&[("A", 1)]; 10];

fn hold_transactions(call: Call<'_>) -> Fault {
    match call.operation {
        "TransactWriteItems" => Fault::Hold,
        _ => Fault::Pass,
    }
}

fn signal(worker: &Service, signal: Signal) {
    let pid = i32::try_from(worker.pid().unwrap()).unwrap();
    kill(Pid::from_raw(pid), signal).unwrap();
}

#[tokio::test]
async fn sigterm_finishes_messages_in_flight_and_leaves_the_rest_in_the_queue() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    dynamodb.rule(hold_transactions);
    let mut worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_CONCURRENCY", "4"),
        ])
        .await;
    cloud.place_and_send(&TEN).await;
    dynamodb.saw("TransactWriteItems", 4).await.unwrap();

    signal(&worker, Signal::SIGTERM);
    logged(&worker, "stopping").await;
    dynamodb.heal();

    let status = worker.terminate().await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert_eq!(cloud.stock("A").await, (6, 4));
    assert_eq!(cloud.messages(&cloud.queue_url).await, (6, 0));
}

#[tokio::test]
async fn messages_that_do_not_finish_in_time_are_visible_again_at_once() {
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    dynamodb.rule(hold_transactions);
    let mut worker = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_CONCURRENCY", "4"),
            ("WORKER_VISIBILITY_TIMEOUT", "1h"),
            ("SHUTDOWN_GRACE", "1s"),
        ])
        .await;
    cloud.place_and_send(&TEN).await;
    dynamodb.saw("TransactWriteItems", 4).await.unwrap();

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
    cloud.place_and_send(&TEN).await;
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
    let cloud = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(cloud.local.dynamodb_url()).await.unwrap();
    // Every other transaction takes effect, but its response does not arrive.
    dynamodb.rule(|call| match call.operation {
        "TransactWriteItems" if call.count % 2 == 0 => Fault::HoldAnswer,
        "TransactWriteItems" => Fault::Hold,
        _ => Fault::Pass,
    });
    let mut killed = cloud
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "2s"),
        ])
        .await;
    let placed = cloud.place_and_send(&TEN).await;
    dynamodb.saw("TransactWriteItems", 10).await.unwrap();
    killed.kill().await.unwrap();

    let _successor = cloud.worker(&[]).await;

    cloud.drained().await;
    cloud.all(&placed, OrderStatus::Processed).await;
    assert_eq!(cloud.stock("A").await, (0, 10));
    assert_eq!(cloud.messages(&cloud.dead_letters_url).await, (0, 0));
}
