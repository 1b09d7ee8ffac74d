//! Passes requests on to the service behind a front.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

/// Either passed through as it comes, or made here.
pub(crate) type Body = Either<Incoming, Full<Bytes>>;
pub(crate) type Answer = Response<Body>;
pub(crate) type Error = Box<dyn std::error::Error + Send + Sync>;

/// The connection to the service that belongs to one client connection.
pub(crate) struct Upstream {
    service: SocketAddr,
    /// A client connection carries one request at a time, so the lock is hardly
    /// ever waited for. `None` before the first request.
    connection: Mutex<Option<SendRequest<Body>>>,
}

impl Upstream {
    pub(crate) fn new(service: SocketAddr) -> Self {
        Self {
            service,
            connection: Mutex::new(None),
        }
    }

    pub(crate) async fn send(&self, request: Request<Body>) -> Result<Answer, Error> {
        let mut connection = self.connection.lock().await;
        let mut sender = match connection.take() {
            // dynoxide closes a connection after a request it can't read.
            Some(open) if !open.is_closed() => open,
            _ => self.connect().await?,
        };
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        *connection = Some(sender);
        Ok(answer.map(Either::Left))
    }

    async fn connect(&self) -> Result<SendRequest<Body>, Error> {
        let stream = TcpStream::connect(self.service).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends when the sender is dropped.
        tokio::spawn(connection);
        Ok(sender)
    }
}
