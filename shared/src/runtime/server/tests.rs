use std::convert::Infallible;
use std::future::ready;

use axum::body::{Body, Bytes};
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::*;

/// A server on a free port.
struct Running {
    address: SocketAddr,
    draining: CancellationToken,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(router: Router) -> Running {
    let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let [draining, stop] = std::array::from_fn(|_| CancellationToken::new());
    let server = Server {
        listener,
        router,
        limits: Limits::ADMIN,
        draining: draining.clone(),
        stop: stop.clone(),
    };
    Running {
        address,
        draining,
        stop,
        task: tokio::spawn(server.serve()),
    }
}

/// Sends `request` and returns everything until the connection ends.
async fn exchange(server: &Running, request: &[u8]) -> String {
    let mut client = TcpStream::connect(server.address).await.unwrap();
    // The server may respond before it has read everything.
    let _ = client.write_all(request).await;
    let mut response = Vec::new();
    let _ = client.read_to_end(&mut response).await;
    String::from_utf8(response).unwrap()
}

fn head_of(bytes: usize) -> Vec<u8> {
    let start = "GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx: ";
    let end = "\r\n\r\n";
    let value = "x".repeat(bytes - start.len() - end.len());
    format!("{start}{value}{end}").into_bytes()
}

fn fields(count: usize) -> Vec<u8> {
    let fields: String = (2..count).map(|n| format!("x-{n}: 1\r\n")).collect();
    format!("GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n{fields}\r\n").into_bytes()
}

#[tokio::test]
async fn a_head_has_at_most_32_kib_and_100_fields() {
    let server = serve(Router::new().route("/", get(async || "fine"))).await;
    for (request, status) in [
        (head_of(MAX_HEAD_BYTES - 1), 200),
        (head_of(MAX_HEAD_BYTES), 200),
        (head_of(MAX_HEAD_BYTES + 1), 431),
        (head_of(10 * MAX_HEAD_BYTES), 431),
        (fields(100), 200),
        (fields(101), 431),
    ] {
        let response = exchange(&server, &request).await;
        let expected = format!("HTTP/1.1 {status} ");
        assert!(response.starts_with(&expected), "{status}: {response}");
    }
}

#[tokio::test]
async fn requests_have_the_address_of_their_client() {
    let address = async |ConnectInfo(address): ConnectInfo<SocketAddr>| address.ip().to_string();
    let server = serve(Router::new().route("/", get(address))).await;
    let response = exchange(&server, &fields(2)).await;
    assert!(response.ends_with("127.0.0.1"), "{response}");
}

/// Reads `count` responses that end with `fine`.
async fn read_responses(client: &mut TcpStream, count: usize) {
    for _ in 0..count {
        let mut response = Vec::new();
        while !response.ends_with(b"fine") {
            response.push(client.read_u8().await.unwrap());
        }
        assert!(response.starts_with(b"HTTP/1.1 200 "));
    }
}

#[tokio::test]
async fn requests_that_arrive_together_or_in_parts_are_all_served() {
    let server = serve(Router::new().route("/", get(async || "fine"))).await;
    let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    let requests = request.repeat(3);
    for cut in 0..=requests.len() {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(&requests[..cut]).await.unwrap();
        let complete = cut / request.len();
        read_responses(&mut client, complete).await;
        client.write_all(&requests[cut..]).await.unwrap();
        read_responses(&mut client, 3 - complete).await;
    }
}

#[tokio::test]
async fn the_rest_of_a_body_is_not_a_request() {
    let routes = get(async || "fine").post(async || "fine");
    let server = serve(Router::new().route("/", routes)).await;
    let body = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    let head = format!(
        "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: {}\r\n\r\n",
        2 * body.len()
    );
    for sent in [0, 1, body.len()] {
        let mut client = TcpStream::connect(server.address).await.unwrap();
        client.write_all(head.as_bytes()).await.unwrap();
        client.write_all(&body[..sent]).await.unwrap();
        // The handler reads no body.
        read_responses(&mut client, 1).await;
        let _ = client.write_all(body).await;
        let mut more = Vec::new();
        let _ = client.read_to_end(&mut more).await;
        assert!(more.is_empty(), "{sent}: {}", more.escape_ascii());
    }
}

#[tokio::test]
async fn a_client_that_reads_slowly_gets_its_response_and_the_next_one() {
    const SIZE: usize = 8 * 1024 * 1024;
    let server = serve(Router::new().route("/", get(async || vec![0; SIZE]))).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    for connection in ["keep-alive", "keep-alive", "close"] {
        let request = format!("GET / HTTP/1.1\r\nhost: test\r\nconnection: {connection}\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        // The rest does not fit into the buffers of the kernel.
        client.read_u8().await.unwrap();
    }
    let mut responses = Vec::new();
    client.read_to_end(&mut responses).await.unwrap();
    let zeros = responses.iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeros, 3 * SIZE);
}

#[tokio::test]
async fn responses_close_their_connections_while_the_server_drains() {
    let server = serve(Router::new().route("/", get(async || "fine"))).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    let mut response = [0; 1_000];
    client.write_all(request).await.unwrap();
    let length = client.read(&mut response).await.unwrap();
    let response = std::str::from_utf8(&response[..length]).unwrap();
    assert!(!response.contains("connection: close"), "{response}");

    server.draining.cancel();
    client.write_all(request).await.unwrap();
    let mut response = String::new();
    client.read_to_string(&mut response).await.unwrap();
    assert!(response.contains("connection: close"), "{response}");
    assert!(response.ends_with("fine"), "{response}");
    // New connections are still accepted.
    assert!(exchange(&server, request).await.ends_with("fine"));
}

#[tokio::test]
async fn requests_that_the_kernel_has_received_are_served_when_the_server_stops() {
    let server = serve(Router::new().route("/", get(async || "fine"))).await;
    let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    let mut idle = TcpStream::connect(server.address).await.unwrap();
    idle.write_all(request).await.unwrap();
    assert_ne!(idle.read(&mut [0; 1_000]).await.unwrap(), 0);
    // On this thread, so that the server runs only after both.
    let mut new = std::net::TcpStream::connect(server.address).unwrap();
    std::io::Write::write_all(&mut new, request).unwrap();
    idle.try_write(request).unwrap();
    server.stop.cancel();
    new.set_nonblocking(true).unwrap();
    for mut client in [idle, TcpStream::from_std(new).unwrap()] {
        let mut response = String::new();
        client.read_to_string(&mut response).await.unwrap();
        assert!(response.ends_with("fine"), "{response}");
    }
}

#[tokio::test]
async fn a_request_whose_body_stops_in_the_middle_does_not_delay_the_end() {
    let (started, mut starts) = watch::channel(false);
    let read = async move |body: Bytes| {
        started.send_replace(true);
        body
    };
    let mut server = serve(Router::new().route("/", post(read))).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let request = b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\nhalf";
    client.write_all(request).await.unwrap();
    server.stop.cancel();
    timeout(Duration::from_secs(10), &mut server.task)
        .await
        .unwrap()
        .unwrap();
    assert!(!*starts.borrow_and_update());
}

#[tokio::test]
async fn http_2_is_closed_at_once() {
    let server = serve(Router::new().route("/", get(async || "fine"))).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(exchange(&server, preface).await, "");
}

#[tokio::test]
async fn a_client_that_stops_reading_is_cut_off() {
    let held = Arc::new(watch::Sender::new(()));
    let handler = {
        let held = Arc::clone(&held);
        move || {
            let held = held.subscribe();
            // Never ends.
            let chunks = stream::repeat_with(move || {
                let _ = &held;
                Ok::<_, Infallible>(Bytes::from_static(&[0; 64 * 1024]))
            });
            ready(Body::from_stream(chunks))
        }
    };
    let server = serve(Router::new().route("/", get(handler))).await;
    let mut client = TcpStream::connect(server.address).await.unwrap();
    let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
    client.write_all(request).await.unwrap();
    client.read_u8().await.unwrap();
    assert_eq!(held.receiver_count(), 1);
    timeout(Duration::from_secs(20), held.closed())
        .await
        .unwrap();
}

#[tokio::test]
async fn little_is_sent_to_a_client_that_reads_nothing() {
    const CHUNK: &[u8] = &[b'x'; 16 * 1024];
    let (sent, mut produced) = watch::channel(0);
    let respond = async move || {
        let chunks = stream::repeat_with(move || {
            sent.send_modify(|bytes| *bytes += CHUNK.len());
            Ok::<_, Infallible>(Bytes::from_static(CHUNK))
        });
        Body::from_stream(chunks.take(1_024))
    };
    let server = serve(Router::new().route("/", get(respond))).await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let mut client = socket.connect(server.address).await.unwrap();
    client.write_all(&fields(2)).await.unwrap();
    // Until nothing has been added for a second.
    while let Ok(Ok(())) = timeout(Duration::from_secs(1), produced.changed()).await {}
    let produced = *produced.borrow();
    assert!((1..512 * 1024).contains(&produced), "{produced}");
}
