//! SIGTERM: not ready at once, requests are accepted for the drain delay, those in flight finish,
//! exit code 0.

use std::time::{Duration, Instant};

use test_support::{Fault, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{TRANSACT, World, an_order};

fn request() -> String {
    let body = an_order().to_string();
    format!(
        "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    )
}

#[tokio::test]
async fn a_request_in_flight_finishes_before_the_program_ends() {
    let mut world = World::start().await;
    world.proxy.once(TRANSACT, Fault::Hold);
    let address = world.api.address();
    let mut client = TcpStream::connect(address).await.unwrap();
    client.write_all(request().as_bytes()).await.unwrap();
    world.proxy.holds().await.unwrap();

    let finish = async {
        let refused = async || match TcpStream::connect(address).await {
            Ok(_) => Err("still listening"),
            Err(_) => Ok(()),
        };
        eventually(Duration::from_secs(10), refused).await.unwrap();
        world.proxy.heal();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        answer
    };
    let (ended, answer) = tokio::join!(world.api.terminate(), finish);
    assert!(answer.starts_with("HTTP/1.1 201"), "{answer}");
    assert_eq!(ended.unwrap().code(), Some(0));
    assert_eq!(world.counts().await, [1, 1, 0]);
}

#[tokio::test]
async fn requests_are_accepted_during_the_drain_delay_and_the_process_is_not_ready() {
    // The process may take longer than the grace period, because it starts after the delay.
    let mut world =
        World::with(&[("ORDER_API_DRAIN_DELAY", "4s"), ("SHUTDOWN_GRACE", "100ms")]).await;
    assert_eq!(world.post(&an_order()).await.header("connection"), "");
    let signalled = Instant::now();
    world.api.signal_stop().unwrap();
    let red = eventually(Duration::from_secs(3), async || {
        match world.admin_get("/readyz").await {
            answer if answer.status == 503 => Ok(answer),
            answer => Err(answer),
        }
    });
    assert!(red.await.unwrap().body.contains("the process is stopping"));
    let answer = world.post(&an_order()).await;
    answer.assert_created();
    assert_eq!(answer.header("connection"), "close");
    let red = world.get("/readyz").await;
    assert_eq!(
        (red.status.as_u16(), red.header("connection")),
        (503, "close")
    );
    assert_eq!(world.get("/healthz").await.status, 200);
    assert_eq!(world.admin_get("/healthz").await.status, 200);

    let ended = world.api.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0), "{}", world.api.log());
    assert!(signalled.elapsed() >= Duration::from_secs(4));
    assert_eq!(world.counts().await, [2, 2, 0]);
}

#[tokio::test]
async fn a_request_longer_than_the_grace_period_is_cut_off() {
    let mut world = World::with(&[("SHUTDOWN_GRACE", "200ms")]).await;
    world.proxy.once(TRANSACT, Fault::Hold);
    let mut client = TcpStream::connect(world.api.address()).await.unwrap();
    client.write_all(request().as_bytes()).await.unwrap();
    world.proxy.holds().await.unwrap();
    let ended = world.api.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
    let [orders, events, _] = world.counts().await;
    assert_eq!(orders, events);
}

#[tokio::test]
async fn half_sent_requests_do_not_delay_shutdown() {
    let mut world = World::start().await;
    let request = request();
    let mut clients = Vec::new();
    // Idle; in the middle of the head; in the middle of the body.
    for sent in [0, 20, request.len() - 10] {
        let mut client = TcpStream::connect(world.api.address()).await.unwrap();
        client.write_all(&request.as_bytes()[..sent]).await.unwrap();
        clients.push(client);
    }
    // Its response proves that those connections were accepted.
    world.get("/healthz").await;
    let stopping = Instant::now();
    let ended = world.api.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
    assert!(stopping.elapsed() < Duration::from_secs(3));
    assert_eq!(world.counts().await, [0, 0, 0]);
}
