//! What the proxy has to know of the services' protocol: AWS JSON 1.0 over
//! HTTP/1.1, where `X-Amz-Backend` names the operation and an error is a JSON
//! object with its type and a message.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, Response, StatusCode};
use http_body_util::Full;
use serde_json::{Value, json};

use crate::history::CloudService;

pub(super) type Answer = Response<Full<Bytes>>;

const TARGET: HeaderName = HeaderName::from_static("x-amz-target");
const ERROR_TYPE: HeaderName = HeaderName::from_static("x-amzn-errortype");
/// SQS's errors under the names they had in its query protocol, which older
/// clients still read.
const QUERY_ERROR: HeaderName = HeaderName::from_static("x-amzn-query-error");
/// DynamoDB's checksum of the body as it is sent.
const CRC32: HeaderName = HeaderName::from_static("x-amz-crc32");

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

/// One request, read to its end.
#[derive(Clone, Debug)]
pub(super) struct Call {
    pub(super) service: CloudService,
    pub(super) operation: String,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Call {
    /// `None` for what no client of the three services sends.
    pub(super) fn new(headers: HeaderMap, body: Bytes) -> Option<Self> {
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

    /// The body; `Null` when it is not JSON, which is the service's to refuse.
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The same request with another body.
    pub(super) fn with_body(&self, body: &Value) -> Self {
        Self {
            body: body.to_string().into(),
            ..self.clone()
        }
    }
}

#[cfg(test)]
impl Call {
    /// With this body and no headers, as tests of what reads bodies want it.
    pub(super) fn of(service: CloudService, operation: &str, body: &Value) -> Self {
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
pub(super) struct Refusal {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// Further members of the body.
    pub(super) details: Option<(&'static str, Value)>,
}

impl Refusal {
    /// HTTP 400, with which all three services report what is not their fault.
    pub(super) fn new(code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status: StatusCode::BAD_REQUEST,
            code,
            message: message.into(),
            details: None,
        }
    }

    pub(super) fn with_status(self, status: StatusCode) -> Self {
        Self { status, ..self }
    }

    pub(super) fn answer(&self, service: CloudService) -> Answer {
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
        let mut answer = answer(service, self.status, &body);
        let headers = answer.headers_mut();
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
        answer
    }
}

/// An answer made here.
pub(super) fn answer(service: CloudService, status: StatusCode, body: &Value) -> Answer {
    let body = Bytes::from(body.to_string());
    let checksum = crc32fast::hash(&body);
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    if service != CloudService::Sqs {
        answer.headers_mut().insert(CRC32, checksum.into());
    }
    answer
}

/// A service's answer, read to its end.
#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

impl Reply {
    /// The body of a success, when it is JSON.
    pub(super) fn json(&self) -> Option<Value> {
        self.status
            .is_success()
            .then(|| serde_json::from_slice(&self.body).ok())
            .flatten()
    }

    /// The same answer with another body, and a checksum that fits it.
    pub(super) fn with_body(mut self, body: &Value) -> Self {
        self.body = body.to_string().into();
        if self.headers.contains_key(CRC32) {
            let checksum = crc32fast::hash(&self.body);
            self.headers.insert(CRC32, checksum.into());
        }
        self
    }

    pub(super) fn into_answer(self) -> Answer {
        let mut answer = Response::new(Full::new(self.body));
        *answer.status_mut() = self.status;
        *answer.headers_mut() = self.headers;
        // Of the connection that it came over, or of a body that was replaced.
        let headers = answer.headers_mut();
        headers.remove(CONTENT_LENGTH);
        headers.remove(TRANSFER_ENCODING);
        headers.remove(http::header::CONNECTION);
        answer
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    #[test]
    fn a_request_is_told_by_its_target() {
        let call = |target: &'static str| {
            let headers = HeaderMap::from_iter([(TARGET, HeaderValue::from_static(target))]);
            Call::new(headers, Bytes::new()).map(|call| (call.service, call.operation))
        };
        assert_eq!(
            call("DynamoDBStreams_20120810.GetRecords"),
            Some((CloudService::Streams, "GetRecords".to_owned()))
        );
        assert_eq!(
            call("AmazonSQS.SendMessageBatch"),
            Some((CloudService::Sqs, "SendMessageBatch".to_owned()))
        );
        assert_eq!(call("Kinesis_20131202.GetRecords"), None);
        assert_eq!(call("nonsense"), None);
    }

    #[tokio::test]
    async fn a_refusal_is_an_error_of_its_service_with_a_true_checksum() {
        let refusal = Refusal::new("ThrottlingException", "Rate exceeded");
        let answer = refusal.answer(CloudService::Dynamodb);
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.headers()[ERROR_TYPE], "ThrottlingException");
        let checksum = answer.headers()[CRC32].to_str().unwrap().to_owned();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
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
    fn a_replaced_body_takes_its_checksum_along() {
        let reply = Reply {
            status: StatusCode::OK,
            headers: HeaderMap::from_iter([(CRC32, 1.into()), (CONTENT_LENGTH, 99.into())]),
            body: "{}".into(),
        };
        let answer = reply.with_body(&json!({"a": 1})).into_answer();
        assert_eq!(
            answer.headers()[CRC32],
            crc32fast::hash(br#"{"a":1}"#).to_string()
        );
        assert!(!answer.headers().contains_key(CONTENT_LENGTH));
    }
}
