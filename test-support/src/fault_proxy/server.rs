//! Accepts connections and reads requests.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{AwsRequest, Cut, HttpResponse};

/// DynamoDB's limit for a request, the largest of the three services.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Delay after a failed accept. The usual cause is a lack of file descriptors; retrying at once
/// would only occupy a core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Policy of a proxy: decides what happens to each request.
pub trait Handler: Send + Sync + 'static {
    /// Answers `request`, or returns [`Cut`] to close the connection instead. The future is
    /// dropped when the client closes the connection.
    fn handle(
        self: Arc<Self>,
        request: AwsRequest,
    ) -> impl Future<Output = Result<HttpResponse, Cut>> + Send;
}

/// The tasks of one or more proxies, stopped together.
#[derive(Debug, Default)]
pub struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Spawns a task that runs until `work` is done or the proxies are stopped; the output is
    /// `None` in the latter case.
    pub fn spawn<F>(&self, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tracker.spawn(stop.run_until_cancelled_owned(work))
    }

    /// Stops all tasks, which cuts all connections. Does not wait for their end.
    pub fn stop(&self) {
        self.stop.cancel();
        self.tracker.close();
    }

    /// Stops all tasks and waits for their end.
    pub async fn close(&self) {
        self.stop();
        self.tracker.wait().await;
    }
}

/// A bound socket and its address.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    url: String,
}

impl Listener {
    /// Binds a free port of the loopback interface.
    pub async fn bind() -> io::Result<Self> {
        let socket = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", socket.local_addr()?);
        Ok(Self { socket, url })
    }

    /// Returns `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

/// Serves requests with `handler` until `tasks` are stopped.
pub fn serve<H: Handler>(listener: Listener, handler: Arc<H>, tasks: &Arc<Tasks>) {
    let connections = Arc::clone(tasks);
    tasks.spawn(accept(listener.socket, handler, connections));
}

async fn accept<H: Handler>(listener: TcpListener, handler: Arc<H>, tasks: Arc<Tasks>) {
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "the fault proxy could not accept a connection; retrying");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // Fails only if the client has already closed the connection.
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let handler = Arc::clone(&handler);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| respond(Arc::clone(&handler), request)),
            );
        tasks.spawn(async move {
            // An error is a cut that the handler requested, or the end of the client.
            let _ = connection.await;
        });
    }
}

async fn respond<H: Handler>(
    handler: Arc<H>,
    request: Request<Incoming>,
) -> Result<HttpResponse, Cut> {
    let (parts, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES);
    let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
    let request = AwsRequest::parse(parts.headers, body).ok_or(Cut)?;
    handler.handle(request).await
}
