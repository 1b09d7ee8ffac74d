//! Ending by SIGTERM and by SIGKILL, with messages in flight.

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
async fn messages_in_flight_are_finished_and_the_rest_left_for_others() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    dynamodb.rule(hold_transactions);
    let mut worker = rig
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_CONCURRENCY", "4"),
        ])
        .await;
    rig.place_and_send(&TEN).await;
    dynamodb.saw("TransactWriteItems", 4).await.unwrap();

    signal(&worker, Signal::SIGTERM);
    logged(&worker, "stopping").await;
    dynamodb.heal();

    let status = worker.terminate().await.unwrap();
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert_eq!(rig.stock("A").await, (6, 4));
    assert_eq!(rig.messages(&rig.queue_url).await, (6, 0));
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_visible_again_at_once() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    dynamodb.rule(hold_transactions);
    let mut worker = rig
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_CONCURRENCY", "4"),
            ("WORKER_VISIBILITY_TIMEOUT", "1h"),
            ("SHUTDOWN_GRACE", "1s"),
        ])
        .await;
    rig.place_and_send(&TEN).await;
    dynamodb.saw("TransactWriteItems", 4).await.unwrap();

    let status = worker.terminate().await.unwrap();

    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert_eq!(rig.take_visible(&rig.queue_url).await.len(), 10);
}

#[tokio::test]
async fn an_outage_does_not_hold_up_the_end() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    let mut worker = rig
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "1h"),
            ("SHUTDOWN_GRACE", "1h"),
        ])
        .await;
    logged(&worker, "DynamoDB answers").await;
    dynamodb.rule(|_| Fault::Cut);
    rig.place_and_send(&TEN).await;
    logged(&worker, "DynamoDB does not answer").await;

    let status = worker.terminate().await.unwrap();

    assert_eq!(status.code(), Some(0), "{}", worker.log());
    assert_eq!(rig.take_visible(&rig.queue_url).await.len(), 10);
}

#[tokio::test]
async fn an_idle_worker_ends_at_once() {
    let rig = TestCloud::start(&[]).await;
    let mut worker = rig.worker(&[]).await;
    logged(&worker, "DynamoDB answers").await;
    assert_eq!(get(&worker, "/readyz").await.0, 200);

    let started = std::time::Instant::now();
    assert_eq!(worker.terminate().await.unwrap().code(), Some(0));

    // A long poll would have gone on for 20.
    assert!(started.elapsed().as_secs() < 5, "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_killed_worker_s_messages_take_effect_once() {
    let rig = TestCloud::start(&[("A", 10)]).await;
    let dynamodb = Proxy::start(rig.cloud.dynamodb_url()).await.unwrap();
    // Every other transaction takes effect without the worker learning of it.
    dynamodb.rule(|call| match call.operation {
        "TransactWriteItems" if call.count % 2 == 0 => Fault::HoldAnswer,
        "TransactWriteItems" => Fault::Hold,
        _ => Fault::Pass,
    });
    let mut killed = rig
        .worker(&[
            ("AWS_ENDPOINT_URL_DYNAMODB", dynamodb.url()),
            ("WORKER_VISIBILITY_TIMEOUT", "2s"),
        ])
        .await;
    let placed = rig.place_and_send(&TEN).await;
    dynamodb.saw("TransactWriteItems", 10).await.unwrap();
    killed.kill().await.unwrap();

    let _successor = rig.worker(&[]).await;

    rig.drained().await;
    rig.all(&placed, OrderStatus::Processed).await;
    assert_eq!(rig.stock("A").await, (0, 10));
    assert_eq!(rig.messages(&rig.dead_letters_url).await, (0, 0));
}
