//! HTTP server of every program: binding, limits, graceful shutdown.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// Upper bound on open connections; more wait in the listener's queue. Below the 65,536 file
/// descriptors that services usually have, and a bound on the memory of idle connections.
const MAX_CONNECTIONS: usize = 4_096;

/// Time limit for a new connection to send the head of a request.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit from one response to the head of the next request. Longer than the 60 s of AWS load
/// balancers, which otherwise reuse a connection that is being closed, and respond with 502.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// Time limit for a client to read more of its response. A stalled client holds the unsent response
/// and everything that the response is produced from.
const STALLED_TIMEOUT: Duration = Duration::from_secs(10);

/// Time limit during shutdown for a partially sent request to arrive.
const ARRIVAL_GRACE: Duration = Duration::from_secs(1);

/// Pause after a failed accept, for example for lack of file descriptors: retrying at once would
/// only occupy a core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Failure to bind a listening address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source} (is another program using the port?)")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds `address` and logs the bound address; port 0 selects any free port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "listening");
        Ok(listener)
    };
    bound.await.map_err(|source| BindError { address, source })
}

/// Serves `router` over HTTP/1.1 until `stop` is cancelled, then lets the requests that have
/// arrived finish, however long they take. Idle connections are closed at once, and partially sent
/// requests a second later. Dropping the future closes every connection.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            stream = accept(&listener), if connections.len() < MAX_CONNECTIONS => {
                connections.spawn(connection(stream, router.clone(), stop.clone()));
            }
            // Ended connections release their capacity.
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
    Ok(())
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; retrying");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    // Responses are small and complete: waiting to fill a packet only adds delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "setting TCP_NODELAY failed");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALLED_TIMEOUT));
    let progress = Arc::new(Progress::default());
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (request, unanswered) = progress.begin(request);
        let response = router.clone().oneshot(request);
        async move {
            let response = response.await?;
            Ok::<_, Infallible>(response.map(|body| Tracked {
                body,
                _guard: unanswered,
            }))
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE_TIMEOUT)
        .serve_connection(TokioIo::new(Box::pin(stream)), service);
    let mut serving = pin!(serving);

    let silent = async {
        sleep(FIRST_REQUEST_TIMEOUT).await;
        if progress.started.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = serving.as_mut() => return log(ended),
        () = silent => return tracing::debug!("a connection sent no request in time and was closed"),
        () = stop.cancelled() => {}
    }
    // Ends an idle connection here, and any other after its response.
    serving.as_mut().graceful_shutdown();
    match timeout(ARRIVAL_GRACE, serving.as_mut()).await {
        Ok(ended) => log(ended),
        Err(_) if progress.has_arrived() => log(serving.await),
        Err(_) => tracing::debug!("a partially sent request was cut off during shutdown"),
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// State of the request of a connection; HTTP/1 has one at a time.
#[derive(Debug, Default)]
struct Progress {
    /// `true` once the first request has started.
    started: AtomicBool,
    /// Requests whose body is still being read.
    arriving: Arc<AtomicUsize>,
    /// Requests whose response is not completely sent.
    unanswered: Arc<AtomicUsize>,
}

impl Progress {
    fn begin(&self, request: Request<hyper::body::Incoming>) -> (Request<Body>, CountGuard) {
        self.started.store(true, Ordering::Relaxed);
        let unanswered = CountGuard::new(&self.unanswered);
        let request = if request.body().is_end_stream() {
            request.map(Body::new)
        } else {
            let arriving = CountGuard::new(&self.arriving);
            request.map(|body| {
                Body::new(Tracked {
                    body,
                    _guard: arriving,
                })
            })
        };
        (request, unanswered)
    }

    /// Returns `true` if a request has arrived completely and its response is not completely sent.
    fn has_arrived(&self) -> bool {
        self.arriving.load(Ordering::Relaxed) == 0 && self.unanswered.load(Ordering::Relaxed) > 0
    }
}

/// Increments a counter for as long as it exists.
#[derive(Debug)]
struct CountGuard(Arc<AtomicUsize>);

impl CountGuard {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for CountGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that is counted until it is fully read or dropped.
#[derive(Debug)]
struct Tracked<B> {
    body: B,
    _guard: CountGuard,
}

impl<B: HttpBody<Data = Bytes> + Unpin> HttpBody for Tracked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use axum::routing::get;
    use futures::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::watch;

    use super::*;

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
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(handler));
        let server = tokio::spawn(serve(listener, router, CancellationToken::new()));
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: test\r\n\r\n";
        client.write_all(request).await.unwrap();
        client.read_u8().await.unwrap();
        assert_eq!(held.receiver_count(), 1);
        timeout(2 * STALLED_TIMEOUT, held.closed()).await.unwrap();
        server.abort();
    }
}
