//! Clients that open connections and do not finish what they send.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use futures::future::join_all;
use shared::runtime::descriptors;
use test_support::{PATIENCE, Service, eventually};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{PROGRAM, World, an_order};

/// Bound on the 99th percentile of ordinary requests. The first is the requirement; unoptimised,
/// with the embedded DynamoDB and the attack in the test's own process, they take longer.
const P99: Duration = if cfg!(debug_assertions) {
    Duration::from_secs(1)
} else {
    Duration::from_millis(100)
};

/// Bound on the memory of the API, in KiB: 100 MB.
const MEMORY_KIB: u64 = 100_000_000 / 1024;

const ORDINARY: usize = 400;

/// Connects from one of several addresses: 127.0.0.2, 127.0.0.3 and so on.
async fn connect(to: SocketAddr, from: usize) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let last = u8::try_from(from % 8 + 2).unwrap();
    let from = SocketAddr::from((Ipv4Addr::new(127, 0, 0, last), 0));
    socket.bind(from).unwrap();
    socket.connect(to).await.unwrap()
}

/// Opens connections that send `bytes(n)` and no more.
async fn attack(world: &World, count: usize, bytes: impl Fn(usize) -> Vec<u8>) -> Vec<TcpStream> {
    let mut clients = Vec::with_capacity(count);
    for n in 0..count {
        let mut client = connect(world.api.address(), n).await;
        // The API may have closed the connection already.
        let _ = client.write_all(&bytes(n)).await;
        clients.push(client);
    }
    clients
}

/// Returns a request of which one byte, or most, of the body is sent.
fn unfinished_body(n: usize) -> Vec<u8> {
    let head = "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
                content-length: 60000\r\n\r\n";
    let sent = if n.is_multiple_of(2) { 1 } else { 50_000 };
    [head.as_bytes(), &vec![b' '; sent]].concat()
}

fn half_sent_headers(_: usize) -> Vec<u8> {
    let head = "GET /orders/1 HTTP/1.1\r\nhost: x\r\nx: ";
    [head.as_bytes(), &[b'x'; 31 * 1024]].concat()
}

/// Places orders on four connections, and probes the health on both ports meanwhile. Returns the
/// 99th percentile of the durations.
async fn ordinary_orders(world: &World) -> Duration {
    let order = an_order();
    let clients = (0..4).map(async |_| {
        let mut durations = Vec::new();
        for _ in 0..ORDINARY / 4 {
            let started = Instant::now();
            world.post(&order).await.assert_created();
            durations.push(started.elapsed());
        }
        durations
    });
    let probes = async {
        for _ in 0..20 {
            assert_eq!(world.get("/healthz").await.status, 200);
            assert_eq!(world.admin_get("/healthz").await.status, 200);
        }
    };
    let (durations, ()) = tokio::join!(join_all(clients), probes);
    let mut durations = durations.concat();
    durations.sort_unstable();
    durations[durations.len() * 99 / 100]
}

/// Returns the largest resident memory of the process so far, in KiB.
fn peak_memory(api: &Service) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", api.pid().unwrap())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib = peak.unwrap().trim().strip_suffix("kB").unwrap();
    kib.trim().parse().unwrap()
}

#[tokio::test]
async fn unfinished_requests_and_idle_connections_do_not_affect_ordinary_orders() {
    descriptors::raise_limit();
    let world = World::start().await;
    let mut p99 = BTreeMap::from([("alone", ordinary_orders(&world).await)]);

    let bodies = attack(&world, 600, unfinished_body).await;
    p99.insert("600 bodies", ordinary_orders(&world).await);
    drop(bodies);
    let idle = attack(&world, 4_096, |_| Vec::new()).await;
    p99.insert("4,096 idle", ordinary_orders(&world).await);
    drop(idle);
    let headers = attack(&world, 1_000, half_sent_headers).await;
    p99.insert("1,000 headers", ordinary_orders(&world).await);
    drop(headers);

    let together = async {
        tokio::join!(
            attack(&world, 600, unfinished_body),
            attack(&world, 4_096, |_| Vec::new()),
            attack(&world, 1_000, half_sent_headers),
            ordinary_orders(&world),
        )
    };
    let (bodies, idle, headers, during) = together.await;
    p99.insert("while all arrive", during);
    p99.insert("all", ordinary_orders(&world).await);
    drop((bodies, idle, headers));

    let memory = peak_memory(&world.api);
    println!("p99: {p99:?}; memory: {} MiB", memory / 1024);
    assert!(p99.values().all(|duration| *duration < P99), "{p99:?}");
    assert!(memory < MEMORY_KIB, "{memory} KiB");
    assert_eq!(world.counts().await, [6 * ORDINARY, 6 * ORDINARY, 0]);
}

#[tokio::test]
async fn ten_thousand_idle_connections_from_one_address_make_room_for_each_other() {
    descriptors::raise_limit();
    let world = World::start().await;
    let mut idle = Vec::new();
    for _ in 0..10_000 {
        idle.push(TcpStream::connect(world.api.address()).await.unwrap());
    }
    let duration = ordinary_orders(&world).await;
    let memory = peak_memory(&world.api);
    println!("p99: {duration:?}; memory: {} MiB", memory / 1024);
    assert!(duration < P99, "{duration:?}");
    assert!(memory < MEMORY_KIB, "{memory} KiB");
    // The first one has waited longest.
    assert_eq!(idle[0].read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test]
async fn a_request_takes_memory_for_what_was_sent_of_it_and_not_for_what_it_announces() {
    descriptors::raise_limit();
    let world = World::start().await;
    let one_byte = |_| unfinished_body(0);
    let bodies = attack(&world, 4_096, one_byte).await;
    let duration = ordinary_orders(&world).await;
    let memory = peak_memory(&world.api);
    println!("p99: {duration:?}; memory: {} MiB", memory / 1024);
    assert!(duration < P99, "{duration:?}");
    assert!(memory < MEMORY_KIB, "{memory} KiB");
    drop(bodies);
}

#[tokio::test]
async fn requests_that_arrive_at_once_are_received_within_the_bound() {
    descriptors::raise_limit();
    let world = World::start().await;
    let mut clients = attack(&world, 4_000, |_| Vec::new()).await;
    // All of it is in the buffers of the kernel when the API continues.
    let signal = |signal: &str| {
        let pid = world.api.pid().unwrap().to_string();
        let mut kill = std::process::Command::new("/bin/sh");
        kill.args(["-c", "kill $0 $1", signal, &pid]);
        assert!(kill.status().unwrap().success());
    };
    signal("-STOP");
    let most = unfinished_body(1);
    for client in &mut clients {
        client.write_all(&most).await.unwrap();
    }
    signal("-CONT");
    ordinary_orders(&world).await;
    let memory = peak_memory(&world.api);
    println!("memory: {} MiB", memory / 1024);
    assert!(memory < MEMORY_KIB, "{memory} KiB");
}

#[tokio::test]
async fn an_unfinished_body_takes_no_permit() {
    let world = World::with(&[("ORDER_API_MAX_CONCURRENCY", "1")]).await;
    let _bodies = attack(&world, 20, unfinished_body).await;
    world.post(&an_order()).await.assert_created();
}

#[tokio::test]
async fn a_full_api_port_does_not_affect_the_admin_port() {
    // Every connection of the API port is in use by a request that is being handled.
    let world = World::with(&[("ORDER_API_MAX_CONNECTIONS", "2")]).await;
    world.always([("TransactWriteItems", test_support::Fault::Hold)]);
    let order = an_order().to_string();
    let request = format!(
        "POST /orders HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{order}",
        order.len()
    );
    let _held = attack(&world, 2, |_| request.clone().into_bytes()).await;
    world.proxy.saw("TransactWriteItems", 2).await.unwrap();
    // Refused: there is no connection that waits for its client.
    let mut refused = connect(world.api.address(), 0).await;
    assert_eq!(refused.read(&mut [0]).await.unwrap_or(0), 0);
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(world.admin_get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn connections_leave_file_descriptors_for_dynamodb() {
    let world = World::start().await;
    // Raises its own soft limit to the hard limit, which it cannot raise.
    let limited = "ulimit -S -n 100 && ulimit -H -n 600 && exec \"$0\"";
    let options = [("ORDER_API_MAX_CONCURRENCY", "32")];
    let environment = world.environment_with(&options);
    let arguments = ["-c", limited, PROGRAM];
    let api = Service::start("/bin/sh", &arguments, environment)
        .await
        .unwrap();
    let warned = async || match api.log() {
        log if log.contains("file descriptors allows fewer") => Ok(()),
        log => Err(log),
    };
    eventually(PATIENCE, warned).await.unwrap();
    let mut idle = Vec::new();
    for n in 0..700 {
        idle.push(connect(api.address(), n).await);
    }
    let http = reqwest::Client::new();
    for _ in 0..20 {
        let answer = http.post(api.url("/orders")).json(&an_order()).send().await;
        assert_eq!(answer.unwrap().status(), 201);
    }
    assert!(
        !api.log().contains("accepting a connection failed"),
        "{}",
        api.log()
    );
}
