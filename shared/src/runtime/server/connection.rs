//! Serves one connection, from its first byte to its end.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::ConnectInfo;
use axum::http::header::CONNECTION;
use axum::http::{HeaderValue, Request};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::connection_table::Slot;
use super::tracked::{TrackedBody, TrackedStream};
use super::{LAST_ARRIVALS, MAX_HEAD_BYTES};

/// Time limit during shutdown for a partially sent request to arrive.
const ARRIVAL_GRACE: Duration = Duration::from_secs(1);

/// A connection that was admitted.
pub(super) struct Connection {
    pub(super) address: SocketAddr,
    pub(super) slot: Arc<Slot>,
    pub(super) router: Router,
    pub(super) draining: CancellationToken,
    pub(super) stop: CancellationToken,
}

impl Connection {
    pub(super) async fn serve(self, stream: TcpStream) {
        // Responses are small and complete: waiting to fill a packet only adds delay.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "setting TCP_NODELAY failed");
        }
        let mut waiting = Some(TrackedStream::new(stream, &self.slot));
        while let Some(stream) = waiting {
            tokio::select! {
                // What has arrived is served, also when the server stops at the same time.
                biased;
                has_bytes = stream.has_bytes() => if let Err(error) = has_bytes {
                    return tracing::debug!(%error, "a connection ended early");
                },
                () = self.slot.closed() => return,
                () = self.stopped() => return,
            }
            // On the heap, so that connections without a request are small.
            waiting = Box::pin(self.serve_requests(stream)).await;
        }
    }

    /// Serves the requests that arrive without a pause. Returns the stream if the client may send
    /// another one later: until then the connection needs no buffers, of which hyper keeps 16 KiB.
    async fn serve_requests(&self, stream: TrackedStream) -> Option<TrackedStream> {
        let mut serving = http1::Builder::new()
            .max_header_size(MAX_HEAD_BYTES)
            .max_buf_size(MAX_HEAD_BYTES)
            // The connection table has the time limits.
            .header_read_timeout(None)
            .serve_connection(
                TokioIo::new(stream),
                service_fn(|request| self.respond(request)),
            );
        let ended_or_idle = poll_fn(|context| match Pin::new(&mut serving).poll(context) {
            Poll::Ready(ended) => Poll::Ready(Some(ended)),
            // Its responses were written completely.
            Poll::Pending if self.slot.is_idle() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        });
        let idle = tokio::select! {
            biased;
            ended = ended_or_idle => match ended {
                Some(ended) => {
                    log(ended);
                    return None;
                }
                None => true,
            },
            () = self.slot.closed() => return None,
            () = self.stopped() => false,
        };
        if idle {
            let parts = serving.into_parts();
            let mut stream = parts.io.into_inner();
            stream.unread = parts.read_buf;
            return Some(stream);
        }
        // Ends the connection after the response.
        Pin::new(&mut serving).graceful_shutdown();
        match timeout(ARRIVAL_GRACE, &mut serving).await {
            Ok(ended) => log(ended),
            Err(_) if self.slot.has_arrived() => tokio::select! {
                ended = serving => log(ended),
                () = self.slot.closed() => {}
            },
            Err(_) => tracing::debug!("a partially sent request was cut off during shutdown"),
        }
        None
    }

    /// Waits until the server stops and the last requests have been read.
    async fn stopped(&self) {
        self.stop.cancelled().await;
        sleep(LAST_ARRIVALS).await;
    }

    fn respond(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<axum::http::Response<TrackedBody<Body>>, Infallible>> + use<>
    {
        let slot = Arc::clone(&self.slot);
        let has_body = !request.body().is_end_stream();
        slot.request_started(has_body);
        let mut request = if has_body {
            request.map(|body| Body::new(TrackedBody::of_request(body, &slot)))
        } else {
            request.map(Body::new)
        };
        request.extensions_mut().insert(ConnectInfo(self.address));
        let response = self.router.clone().oneshot(request);
        let draining = self.draining.clone();
        async move {
            let mut response = response.await?;
            slot.response_started();
            if draining.is_cancelled() {
                let close = HeaderValue::from_static("close");
                response.headers_mut().insert(CONNECTION, close);
            }
            Ok(response.map(|body| TrackedBody::of_response(body, &slot)))
        }
    }
}

fn log(ended: hyper::Result<()>) {
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection ended early");
    }
}
