//! What can go wrong with a request. How it is said to the client stands in
//! `problem`; what an operator has to know is logged where it happens.

use crate::validate::FieldErrors;

/// Why a request did not get what it asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApiError {
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
    #[error("there is no such order")]
    NoSuchOrder,
    #[error("there is no such path")]
    NoSuchPath,
    #[error("the path does not know the method")]
    Method,
    #[error("too many requests at once")]
    Overloaded,
    #[error("DynamoDB throttles")]
    Throttled,
    /// DynamoDB is away, a table is missing, or what became of a transaction
    /// could not be found out.
    #[error("DynamoDB is unavailable")]
    Unavailable,
    #[error("the request took too long")]
    Deadline,
    #[error("internal error")]
    Internal,
}
