//! How every server of the project is bound and stopped.

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

/// Connections open at once; more wait in the listener's queue. Below the 65,536
/// descriptors services are usually given, and a bound on what idle ones hold.
const MAX_CONNECTIONS: usize = 4_096;

/// A new connection that has not sent the head of a request by now is closed.
const FIRST_REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// From one answer to the head of the next request. Longer than the 60 s of AWS
/// load balancers: they reuse a connection that is closed under them, and
/// answer 502.
const IDLE_TIMEOUT: Duration = Duration::from_secs(75);

/// A client that takes nothing of its answer for this long is cut off: until then
/// it holds what is to be sent, and whatever the answer is made from.
const STALLED_TIMEOUT: Duration = Duration::from_secs(10);

/// On stopping, what is half sent may arrive for this long.
const ARRIVAL_GRACE: Duration = Duration::from_secs(1);

/// Out of file descriptors, say: trying again at once would only use up a core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// A listening address could not be taken.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source} (is another program using the port?)")]
pub struct BindError {
    address: SocketAddr,
    source: std::io::Error,
}

/// Binds `address` and logs where it listens; port 0 takes any free port.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    let bound = async {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        tracing::info!(%address, "listening");
        Ok(listener)
    };
    bound.await.map_err(|source| BindError { address, source })
}

/// Serves `router` over HTTP/1.1 until `stop` is cancelled, then lets the
/// requests that have arrived finish, however long they take. Idle connections
/// end at once, and half-sent requests a second later. Dropping the future cuts
/// every connection.
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
            // Ended ones make room.
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
                tracing::warn!(%error, "a connection could not be accepted");
                sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, stop: CancellationToken) {
    // Answers are small and complete: waiting to fill a packet only adds delay.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(STALLED_TIMEOUT));
    let progress = Arc::new(Progress::default());
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let (request, unanswered) = progress.begin(request);
        let answer = router.clone().oneshot(request);
        async move {
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Tracked {
                body,
                _mark: unanswered,
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
        if progress.begun.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        ended = serving.as_mut() => return log(ended),
        () = silent => return tracing::debug!("a connection sent no request and was closed"),
        () = stop.cancelled() => {}
    }
    // Ends an idle connection here, and any other after its answer.
    serving.as_mut().graceful_shutdown();
    match timeout(ARRIVAL_GRACE, serving.as_mut()).await {
        Ok(ended) => log(ended),
        Err(_) if progress.has_arrived() => log(serving.await),
        Err(_) => tracing::debug!("a half-sent request was cut on stopping"),
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Where the request of a connection is; HTTP/1 has one at a time.
#[derive(Debug, Default)]
struct Progress {
    /// Whether there ever was one.
    begun: AtomicBool,
    /// Requests whose body is still being read.
    arriving: Arc<AtomicUsize>,
    /// Requests whose answer is not sent yet.
    unanswered: Arc<AtomicUsize>,
}

impl Progress {
    fn begin(&self, request: Request<hyper::body::Incoming>) -> (Request<Body>, Mark) {
        self.begun.store(true, Ordering::Relaxed);
        let unanswered = Mark::new(&self.unanswered);
        let request = if request.body().is_end_stream() {
            request.map(Body::new)
        } else {
            let arriving = Mark::new(&self.arriving);
            request.map(|body| {
                Body::new(Tracked {
                    body,
                    _mark: arriving,
                })
            })
        };
        (request, unanswered)
    }

    /// Whether all of a request is here and its answer is not yet sent.
    fn has_arrived(&self) -> bool {
        self.arriving.load(Ordering::Relaxed) == 0 && self.unanswered.load(Ordering::Relaxed) > 0
    }
}

/// Counts as long as it exists.
#[derive(Debug)]
struct Mark(Arc<AtomicUsize>);

impl Mark {
    fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(count))
    }
}

impl Drop for Mark {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that is marked until it has been read, or given up.
#[derive(Debug)]
struct Tracked<B> {
    body: B,
    _mark: Mark,
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
    async fn a_client_that_takes_no_more_is_cut_off() {
        let held = Arc::new(watch::Sender::new(()));
        let answer = {
            let held = Arc::clone(&held);
            move || {
                let held = held.subscribe();
                // Without an end.
                let chunks = stream::repeat_with(move || {
                    let _ = &held;
                    Ok::<_, Infallible>(Bytes::from_static(&[0; 64 * 1024]))
                });
                ready(Body::from_stream(chunks))
            }
        };
        let listener = bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().route("/", get(answer));
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
