//! Forwards requests to the services behind the proxies.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{Method, Request, Uri};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;

use super::{AwsRequest, AwsResponse, CloudService, Cut};

/// The endpoints of the three services and a connection pool.
#[derive(Debug)]
pub struct Upstream {
    client: Client<HttpConnector, Full<Bytes>>,
    dynamodb: Uri,
    streams: Uri,
    sqs: Uri,
}

impl Upstream {
    /// Creates a client of the services at these endpoints.
    #[must_use]
    pub fn new(dynamodb: Uri, streams: Uri, sqs: Uri) -> Self {
        let mut connector = HttpConnector::new();
        // Small requests must not wait for each other's acknowledgement (Nagle's algorithm).
        connector.set_nodelay(true);
        Self {
            client: Client::builder(TokioExecutor::new()).build(connector),
            dynamodb,
            streams,
            sqs,
        }
    }

    /// Forwards a request unchanged, except for the headers that belong to its connection.
    ///
    /// # Errors
    /// The service is unreachable or closes the connection.
    pub async fn send(&self, aws: &AwsRequest) -> Result<AwsResponse, Cut> {
        let uri = match aws.service {
            CloudService::Dynamodb => &self.dynamodb,
            CloudService::Streams => &self.streams,
            CloudService::Sqs => &self.sqs,
        };
        let mut request = Request::new(Full::new(aws.body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = uri.clone();
        *request.headers_mut() = aws.headers.clone();
        for name in [HOST, CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            request.headers_mut().remove(name);
        }
        let failed = |error: &dyn std::error::Error| {
            tracing::debug!(
                %error,
                operation = aws.operation,
                "request to the service failed; the proxy cuts the connection"
            );
            Cut
        };
        let response = self.client.request(request).await;
        let (parts, body) = response.map_err(|error| failed(&error))?.into_parts();
        let body = body.collect().await.map_err(|error| failed(&error))?;
        Ok(AwsResponse {
            status: parts.status,
            headers: parts.headers,
            body: body.to_bytes(),
        })
    }
}
