//! Responses that are created here instead of by dynoxide.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body_util::{Either, Full};
use serde_json::{Value, json};

use crate::upstream::UpstreamResponse;

const JSON: HeaderValue = HeaderValue::from_static("application/x-amz-json-1.0");

/// DynamoDB's message for an item that a running transaction holds.
const ONGOING: &str = "Transaction is ongoing for the item";

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

/// Returns the response to a write of an item that a running transaction holds.
pub(super) fn transaction_conflict() -> UpstreamResponse {
    error("TransactionConflictException", ONGOING)
}

/// Returns the response to a transaction with an action for each of `conflicts`, where it is `true`
/// for items that another transaction holds.
pub(super) fn transaction_cancelled(conflicts: &[bool]) -> UpstreamResponse {
    let reason = |conflict: &bool| match conflict {
        true => conflict_error(),
        false => json!({"Code": "None"}),
    };
    let reasons: Vec<_> = conflicts.iter().map(reason).collect();
    let code = |conflict: &bool| {
        if *conflict {
            "TransactionConflict"
        } else {
            "None"
        }
    };
    let codes: Vec<_> = conflicts.iter().map(code).collect();
    let message = format!(
        "Transaction cancelled, please refer cancellation reasons for specific reasons [{}]",
        codes.join(", ")
    );
    let body = json!({
        "__type": error_type("TransactionCanceledException"),
        "Message": message,
        "CancellationReasons": reasons,
    });
    json_response(StatusCode::BAD_REQUEST, body.to_string())
}

/// Returns the error of one statement, or the reason of one action.
pub(super) fn conflict_error() -> Value {
    json!({"Code": "TransactionConflict", "Message": ONGOING})
}

fn error(code: &str, message: &str) -> UpstreamResponse {
    let body = json!({"__type": error_type(code), "message": message});
    json_response(StatusCode::BAD_REQUEST, body.to_string())
}

fn error_type(code: &str) -> String {
    format!("com.amazonaws.dynamodb.v20120810#{code}")
}
