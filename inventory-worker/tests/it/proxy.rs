//! A proxy in front of DynamoDB or SQS that counts requests by their operation
//! and goes wrong on demand.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use local_cloud::testing::eventually;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::rig::DEADLINE;

/// What happens to a request.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// Nothing.
    Pass,
    /// The connection is cut before the request gets anywhere.
    Cut,
    /// The request takes effect, and the connection is cut instead of an answer.
    LoseAnswer,
    /// It is passed on once the proxy is released.
    Hold,
    /// It takes effect; the answer waits for the release.
    HoldAnswer,
    /// It is answered here, with this status and body.
    Answer(u16, String),
}

type Rule = Box<dyn FnMut(&str, usize) -> Fault + Send>;

struct Inner {
    target: String,
    http: reqwest::Client,
    seen: Mutex<HashMap<String, usize>>,
    rule: Mutex<Rule>,
    released: watch::Sender<bool>,
}

pub(crate) struct Proxy {
    pub url: String,
    inner: Arc<Inner>,
    server: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Proxy {
    /// A proxy for `target` (`http://host:port`) that does nothing yet.
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            target,
            http: reqwest::Client::new(),
            seen: Mutex::default(),
            rule: Mutex::new(Box::new(|_, _| Fault::Pass)),
            released: watch::Sender::new(false),
        });
        let router = Router::new()
            .fallback(forward)
            .with_state(Arc::clone(&inner));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { url, inner, server }
    }

    /// From now on `rule` decides, by the operation's name and how many of it
    /// have been seen (the first is 1).
    pub(crate) fn rule(&self, rule: impl FnMut(&str, usize) -> Fault + Send + 'static) {
        *self.inner.rule.lock().unwrap() = Box::new(rule);
    }

    /// Everything passes again, what is held included.
    pub(crate) fn heal(&self) {
        self.rule(|_, _| Fault::Pass);
        self.inner.released.send_replace(true);
    }

    pub(crate) fn seen(&self, operation: &str) -> usize {
        *self.inner.seen.lock().unwrap().get(operation).unwrap_or(&0)
    }

    /// Waits until `operation` was seen `count` times.
    pub(crate) async fn saw(&self, operation: &str, count: usize) {
        let saw = eventually(DEADLINE, || async {
            match self.seen(operation) {
                seen if seen >= count => Ok(()),
                seen => Err(seen),
            }
        });
        saw.await.expect(operation);
    }
}

async fn forward(State(proxy): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap();
    let operation = target.rsplit('.').next().unwrap().to_owned();
    let count = {
        let mut seen = proxy.seen.lock().unwrap();
        let count = seen.entry(operation.clone()).or_default();
        *count += 1;
        *count
    };
    let fault = (proxy.rule.lock().unwrap())(&operation, count);
    let mut released = proxy.released.subscribe();
    match fault {
        Fault::Cut => return cut(),
        Fault::Answer(status, body) => {
            return (
                StatusCode::from_u16(status).unwrap(),
                [(header::CONTENT_TYPE, "application/x-amz-json-1.0")],
                body,
            )
                .into_response();
        }
        Fault::Hold => {
            // The proxy outlives the test's interest in the answer.
            let _ = released.wait_for(|released| *released).await;
        }
        Fault::Pass | Fault::LoseAnswer | Fault::HoldAnswer => {}
    }
    let mut request = proxy.http.post(&proxy.target).body(body);
    for (name, value) in &headers {
        if name != header::HOST && name != header::CONTENT_LENGTH {
            request = request.header(name, value);
        }
    }
    let Ok(answer) = request.send().await else {
        return cut();
    };
    let status = answer.status();
    let content_type = answer.headers()[header::CONTENT_TYPE].clone();
    let Ok(body) = answer.bytes().await else {
        return cut();
    };
    if let Fault::LoseAnswer = fault {
        return cut();
    }
    if let Fault::HoldAnswer = fault {
        let _ = released.wait_for(|released| *released).await;
    }
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// An answer that breaks off, which closes the connection.
fn cut() -> Response {
    let broken = futures::stream::once(async {
        Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    Body::from_stream(broken).into_response()
}
