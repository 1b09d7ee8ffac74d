//! Errors of a request. `problem` maps them to responses; details for operators are logged where an
//! error occurs.

use shared::order::OrderId;

use crate::auth::Denied;
use crate::validate::FieldErrors;

/// Failure of a request.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error("the content type is not application/json")]
    ContentType,
    #[error("the body is compressed")]
    ContentEncoding,
    #[error("the body is larger than the limit")]
    BodyTooLarge,
    #[error("the body did not arrive in time")]
    BodyTooSlow,
    #[error("the body ended early")]
    BodyCut,
    #[error("the body is not JSON: {0}")]
    NotJson(String),
    #[error("the order is not valid")]
    Invalid(FieldErrors),
    #[error("Idempotency-Key {0}")]
    IdempotencyKey(&'static str),
    #[error("the idempotency key belongs to another request")]
    KeyReused,
    #[error("the order does not exist")]
    NoSuchOrder,
    #[error("the path does not exist")]
    NoSuchPath,
    #[error("the path does not support the method")]
    Method,
    #[error("too many requests in flight")]
    Overloaded,
    #[error("DynamoDB throttles")]
    Throttled,
    /// DynamoDB is unavailable, rejects the credentials of this process, or a table does not exist.
    #[error("DynamoDB is unavailable")]
    Unavailable,
    #[error("the request took too long")]
    Deadline,
    #[error("internal error")]
    Internal,
    /// The order may exist, in spite of `cause`.
    #[error("the outcome of order {order_id} is unknown: {cause}")]
    OutcomeUnknown {
        order_id: OrderId,
        cause: Box<ApiError>,
    },
}
