//! The services' protocol: AWS JSON 1.0 over HTTP/1.1. The header `X-Amz-Target` names the
//! operation; an error is a JSON object with its type and a message.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A response that is ready to be sent.
pub type HttpResponse = Response<Full<Bytes>>;

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
/// SQS's errors under the names they had in its query protocol, which older
/// clients still read.
const QUERY_ERROR: HeaderName = HeaderName::from_static("x-amzn-query-error");
/// DynamoDB's checksum of the body as it is sent.
const CRC32: HeaderName = HeaderName::from_static("x-amz-crc32");

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

/// One of the services behind a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CloudService {
    Dynamodb,
    Streams,
    Sqs,
}

impl CloudService {
    /// Returns the name for display.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dynamodb => "DynamoDB",
            Self::Streams => "DynamoDB Streams",
            Self::Sqs => "SQS",
        }
    }
}

/// A request, read completely.
#[derive(Clone, Debug)]
pub struct AwsRequest {
    pub service: CloudService,
    pub operation: String,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl AwsRequest {
    /// Returns `None` if no client of the three services sends such a request.
    pub fn parse(headers: HeaderMap, body: Bytes) -> Option<Self> {
        let target = headers.get(TARGET)?.to_str().ok()?;
        let (api, operation) = target.split_once('.')?;
        let service = match api {
            "DynamoDB_20120810" => CloudService::Dynamodb,
            "DynamoDBStreams_20120810" => CloudService::Streams,
            "AmazonSQS" => CloudService::Sqs,
            _ => return None,
        };
        Some(Self {
            service,
            operation: operation.to_owned(),
            headers,
            body,
        })
    }

    /// Returns the body, or `Null` if it is not JSON; the service rejects such a request.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// Returns the same request with another body.
    pub fn with_body(&self, body: &Value) -> Self {
        Self {
            body: body.to_string().into(),
            ..self.clone()
        }
    }
}

impl AwsRequest {
    /// Creates a request with this body and no headers, for tests.
    #[must_use]
    pub fn of(service: CloudService, operation: &str, body: &Value) -> Self {
        Self {
            service,
            operation: operation.to_owned(),
            headers: HeaderMap::new(),
            body: body.to_string().into(),
        }
    }
}

/// An error as a service reports it.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceError {
    pub status: StatusCode,
    pub code: &'static str,
    pub message: String,
    /// Additional member of the body.
    pub details: Option<(&'static str, Value)>,
}

impl ServiceError {
    /// Creates an error with HTTP status 400, which all three services use for client errors.
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code,
            message: message.into(),
            details: None,
        }
    }

    pub fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub fn response(&self, service: CloudService) -> HttpResponse {
        let namespace = match service {
            CloudService::Sqs => "com.amazonaws.sqs",
            CloudService::Dynamodb | CloudService::Streams => "com.amazonaws.dynamodb.v20120810",
        };
        let mut body = json!({
            "__type": format!("{namespace}#{}", self.code),
            "message": self.message,
        });
        if let Some((name, value)) = &self.details {
            body[name] = value.clone();
        }
        let mut response = json_response(service, self.status, body.to_string());
        let headers = response.headers_mut();
        headers.insert(ERROR_TYPE, HeaderValue::from_static(self.code));
        if service == CloudService::Sqs {
            let fault = if self.status.is_server_error() {
                "Receiver"
            } else {
                "Sender"
            };
            if let Ok(value) = HeaderValue::try_from(format!("{};{fault}", self.code)) {
                headers.insert(QUERY_ERROR, value);
            }
        }
        response
    }
}

/// Returns a response as `service` sends it, with a checksum if the service is DynamoDB or DynamoDB
/// Streams. `body` is JSON.
pub fn json_response(
    service: CloudService,
    status: StatusCode,
    body: impl Into<Bytes>,
) -> HttpResponse {
    let body = body.into();
    let checksum = crc32fast::hash(&body);
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    if service != CloudService::Sqs {
        response.headers_mut().insert(CRC32, checksum.into());
    }
    response
}

/// A service's response, read to its end.
#[derive(Clone, Debug)]
pub struct AwsResponse {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl AwsResponse {
    /// Returns the body of a successful response if it is JSON.
    pub fn json(&self) -> Option<Value> {
        self.status
            .is_success()
            .then(|| serde_json::from_slice(&self.body).ok())
            .flatten()
    }

    /// Replaces the body and updates the checksum.
    pub fn with_body(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        if self.headers.contains_key(CRC32) {
            let checksum = crc32fast::hash(&self.body);
            self.headers.insert(CRC32, checksum.into());
        }
        self
    }

    pub fn into_http(self) -> HttpResponse {
        let mut response = Response::new(Full::new(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        // These belong to the upstream connection, or to a body that was replaced.
        let headers = response.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        headers.remove(http::header::CONNECTION);
        response
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn the_target_header_names_service_and_operation() {
        let request = |target: &'static str| {
            let headers = HeaderMap::from_iter([(TARGET, HeaderValue::from_static(target))]);
            AwsRequest::parse(headers, Bytes::new())
                .map(|request| (request.service, request.operation))
        };
        assert_eq!(
            request("DynamoDBStreams_20120810.GetRecords"),
            Some((CloudService::Streams, "GetRecords".to_owned()))
        );
        assert_eq!(
            request("AmazonSQS.SendMessageBatch"),
            Some((CloudService::Sqs, "SendMessageBatch".to_owned()))
        );
        assert_eq!(request("Kinesis_20131202.GetRecords"), None);
        assert_eq!(request("nonsense"), None);
    }

    #[tokio::test]
    async fn an_error_has_the_form_of_its_service_and_a_valid_checksum() {
        let error = ServiceError::new("ThrottlingException", "Rate exceeded");
        let response = error.response(CloudService::Dynamodb);
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[ERROR_TYPE], "ThrottlingException");
        let checksum = response.headers()[CRC32].to_str().unwrap().to_owned();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(checksum, crc32fast::hash(&body).to_string());
        assert_eq!(
            serde_json::from_slice::<Value>(&body).unwrap(),
            json!({
                "__type": "com.amazonaws.dynamodb.v20120810#ThrottlingException",
                "message": "Rate exceeded",
            })
        );
    }

    #[test]
    fn replacing_the_body_updates_the_checksum() {
        let response = AwsResponse {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(CRC32, 1.into()), (CONTENT_LENGTH, 99.into())]),
            body: "{}".into(),
        };
        let response = response.with_body(&json!({"a": 1})).into_http();
        assert_eq!(
            response.headers()[CRC32],
            crc32fast::hash(br#"{"a":1}"#).to_string()
        );
        assert!(!response.headers().contains_key(CONTENT_LENGTH));
    }
}
