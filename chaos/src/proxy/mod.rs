//! The sampled policy of the fault proxy: injects the faults of networks and services into the
//! requests of one process, at random.
//!
//! ```text
//! process ─▶ fault_proxy ─▶ sampling ─▶ service_errors        (never forwarded)
//!                             │──▶ partial, streams ─▶ Upstream ─▶ service
//!                             └──▶ sqs, marks, redelivery: record what was sent, marked and
//!                                  delivered; deliver some messages twice
//! ```
//!
//! Each process has a proxy of its own, so that the sender of each request is known. All proxies
//! of a run share [`ActiveFaults`]: outages, armed faults, and trimmed records.
//!
//! A forwarded request is completed even if the process is killed meanwhile, because it must be
//! known whether the request took effect. Long polls are the exception: a poll without a receiver
//! would remove messages from the queue.

mod active_faults;
mod interceptor;
mod marks;
mod partial;
mod redelivery;
mod sampling;
mod service_errors;
mod sqs;
mod streams;

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

pub(super) use active_faults::{ActiveFaults, Scope};
use interceptor::Interceptor;
use sampling::FaultSampler;
use test_support::fault_proxy::{AwsRequest, Cut, Handler, HttpResponse, Listener, serve};

use super::remote::Remote;

/// The proxy of one process; serves until [`ActiveFaults::close`].
#[derive(Debug)]
pub(super) struct Proxy {
    url: String,
    incarnation: Arc<AtomicU32>,
}

/// State of the proxy of one process.
#[derive(Debug)]
struct ProxyContext {
    process: Remote,
    incarnation: Arc<AtomicU32>,
    sampler: FaultSampler,
    active_faults: Arc<ActiveFaults>,
}

impl Proxy {
    /// Listens on a free port for the requests of `process`.
    pub(super) async fn start(
        active_faults: &Arc<ActiveFaults>,
        process: Remote,
    ) -> io::Result<Self> {
        let listener = Listener::bind().await?;
        let url = listener.url().to_owned();
        let incarnation = Arc::new(AtomicU32::new(0));
        let context = Arc::new(ProxyContext {
            sampler: active_faults.sampler(&process.name),
            process,
            incarnation: Arc::clone(&incarnation),
            active_faults: Arc::clone(active_faults),
        });
        serve(listener, context, &active_faults.tasks);
        Ok(Self { url, incarnation })
    }

    /// Returns the endpoint of all three services for the process.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// Attributes requests to this incarnation of the process from now on.
    pub(super) fn set_incarnation(&self, incarnation: u32) {
        self.incarnation.store(incarnation, Ordering::Release);
    }
}

impl Handler for ProxyContext {
    async fn handle(self: Arc<Self>, request: AwsRequest) -> Result<HttpResponse, Cut> {
        if let Some(outage) = self.active_faults.outage(&request) {
            return outage.respond(request.service).await;
        }
        let is_long_poll = request.operation == "ReceiveMessage";
        // Dropped with this future when the process closes the connection.
        let waiting = Arc::new(());
        let interceptor = Interceptor::new(&self, request, Arc::downgrade(&waiting));
        if is_long_poll {
            interceptor.run().await
        } else {
            match self.active_faults.tasks.spawn(interceptor.run()).await {
                Ok(Some(outcome)) => outcome,
                // The run has ended.
                Ok(None) | Err(_) => Err(Cut),
            }
        }
    }
}
