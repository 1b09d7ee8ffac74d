//! Accepts HTTP connections for a service.

use std::future::Future;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::Service;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

/// Pause after a failed accept. Without it, running out of file descriptors would keep a core busy.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Serves every connection with a service created by `make`; never returns. An error of the service
/// closes its connection.
pub(crate) async fn serve<S, B>(listener: TcpListener, make: impl Fn() -> S)
where
    S: Service<Request<Incoming>, Response = Response<B>> + Send + 'static,
    S::Future: Future + Send,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    B: Body<Data: Send> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    loop {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accepting a connection failed; retrying in 100 ms");
                tokio::time::sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // Most systems, but not all, inherit the option from the listener.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "connection closed before it was served");
            continue;
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(TokioIo::new(stream), make());
        // Owned by the service host's runtime, which ends it with the service.
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection closed with an error");
            }
        });
    }
}
