//! Stands between a service under test and DynamoDB or SQS: counts what is asked,
//! and fails in the ways a network and a service do.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::{fmt, io};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::body::Incoming;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{PATIENCE, eventually};
use crate::connections;
use crate::upstream::{Answer, Error, Upstream};

/// What happens to a request.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Nothing: it is passed on.
    Pass,
    /// The connection is cut before the request gets anywhere.
    Cut,
    /// The request takes effect, and the connection is cut instead of an answer.
    LoseAnswer,
    /// It is answered here, with this status and body, and has no effect.
    Answer(u16, String),
    /// It takes effect, and is answered with this status and body all the same.
    AnswerAfter(u16, String),
    /// It is passed on once the proxy heals, if its sender still waits then.
    Hold,
    /// It takes effect; the answer waits until the proxy heals.
    HoldAnswer,
}

impl Fault {
    /// The service refuses the request with this error code.
    #[must_use]
    pub fn refuse(code: &str) -> Self {
        Self::Answer(400, error(code, ""))
    }

    /// DynamoDB cancels the transaction for these reasons, one an item.
    #[must_use]
    pub fn cancel(reasons: &[&str]) -> Self {
        let reasons: Vec<_> = reasons
            .iter()
            .map(|code| format!(r#"{{"Code":"{code}"}}"#))
            .collect();
        let more = format!(r#","CancellationReasons":[{}]"#, reasons.join(","));
        Self::Answer(400, error("TransactionCanceledException", &more))
    }

    /// 500, without an effect.
    #[must_use]
    pub fn fail() -> Self {
        Self::Answer(500, error("InternalServerError", ""))
    }

    /// 500, although the request took effect.
    #[must_use]
    pub fn fail_after() -> Self {
        Self::AnswerAfter(500, error("InternalServerError", ""))
    }
}

fn error(code: &str, more: &str) -> String {
    format!(
        r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"a fault of the test"{more}}}"#
    )
}

/// A request that has arrived.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Such as `GetItem`.
    pub operation: &'a str,
    /// JSON.
    pub body: &'a str,
    /// How many of this operation have arrived, this one included.
    pub count: usize,
}

/// The requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    pub requests: usize,
    /// Items, statements or messages in them.
    pub entries: usize,
}

/// A proxy that passes everything on until told otherwise. Its listener closes
/// when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

type Rule = Box<dyn FnMut(Call<'_>) -> Fault + Send>;

struct State {
    service: SocketAddr,
    /// One a request, in the order of arrival.
    seen: Mutex<Vec<Seen>>,
    once: Mutex<VecDeque<(String, Fault)>>,
    rule: Mutex<Rule>,
    held: AtomicUsize,
    /// Sent to at each healing.
    healed: watch::Sender<()>,
}

struct Seen {
    operation: String,
    entries: usize,
}

impl Proxy {
    /// In front of the service at `target`, as `http://ADDRESS:PORT`.
    pub async fn start(target: impl AsRef<str>) -> io::Result<Self> {
        let target = target.as_ref();
        let service = target
            .strip_prefix("http://")
            .and_then(|address| address.parse().ok())
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, target))?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let state = Arc::new(State {
            service,
            seen: Mutex::default(),
            once: Mutex::default(),
            rule: Mutex::new(Box::new(|_| Fault::Pass)),
            held: AtomicUsize::new(0),
            healed: watch::Sender::new(()),
        });
        let served = Arc::clone(&state);
        let accepting = tokio::spawn(connections::serve(listener, move || Connection {
            state: Arc::clone(&served),
            upstream: Arc::new(Upstream::new(service)),
        }));
        Ok(Self {
            url,
            state,
            accepting,
        })
    }

    /// Where it listens, as `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// From now on `rule` decides about every request.
    pub fn rule(&self, rule: impl FnMut(Call<'_>) -> Fault + Send + 'static) {
        *lock(&self.state.rule) = Box::new(rule);
    }

    /// The next request of `operation` meets `fault`, before any rule; several
    /// are met one after the other.
    pub fn once(&self, operation: &str, fault: Fault) {
        lock(&self.state.once).push_back((operation.to_owned(), fault));
    }

    /// Everything passes again, what is held included.
    pub fn heal(&self) {
        lock(&self.state.once).clear();
        self.rule(|_| Fault::Pass);
        self.state.healed.send_replace(());
    }

    /// The operations that were asked for, in their order. What is counted
    /// starts anew with this.
    pub fn take_operations(&self) -> Vec<String> {
        let seen = std::mem::take(&mut *lock(&self.state.seen));
        seen.into_iter().map(|seen| seen.operation).collect()
    }

    /// What was asked so far, by operation.
    #[must_use]
    pub fn counts(&self) -> BTreeMap<String, Count> {
        let mut counts = BTreeMap::<_, Count>::new();
        for seen in lock(&self.state.seen).iter() {
            let count = counts.entry(seen.operation.clone()).or_default();
            count.requests += 1;
            count.entries += seen.entries;
        }
        counts
    }

    /// How many requests of `operation` came so far.
    #[must_use]
    pub fn seen(&self, operation: &str) -> usize {
        self.state.count(operation)
    }

    /// Waits until `operation` was asked for `count` times, at most
    /// [`PATIENCE`]; how often it was is the error.
    pub async fn saw(&self, operation: &str, count: usize) -> Result<(), usize> {
        eventually(PATIENCE, || async {
            match self.seen(operation) {
                seen if seen >= count => Ok(()),
                seen => Err(seen),
            }
        })
        .await
    }

    /// Requests that are held and whose sender still waits.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.held.load(Ordering::Relaxed)
    }

    /// Waits until a request is held, at most [`PATIENCE`].
    pub async fn holds(&self) -> Result<(), &'static str> {
        eventually(PATIENCE, || async {
            (self.held() > 0).then_some(()).ok_or("nothing is held")
        })
        .await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}

/// A panic of a rule is its test's.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many things a request is about.
fn entries(body: &[u8]) -> usize {
    let body: serde_json::Value = serde_json::from_slice(body).unwrap_or_default();
    ["TransactItems", "Statements", "Entries"]
        .iter()
        .find_map(|name| Some(body.get(name)?.as_array()?.len()))
        .unwrap_or(1)
}

impl State {
    fn count(&self, operation: &str) -> usize {
        let seen = lock(&self.seen);
        let same = |seen: &&Seen| seen.operation == operation;
        seen.iter().filter(same).count()
    }

    fn fault(&self, operation: &str, body: &[u8]) -> Fault {
        lock(&self.seen).push(Seen {
            operation: operation.to_owned(),
            entries: entries(body),
        });
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

    /// Returns at the next healing.
    async fn hold(&self) {
        let mut healed = self.healed.subscribe();
        let _held = Held::new(&self.held);
        // An error: the proxy is gone, and so is its test.
        let _ = healed.changed().await;
    }
}

/// Counts a held request until it goes on, or its sender has given up.
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

/// Serves one connection. An error cuts it.
#[derive(Clone)]
struct Connection {
    state: Arc<State>,
    upstream: Arc<Upstream>,
}

impl Connection {
    async fn answer(self, request: Request<Incoming>) -> Result<Answer, Error> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await?.to_bytes();
        let target = parts.headers.get("x-amz-target");
        let target = target.map_or(Ok(""), HeaderValue::to_str)?;
        let operation = target.rsplit('.').next().unwrap_or_default();
        let fault = self.state.fault(operation, &body);
        match fault {
            Fault::Cut => return Err(cut()),
            Fault::Answer(status, body) => return made(status, body),
            Fault::Hold => self.state.hold().await,
            Fault::Pass | Fault::LoseAnswer | Fault::AnswerAfter(..) | Fault::HoldAnswer => {}
        }
        let mut request = Request::from_parts(parts, Either::Right(Full::new(body)));
        let host = HeaderValue::from_str(&self.state.service.to_string())?;
        request.headers_mut().insert(HOST, host);
        let answer = self.upstream.send(request).await?;
        match fault {
            Fault::LoseAnswer => Err(cut()),
            Fault::AnswerAfter(status, body) => made(status, body),
            Fault::HoldAnswer => {
                self.state.hold().await;
                Ok(answer)
            }
            _ => Ok(answer),
        }
    }
}

impl hyper::service::Service<Request<Incoming>> for Connection {
    type Response = Answer;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Error>> + Send>>;

    fn call(&self, request: Request<Incoming>) -> Self::Future {
        Box::pin(self.clone().answer(request))
    }
}

fn cut() -> Error {
    io::Error::from(io::ErrorKind::ConnectionReset).into()
}

fn made(status: u16, body: String) -> Result<Answer, Error> {
    let json = HeaderValue::from_static("application/x-amz-json-1.0");
    let body = Either::Right(Full::new(Bytes::from(body)));
    let mut answer = Response::new(body);
    *answer.status_mut() = StatusCode::from_u16(status)?;
    answer.headers_mut().insert(CONTENT_TYPE, json);
    Ok(answer)
}
