//! A proxy for tests: counts requests and injects the faults that a test requests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use std::{fmt, io};

use http::{StatusCode, Uri};
use tokio::sync::watch;

use super::{
    AwsRequest, Cut, Handler, HttpResponse, Listener, Tasks, Upstream, json_response, serve,
};
use crate::{PATIENCE, eventually};

/// Handling of a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// The request is forwarded.
    Pass,
    /// The connection is cut before the request is forwarded.
    Cut,
    /// The request takes effect; the connection is cut instead of a response.
    LoseAnswer,
    /// The proxy responds with this status and body; the request has no effect.
    Answer(u16, String),
    /// The request takes effect; the proxy responds with this status and body nevertheless.
    AnswerAfter(u16, String),
    /// The request is forwarded when the proxy is healed, if its sender still waits then.
    Hold,
    /// The request takes effect; the response is held until the proxy is healed.
    HoldAnswer,
    /// The request is forwarded after this time.
    Delay(Duration),
}

impl Fault {
    /// Rejects the request with this error code.
    #[must_use]
    pub fn refuse(code: &str) -> Self {
        Self::Answer(400, error(code, ""))
    }

    /// Cancels a transaction for these reasons, one for each item.
    #[must_use]
    pub fn cancel(reasons: &[&str]) -> Self {
        let reasons: Vec<_> = reasons
            .iter()
            .map(|code| format!(r#"{{"Code":"{code}"}}"#))
            .collect();
        let more = format!(r#","CancellationReasons":[{}]"#, reasons.join(","));
        Self::Answer(400, error("TransactionCanceledException", &more))
    }

    /// Responds with status 500; the request has no effect.
    #[must_use]
    pub fn fail() -> Self {
        Self::Answer(500, error("InternalServerError", ""))
    }

    /// Responds with status 500 although the request took effect.
    #[must_use]
    pub fn fail_after() -> Self {
        Self::AnswerAfter(500, error("InternalServerError", ""))
    }
}

fn error(code: &str, more: &str) -> String {
    format!(
        r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"injected by the test"{more}}}"#
    )
}

/// A received request.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Such as `GetItem`.
    pub operation: &'a str,
    /// JSON.
    pub body: &'a str,
    /// Number of requests of this operation so far, including this one.
    pub count: usize,
}

/// Number of requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub requests: usize,
    /// Number of items, statements or messages in them.
    pub entries: usize,
}

/// A proxy that forwards every request until a test configures a fault. Its listener and
/// connections close when it is dropped.
pub struct Proxy {
    url: String,
    state: Arc<State>,
    tasks: Arc<Tasks>,
}

type Rule = Box<dyn FnMut(Call<'_>) -> Fault + Send>;

struct State {
    upstream: Upstream,
    received: Mutex<Received>,
    once: Mutex<VecDeque<(String, Fault)>>,
    rule: Mutex<Rule>,
    held: AtomicUsize,
    /// Notified when the proxy is healed.
    healed: watch::Sender<()>,
}

/// The requests so far.
#[derive(Default)]
struct Received {
    /// Their operations in the order of arrival.
    operations: Vec<String>,
    counts: BTreeMap<String, Count>,
}

impl Proxy {
    /// Starts a proxy in front of the service at `target`, given as `http://ADDRESS:PORT`.
    ///
    /// # Errors
    /// `target` is not a URL, or no port is free.
    pub async fn start(target: impl AsRef<str>) -> io::Result<Self> {
        let target = target.as_ref();
        let service: Uri = target
            .parse()
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let listener = Listener::bind().await?;
        let url = listener.url().to_owned();
        let state = Arc::new(State {
            upstream: Upstream::new(service.clone(), service.clone(), service),
            received: Mutex::default(),
            once: Mutex::default(),
            rule: Mutex::new(Box::new(|_| Fault::Pass)),
            held: AtomicUsize::new(0),
            healed: watch::Sender::new(()),
        });
        let tasks = Arc::new(Tasks::default());
        serve(listener, Arc::clone(&state), &tasks);
        Ok(Self { url, state, tasks })
    }

    /// Returns the address of the proxy, as `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Decides about every following request with `rule`.
    pub fn rule(&self, rule: impl FnMut(Call<'_>) -> Fault + Send + 'static) {
        *lock(&self.state.rule) = Box::new(rule);
    }

    /// Injects `fault` into the next request of `operation`, in preference to the rule. Several
    /// faults of one operation are injected one after the other.
    pub fn once(&self, operation: &str, fault: Fault) {
        lock(&self.state.once).push_back((operation.to_owned(), fault));
    }

    /// Forwards everything again, including the requests that are held.
    pub fn heal(&self) {
        lock(&self.state.once).clear();
        self.rule(|_| Fault::Pass);
        self.state.healed.send_replace(());
    }

    /// Returns the operations of all requests so far, in the order of arrival, and resets the
    /// counts.
    pub fn take_operations(&self) -> Vec<String> {
        std::mem::take(&mut *lock(&self.state.received)).operations
    }

    /// Returns the number of requests so far, by operation.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, Count> {
        lock(&self.state.received).counts.clone()
    }

    /// Returns the number of requests of `operation` so far.
    #[must_use]
    pub fn seen(&self, operation: &str) -> usize {
        self.state.count(operation)
    }

    /// Waits until `count` requests of `operation` were received, at most [`PATIENCE`].
    ///
    /// # Errors
    /// The number of requests that were received by then.
    pub async fn saw(&self, operation: &str, count: usize) -> Result<(), usize> {
        eventually(PATIENCE, || async {
            match self.seen(operation) {
                seen if seen >= count => Ok(()),
                seen => Err(seen),
            }
        })
        .await
    }

    /// Returns the number of requests that are held and whose sender still waits.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::Relaxed)
    }

    /// Waits until a request is held, at most [`PATIENCE`].
    ///
    /// # Errors
    /// No request is held by then.
    pub async fn holds(&self) -> Result<(), &'static str> {
        eventually(PATIENCE, || async {
            (self.held() > 0).then_some(()).ok_or("no request is held")
        })
        .await
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Proxy")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.tasks.stop();
    }
}

/// Locks despite poisoning: a panic in a rule fails the test by itself.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns the number of items, statements or messages in a request.
fn entries(body: &[u8]) -> usize {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    ["TransactItems", "Statements", "Entries"]
        .iter()
        .find_map(|name| Some(body.get(name)?.as_array()?.len()))
        .unwrap_or(1)
}

impl State {
    fn count(&self, operation: &str) -> usize {
        let received = lock(&self.received);
        let count = received.counts.get(operation);
        count.map_or(0, |count| count.requests)
    }

    fn fault(&self, operation: &str, body: &[u8]) -> Fault {
        {
            let mut received = lock(&self.received);
            received.operations.push(operation.to_owned());
            let count = received.counts.entry(operation.to_owned()).or_default();
            count.requests += 1;
            count.entries += entries(body);
        }
        let mut once = lock(&self.once);
        if let Some(n) = once.iter().position(|(name, _)| name == operation)
            && let Some((_, fault)) = once.remove(n)
        {
            return fault;
        }
        let call = Call {
            operation,
            body: &String::from_utf8_lossy(body),
            count: self.count(operation),
        };
        (lock(&self.rule))(call)
    }

    /// Waits until the proxy is healed.
    async fn hold(&self) {
        let mut healed = self.healed.subscribe();
        let _held = Held::new(&self.held);
        // An error means that the proxy was dropped with its test.
        let _ = healed.changed().await;
    }
}

/// Counts a held request until it continues or its sender closes the connection.
struct Held<'a>(&'a AtomicUsize);

impl<'a> Held<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Handler for State {
    async fn handle(self: Arc<Self>, request: AwsRequest) -> Result<HttpResponse, Cut> {
        let fault = self.fault(&request.operation, &request.body);
        let respond = |status, body| {
            let status = StatusCode::from_u16(status).map_err(|_| Cut)?;
            Ok(json_response(request.service, status, body))
        };
        match fault {
            Fault::Cut => return Err(Cut),
            Fault::Answer(status, body) => return respond(status, body),
            Fault::Hold => self.hold().await,
            Fault::Delay(time) => tokio::time::sleep(time).await,
            Fault::Pass | Fault::LoseAnswer | Fault::AnswerAfter(..) | Fault::HoldAnswer => {}
        }
        let response = self.upstream.send(&request).await?;
        match fault {
            Fault::LoseAnswer => return Err(Cut),
            Fault::AnswerAfter(status, body) => return respond(status, body),
            Fault::HoldAnswer => self.hold().await,
            _ => {}
        }
        Ok(response.into_http())
    }
}
