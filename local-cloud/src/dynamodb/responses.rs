//! Responses that are created here instead of by dynoxide.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{Either, Full};
use serde_json::{Value, json};

use crate::upstream::UpstreamResponse;

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

/// Reason for which an item cannot be written now. The messages are DynamoDB's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Rejection {
    /// A running transaction holds the item.
    Conflict,
    /// A partition of the table, or of the named index, is exhausted.
    Throttled {
        table: String,
        index: Option<String>,
        is_provisioned: bool,
    },
}

impl Rejection {
    /// Returns the error of one statement, or the reason of one action of a transaction.
    pub(super) fn error(&self) -> Value {
        json!({"Code": self.code(), "Message": self.message()})
    }

    /// Returns the response to a request that fails with this error.
    pub(super) fn response(&self) -> UpstreamResponse {
        let (code, reasons) = match self {
            Self::Conflict => return error("TransactionConflictException", self.message()),
            Self::Throttled {
                is_provisioned: true,
                ..
            } => (
                "ProvisionedThroughputExceededException",
                "ThrottlingReasons",
            ),
            Self::Throttled { .. } => ("ThrottlingException", "throttlingReasons"),
        };
        let body = json!({
            "__type": error_type(code),
            "message": self.message(),
            reasons: [self.throttling_reason()],
        });
        json_response(StatusCode::BAD_REQUEST, body.to_string())
    }

    fn code(&self) -> &'static str {
        match self {
            Self::Conflict => "TransactionConflict",
            Self::Throttled {
                is_provisioned: true,
                ..
            } => "ProvisionedThroughputExceeded",
            Self::Throttled { .. } => "ThrottlingError",
        }
    }

    fn message(&self) -> &'static str {
        match self {
            Self::Conflict => "Transaction is ongoing for the item",
            Self::Throttled {
                is_provisioned: true,
                index: None,
                ..
            } => {
                "The level of configured provisioned throughput for the table was exceeded. \
                 Consider increasing your provisioning level with the UpdateTable API."
            }
            Self::Throttled {
                is_provisioned: true,
                ..
            } => {
                "The level of configured provisioned throughput for one or more global secondary \
                 indexes of the table was exceeded. Consider increasing your provisioning level \
                 for the under-provisioned global secondary indexes with the UpdateTable API."
            }
            Self::Throttled { index: None, .. } => {
                "Throughput exceeds the current capacity of your table or index. DynamoDB is \
                 automatically scaling your table or index so please try again shortly. If \
                 exceptions persist, check if you have a hot key: https://docs.aws.amazon.com/\
                 amazondynamodb/latest/developerguide/bp-partition-key-design.html."
            }
            Self::Throttled { .. } => {
                "Throughput exceeds the current capacity for one or more global secondary \
                 indexes. DynamoDB is automatically scaling your index so please try again \
                 shortly."
            }
        }
    }

    fn throttling_reason(&self) -> Value {
        match self {
            Self::Conflict => Value::Null,
            Self::Throttled {
                table, index: None, ..
            } => json!({
                "reason": "TableWriteKeyRangeThroughputExceeded",
                "resource": dynoxide::streams::table_arn(table),
            }),
            Self::Throttled {
                table,
                index: Some(index),
                ..
            } => json!({
                "reason": "IndexWriteKeyRangeThroughputExceeded",
                "resource": dynoxide::streams::index_arn(table, index),
            }),
        }
    }
}

pub(super) fn json_response(status: StatusCode, body: impl Into<Bytes>) -> UpstreamResponse {
    let mut response = Response::new(Either::Right(Full::new(body.into())));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// Returns the response to a token that belongs to a transaction with other items.
pub(super) fn idempotent_parameter_mismatch() -> UpstreamResponse {
    error(
        "IdempotentParameterMismatchException",
        "The request uses the same client token as a previous, but non-identical request.",
    )
}

/// Returns the response to a token whose transaction has not ended.
pub(super) fn transaction_in_progress() -> UpstreamResponse {
    error(
        "TransactionInProgressException",
        "The transaction with the given request token is already in progress.",
    )
}

/// Returns the response to a transaction with an action for each of `rejections`.
pub(super) fn transaction_cancelled(rejections: &[Option<Rejection>]) -> UpstreamResponse {
    let none = || json!({"Code": "None"});
    let reasons = rejections
        .iter()
        .map(|rejection| rejection.as_ref().map_or_else(none, Rejection::error));
    let codes: Vec<_> = rejections
        .iter()
        .map(|rejection| rejection.as_ref().map_or("None", Rejection::code))
        .collect();
    let message = format!(
        "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
        codes.join(", ")
    );
    let body = json!({
        "__type": error_type("TransactionCanceledException"),
        "Message": message,
        "CancellationReasons": reasons.collect::<Vec<_>>(),
    });
    json_response(StatusCode::BAD_REQUEST, body.to_string())
}

fn error(code: &str, message: &str) -> UpstreamResponse {
    let body = json!({"__type": error_type(code), "message": message});
    json_response(StatusCode::BAD_REQUEST, body.to_string())
}

fn error_type(code: &str) -> String {
    format!("com.amazonaws.dynamodb.v20120810#{code}")
}
