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
//! run share a [`ActiveFaults`]: what is away, what is armed, what was trimmed.
//!
//! A request that was forwarded is seen to its end even if the process that
//! asked is killed meanwhile, because whether it took effect has to be known.
//! Long polls are the exception: one that nobody waits for any more would take
//! messages out of the queue.

mod active_faults;
mod interceptor;
mod marks;
mod partial;
mod protocol;
mod redelivery;
mod refusals;
mod sampling;
mod sqs;
mod streams;
mod upstream;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub(super) use active_faults::ActiveFaults;
use http::Request;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use protocol::{Answer, Call};
use sampling::FaultSampler;
use tokio::net::TcpListener;
pub(super) use upstream::Upstream;

use super::kill_switch::KillSwitch;

/// DynamoDB's own limit, the largest of the three.
const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Out of file descriptors, say: trying again at once would only use up a core.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// The connection is closed instead of an answer.
#[derive(Debug, thiserror::Error)]
#[error("the connection is cut")]
struct Cut;

/// The proxy of one process; serves until the run's [`ActiveFaults`] closes.
#[derive(Debug)]
pub(super) struct Proxy {
    url: String,
    incarnation: Arc<AtomicU32>,
}

/// What serves the requests of one process.
#[derive(Debug)]
struct ProxyContext {
    process: String,
    kill_switch: KillSwitch,
    incarnation: Arc<AtomicU32>,
    sampler: FaultSampler,
    active_faults: Arc<ActiveFaults>,
}

impl Proxy {
    /// Listens on a free port for the requests of `process`.
    pub(super) async fn start(
        active_faults: &Arc<ActiveFaults>,
        process: String,
        kill_switch: KillSwitch,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let incarnation = Arc::new(AtomicU32::new(0));
        let context = Arc::new(ProxyContext {
            sampler: active_faults.sampler(&process),
            process,
            kill_switch,
            incarnation: Arc::clone(&incarnation),
            active_faults: Arc::clone(active_faults),
        });
        active_faults.spawn(accept(listener, context));
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

async fn accept(listener: TcpListener, context: Arc<ProxyContext>) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        if stream.set_nodelay(true).is_err() {
            continue;
        }
        let active_faults = Arc::clone(&context.active_faults);
        let context = Arc::clone(&context);
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| Arc::clone(&context).answer(request)),
            );
        active_faults.spawn(async move {
            // Cut here on purpose, or by the death of the process.
            let _ = connection.await;
        });
    }
}

impl ProxyContext {
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> Result<Answer, Cut> {
        let (parts, body) = request.into_parts();
        let body = Limited::new(body, MAX_BODY_BYTES);
        let body = body.collect().await.map_err(|_| Cut)?.to_bytes();
        let call = Call::new(parts.headers, body).ok_or(Cut)?;
        if let Some(outage) = self.active_faults.outage(call.service) {
            return outage.answer(call.service).await;
        }
        let is_long_poll = call.operation == "ReceiveMessage";
        // Dropped with this future, when the process closes the connection.
        let waiting = Arc::new(());
        let interceptor = interceptor::Interceptor::new(&self, call, Arc::downgrade(&waiting));
        if is_long_poll {
            interceptor.run().await
        } else {
            let seen_to_its_end = self.active_faults.spawn(interceptor.run());
            match seen_to_its_end.await {
                Ok(Some(outcome)) => outcome,
                // The run is over.
                Ok(None) | Err(_) => Err(Cut),
            }
        }
    }
}
