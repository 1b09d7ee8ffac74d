//! Stands between the API and DynamoDB: counts what is asked, and fails in the
//! ways a network and a service do.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) const TRANSACT: &str = "TransactWriteItems";
pub(crate) const GET: &str = "GetItem";

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// The connection breaks before DynamoDB has seen the request.
    RequestLost,
    /// The connection breaks after the request took effect.
    AnswerLost,
    /// 500 without an effect.
    FailsBefore,
    /// 500 after the request took effect.
    FailsAfter,
    /// No answer, ever, and no effect.
    Hangs,
    /// No answer, ever, after the request took effect.
    HangsAfter,
    /// DynamoDB refuses with this error code.
    Refused(&'static str),
    /// DynamoDB cancels the transaction for these reasons.
    Cancelled(&'static [&'static str]),
    /// Waits to be let through.
    Waits(Gate),
}

/// Holds a request until it is let through.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self {
            reached: Arc::new(Semaphore::new(0)),
            open: Arc::new(Semaphore::new(0)),
        }
    }

    /// Returns once a request stands at the gate.
    pub(crate) async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }
}

pub(crate) struct Proxy {
    url: String,
    state: Arc<State>,
    _stop: DropGuard,
}

struct State {
    target: String,
    http: reqwest::Client,
    requests: Mutex<Vec<String>>,
    once: Mutex<VecDeque<(&'static str, Fault)>>,
    always: Mutex<Vec<(&'static str, Fault)>>,
}

impl Proxy {
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(State {
            target,
            http: reqwest::Client::new(),
            requests: Mutex::default(),
            once: Mutex::default(),
            always: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let accepting = accept(listener, Arc::clone(&state), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Self {
            url,
            state,
            _stop: stop.drop_guard(),
        }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }

    /// The next `operation` meets `fault`; several are met one after the other.
    pub(crate) fn once(&self, operation: &'static str, fault: Fault) {
        let mut once = self.state.once.lock().unwrap();
        once.push_back((operation, fault));
    }

    /// Every `operation` meets `fault` until [`Proxy::heal`].
    pub(crate) fn always(&self, operation: &'static str, fault: Fault) {
        let mut always = self.state.always.lock().unwrap();
        always.push((operation, fault));
    }

    pub(crate) fn heal(&self) {
        self.state.always.lock().unwrap().clear();
        self.state.once.lock().unwrap().clear();
    }

    /// The operations asked for since the last call.
    pub(crate) fn take_requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.state.requests.lock().unwrap())
    }
}

async fn accept(listener: TcpListener, state: Arc<State>, stop: CancellationToken) -> Infallible {
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        stream.set_nodelay(true).unwrap();
        let state = Arc::clone(&state);
        let service = service_fn(move |request| Arc::clone(&state).answer(request));
        let connection = hyper::server::conn::http1::Builder::new()
            .serve_connection(TokioIo::new(stream), service);
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

impl State {
    /// An error breaks the connection.
    async fn answer(self: Arc<Self>, request: Request<Incoming>) -> io::Result<Response<Body>> {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(Body::new(body), usize::MAX)
            .await
            .map_err(io::Error::other)?;
        let target = parts.headers["x-amz-target"].to_str().unwrap();
        let operation = target.rsplit('.').next().unwrap().to_owned();
        let fault = self.fault(&operation);
        self.requests.lock().unwrap().push(operation);
        let lost = || io::Error::from(io::ErrorKind::ConnectionReset);
        match fault {
            None => self.forward(parts.headers, body).await,
            Some(Fault::RequestLost) => Err(lost()),
            Some(Fault::AnswerLost) => {
                self.forward(parts.headers, body).await?;
                Err(lost())
            }
            Some(Fault::FailsBefore) => Ok(failure(500, "InternalServerError", "")),
            Some(Fault::FailsAfter) => {
                self.forward(parts.headers, body).await?;
                Ok(failure(500, "InternalServerError", ""))
            }
            Some(Fault::Hangs) => std::future::pending().await,
            Some(Fault::HangsAfter) => {
                self.forward(parts.headers, body).await?;
                std::future::pending().await
            }
            Some(Fault::Refused(code)) => Ok(failure(400, code, "")),
            Some(Fault::Cancelled(reasons)) => {
                let reasons: Vec<_> = reasons
                    .iter()
                    .map(|code| format!(r#"{{"Code":"{code}"}}"#))
                    .collect();
                let more = format!(r#","CancellationReasons":[{}]"#, reasons.join(","));
                Ok(failure(400, "TransactionCanceledException", &more))
            }
            Some(Fault::Waits(gate)) => {
                gate.reached.add_permits(1);
                gate.open.acquire().await.unwrap().forget();
                self.forward(parts.headers, body).await
            }
        }
    }

    fn fault(&self, operation: &str) -> Option<Fault> {
        let mut once = self.once.lock().unwrap();
        if let Some(n) = once.iter().position(|(name, _)| *name == operation) {
            return once.remove(n).map(|(_, fault)| fault);
        }
        let always = self.always.lock().unwrap();
        let found = always.iter().find(|(name, _)| *name == operation);
        found.map(|(_, fault)| fault.clone())
    }

    async fn forward(&self, headers: HeaderMap, body: Bytes) -> io::Result<Response<Body>> {
        let answer = self
            .http
            .post(&self.target)
            .headers(headers)
            .body(body)
            .send()
            .await
            .map_err(io::Error::other)?;
        let mut response = Response::new(Body::empty());
        *response.status_mut() = answer.status();
        *response.headers_mut() = answer.headers().clone();
        *response.body_mut() = answer.bytes().await.map_err(io::Error::other)?.into();
        Ok(response)
    }
}

fn failure(status: u16, code: &str, more: &str) -> Response<Body> {
    let body = format!(
        r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"a fault of the test"{more}}}"#
    );
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}
