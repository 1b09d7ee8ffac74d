//! A proxy in front of DynamoDB or SQS that counts what passes.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderName, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The requests of one operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) requests: usize,
    /// Items, statements or messages in them.
    pub(crate) entries: usize,
}

/// It stops when dropped.
pub(crate) struct Counting {
    pub(crate) url: String,
    inner: Arc<Inner>,
    server: JoinHandle<()>,
}

struct Inner {
    target: String,
    http: reqwest::Client,
    seen: Mutex<BTreeMap<String, Count>>,
}

impl Counting {
    /// In front of `target` (`http://host:port`).
    pub(crate) async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let inner = Arc::new(Inner {
            target,
            http: reqwest::Client::new(),
            seen: Mutex::default(),
        });
        let router = Router::new()
            .fallback(forward)
            .with_state(Arc::clone(&inner));
        let server = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { url, inner, server }
    }

    /// What has passed so far, by operation.
    pub(crate) fn seen(&self) -> BTreeMap<String, Count> {
        self.inner.seen.lock().unwrap().clone()
    }
}

impl Drop for Counting {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// How many things a request is about.
fn entries(body: &[u8]) -> usize {
    let body: Value = serde_json::from_slice(body).unwrap();
    ["TransactItems", "Statements", "Entries"]
        .iter()
        .find_map(|name| Some(body[*name].as_array()?.len()))
        .unwrap_or(1)
}

async fn forward(
    State(proxy): State<Arc<Inner>>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, StatusCode> {
    let target = headers["x-amz-target"].to_str().unwrap();
    let operation = target.rsplit('.').next().unwrap().to_owned();
    {
        let mut seen = proxy.seen.lock().unwrap();
        let count = seen.entry(operation).or_default();
        count.requests += 1;
        count.entries += entries(&body);
    }
    let mut request = proxy.http.post(&proxy.target).body(body);
    for (name, value) in &headers {
        if name != header::HOST && name != header::CONTENT_LENGTH {
            request = request.header(name, value);
        }
    }
    let answer = request.send().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let status = answer.status();
    // A checksum of the body, where the service sends one.
    let kept: Vec<_> = [header::CONTENT_TYPE, HeaderName::from_static("x-amz-crc32")]
        .into_iter()
        .filter_map(|name| Some((name.clone(), answer.headers().get(name)?.clone())))
        .collect();
    let body = answer.bytes().await.map_err(|_| StatusCode::BAD_GATEWAY)?;
    let mut response = (status, body).into_response();
    response.headers_mut().extend(kept);
    Ok(response)
}
