//! The fault proxy: stands between one process and the three services, knows
//! their protocol, and does to requests what networks and services do to them.
//!
//! ```text
//! process ─▶ Proxy ─▶ draw ─▶ refusals            (never forwarded)
//!                       │──▶ partial, streams ─▶ upstream ─▶ service
//!                       └──▶ sqs, marks, redelivery: note what was sent, marked and
//!                            handed out; hand some of it out twice
//! ```
//!
//! Each process has a proxy of its own, so that it is known who asks. All of a
//! run share a [`Weather`]: what is away, what is armed, what was trimmed.
//!
//! A request that was forwarded is seen to its end even if the process that
//! asked is killed meanwhile, because whether it took effect has to be known.
//! Long polls are the exception: one that nobody waits for any more would take
//! messages out of the queue.

mod draw;
mod exchange;
mod marks;
mod partial;
mod protocol;
mod redelivery;
mod refusals;
mod sqs;
mod streams;
mod upstream;
mod weather;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use draw::Dice;
use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::{Answer, Call};
use tokio::net::TcpListener;
pub(super) use upstream::Upstream;
pub(super) use weather::Weather;

use super::processes::Remote;

/// DynamoDB's own limit, the largest of the three.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Out of file descriptors, say: trying again at once would only use up a core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The connection is closed instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
struct Cut;

/// The proxy of one process; serves until the run's [`Weather`] closes.
#[derive(Debug)]
pub(super) struct Proxy {
    url: String,
    incarnation: Arc<AtomicU32>,
}

/// What serves the requests of one process.
#[derive(Debug)]
struct Door {
    process: Remote,
    incarnation: Arc<AtomicU32>,
    dice: Dice,
    weather: Arc<Weather>,
}

impl Proxy {
    /// Listens on a free port for the requests of `process`.
    pub(super) async fn start(weather: &Arc<Weather>, process: Remote) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let incarnation = Arc::new(AtomicU32::new(0));
        let door = Arc::new(Door {
            dice: weather.dice(&process.name),
            process,
            incarnation: Arc::clone(&incarnation),
            weather: Arc::clone(weather),
        });
        weather.spawn(accept(listener, door));
        Ok(Self { url, incarnation })
    }

    /// What the process is told its services' endpoint is.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Requests come from this incarnation of the process from now on.
    pub(super) fn serves(&self, incarnation: u32) {
        self.incarnation.store(incarnation, Ordering::Release);
    }
}

async fn accept(listener: TcpListener, door: Arc<Door>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let weather = Arc::clone(&door.weather);
        let door = Arc::clone(&door);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| Arc::clone(&door).answer(request)),
            );
        weather.spawn(async move {
            // Cut here on purpose, or by the death of the process.
            let _ = connection.await;
        });
    }
}

impl Door {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Cut> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES);
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let call = Call::new(parts.headers, body).ok_or(Cut)?;
        if let Some(outage) = self.weather.outage(call.service) {
            return outage.answer(call.service).await;
        }
        let is_long_poll = call.operation == "ReceiveMessage";
        // Dropped with this future, when the process closes the connection.
        let waiting = Arc::new(());
        let exchange = exchange::Exchange::new(&self, call, Arc::downgrade(&waiting));
        if is_long_poll {
            exchange.run().await
        } else {
            let seen_to_its_end = self.weather.spawn(exchange.run());
            match seen_to_its_end.await {
                Ok(Some(outcome)) => outcome,
                // The run is over.
                Ok(None) | Err(_) => Err(Cut),
            }
        }
    }
}
