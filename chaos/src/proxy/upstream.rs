//! The services behind the proxies.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::Cut;
use super::protocol::{Call, Reply};
use crate::history::CloudService;

#[derive(Debug)]
pub(crate) struct Upstream {
    client: Client<HttpConnector, Full<Bytes>>,
    dynamodb: Uri,
    streams: Uri,
    sqs: Uri,
}

impl Upstream {
    pub(crate) fn new(dynamodb: Uri, streams: Uri, sqs: Uri) -> Self {
        let mut connector = HttpConnector::new();
        // Small requests must not wait for each other's acknowledgement.
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            dynamodb,
            streams,
            sqs,
        }
    }

    /// Forwards a request as it came; only what belongs to its connection is
    /// made anew.
    ///
    /// # Errors
    /// When the service breaks the connection, or is not there.
    pub(super) async fn send(&self, call: &Call) -> Result<Reply, Cut> {
        let uri = match call.service {
            CloudService::Dynamodb => &self.dynamodb,
            CloudService::Streams => &self.streams,
            CloudService::Sqs => &self.sqs,
        };
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = call.headers.clone();
        for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            request.headers_mut().remove(name);
        }
        let failed = |error: &dyn std::error::Error| {
            tracing::debug!(%error, operation = call.operation, "a service did not answer the proxy");
            Cut
        };
        let answer = self.client.request(request).await;
        let (parts, body) = answer.map_err(|error| failed(&error))?.into_parts();
        let body = body.collect().await.map_err(|error| failed(&error))?;
        Ok(Reply {
            status: parts.status,
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }
}
