//! Forwards requests to the service behind an interceptor.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// A body that is either forwarded as it arrives or created here.
pub(crate) type Body = Either<Incoming, Full<Bytes>>;
pub(crate) type UpstreamResponse = Response<Body>;
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The connection to the service that belongs to one client connection.
pub(crate) struct Upstream {
    service: SocketAddr,
    /// Rarely contended, because a client connection carries one request at a time. `None` before
    /// the first request.
    connection: Mutex<Option<SendRequest<Body>>>,
}

impl Upstream {
    pub(crate) fn new(service: SocketAddr) -> Self {
        Self {
            service,
            connection: Mutex::new(None),
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<UpstreamResponse, Error> {
        let mut connection = self.connection.lock().await;
        let mut sender = match connection.take() {
            // dynoxide closes a connection after a request that it cannot parse.
            Some(open) if !open.is_closed() => open,
            _ => self.connect().await?,
        };
        sender.ready().await?;
        let response = sender.send_request(request).await?;
        *connection = Some(sender);
        Ok(response.map(Either::Left))
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Error> {
        let stream = TcpStream::connect(self.service).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // The task ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }
}
