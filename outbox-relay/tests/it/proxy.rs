//! Stands between a relay and DynamoDB, and goes wrong on demand.

use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use local_cloud::testing::Service;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::support::Stage;

/// What happens to a request.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Pass,
    /// It takes effect, and the connection is cut instead of an answer.
    LoseAnswer,
    /// It is passed on once the proxy is healed.
    Hold,
    /// DynamoDB refuses it with this code.
    Refuse(&'static str),
    /// It is answered with this body.
    Answer(&'static str),
}

/// Decides by the operation and the body of a request.
type Rule = Box<dyn FnMut(&str, &str) -> Fault + Send>;

struct Inner {
    target: String,
    http: reqwest::Client,
    rule: Mutex<Rule>,
    held: AtomicUsize,
    healed: watch::Sender<bool>,
}

pub(crate) struct Proxy {
    url: String,
    inner: Arc<Inner>,
    server: JoinHandle<()>,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl Proxy {
    pub(crate) async fn start(stage: &Stage) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            target: stage.cloud.dynamodb_url(),
            http: reqwest::Client::new(),
            rule: Mutex::new(Box::new(|_, _| Fault::Pass)),
            held: AtomicUsize::new(0),
            healed: watch::Sender::new(false),
        });
        let router = Router::new()
            .fallback(forward)
            .with_state(Arc::clone(&inner));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { url, inner, server }
    }

    /// A relay that reaches DynamoDB through here.
    pub(crate) async fn relay(&self, stage: &Stage, extra: &[(&str, &str)]) -> Service {
        let mut environment = vec![
            ("AWS_ENDPOINT_URL_DYNAMODB", self.url.as_str()),
            ("AWS_ENDPOINT_URL_DYNAMODB_STREAMS", self.url.as_str()),
        ];
        environment.extend(extra);
        stage.relay(&environment).await
    }

    pub(crate) fn rule(&self, rule: impl FnMut(&str, &str) -> Fault + Send + 'static) {
        *self.inner.rule.lock().unwrap() = Box::new(rule);
    }

    /// Everything passes again, what is held included.
    pub(crate) fn heal(&self) {
        self.rule(|_, _| Fault::Pass);
        self.inner.healed.send_replace(true);
    }

    /// Requests that are held and whose sender still waits.
    pub(crate) fn held(&self) -> usize {
        self.inner.held.load(Ordering::Relaxed)
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

async fn forward(State(proxy): State<Arc<Inner>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap();
    let operation = target.rsplit('.').next().unwrap();
    let text = std::str::from_utf8(&body).unwrap();
    let fault = (proxy.rule.lock().unwrap())(operation, text);
    let json = |status: StatusCode, body: String| {
        let content_type = [(header::CONTENT_TYPE, "application/x-amz-json-1.0")];
        (status, content_type, body).into_response()
    };
    match fault {
        Fault::Answer(body) => return json(StatusCode::OK, body.to_owned()),
        Fault::Refuse(code) => {
            return json(
                StatusCode::BAD_REQUEST,
                format!(
                    r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}","message":"a fault of the test"}}"#
                ),
            );
        }
        Fault::Hold => {
            let _held = Held::new(&proxy.held);
            // The proxy outlives the test's interest in the answer.
            let _ = proxy.healed.subscribe().wait_for(|healed| *healed).await;
        }
        Fault::Pass | Fault::LoseAnswer => {}
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
    (status, [(header::CONTENT_TYPE, content_type)], body).into_response()
}

/// An answer that breaks off, which closes the connection.
fn cut() -> Response {
    let broken = futures::stream::once(async {
        Err::<Bytes, _>(io::Error::from(io::ErrorKind::ConnectionAborted))
    });
    Body::from_stream(broken).into_response()
}
