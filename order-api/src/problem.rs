//! The one mapping from errors to HTTP: `application/problem+json` (RFC 9457).
//! Nothing internal is said here; `type` is what a client can rely on.

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::body::MAX_BODY_BYTES;
use crate::error::ApiError;
use crate::validate::FieldError;

/// The media type of every error body.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which a client may try again: by then a burst is over, or a
/// throttled table has adapted a little.
const RETRY_AFTER_SECONDS: HeaderValue = HeaderValue::from_static("1");

const SAFE_TO_REPEAT: &str =
    "Repeat the request; with the same Idempotency-Key an order is created only once.";

/// An error answer, RFC 9457.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Identifies the kind of problem, for programs.
    #[serde(rename = "type")]
    #[schema(
        value_type = String,
        format = "uri",
        example = "urn:problem-type:order-api:invalid-order"
    )]
    kind: String,
    /// The kind of problem, for people.
    #[schema(value_type = String, example = "The order is not valid")]
    title: &'static str,
    /// The HTTP status code.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    status: u16,
    /// This occurrence, for people.
    #[schema(value_type = String, example = "1 field is not valid.")]
    detail: Cow<'static, str>,
    /// Every offending field; only with `invalid-order`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
}

/// The `error.type` of a failed request, left in its answer for the span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorType(pub(crate) &'static str);

impl ApiError {
    /// The kind, as `type` of the problem and `error.type` of the span.
    pub(crate) fn kind(&self) -> &'static str {
        self.describe().1
    }

    /// Status, kind, title and detail of every error.
    fn describe(&self) -> (StatusCode, &'static str, &'static str, Cow<'static, str>) {
        match self {
            Self::ContentType => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-media-type",
                "The content type is not supported",
                "Send the order as Content-Type: application/json, in UTF-8.".into(),
            ),
            Self::ContentEncoding => (
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "unsupported-content-encoding",
                "The content encoding is not supported",
                "Send the body uncompressed, without Content-Encoding.".into(),
            ),
            Self::BodyTooLarge => (
                StatusCode::PAYLOAD_TOO_LARGE,
                "body-too-large",
                "The body is too large",
                format!("The body may have at most {MAX_BODY_BYTES} bytes.").into(),
            ),
            Self::BodyTooSlow => (
                StatusCode::REQUEST_TIMEOUT,
                "body-too-slow",
                "The body did not arrive in time",
                "The connection is closed; nothing was done.".into(),
            ),
            Self::BodyCut => (
                StatusCode::BAD_REQUEST,
                "body-incomplete",
                "The body is incomplete",
                "The body ended before its announced end.".into(),
            ),
            Self::NotJson(reason) => (
                StatusCode::BAD_REQUEST,
                "not-json",
                "The body is not JSON",
                format!("The body cannot be read as JSON: {reason}.").into(),
            ),
            Self::Invalid(errors) => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "invalid-order",
                "The order is not valid",
                errors.to_string().into(),
            ),
            Self::IdempotencyKey(reason) => (
                StatusCode::BAD_REQUEST,
                "invalid-idempotency-key",
                "The Idempotency-Key header is not valid",
                format!("Idempotency-Key {reason}.").into(),
            ),
            Self::KeyReused => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "idempotency-key-reused",
                "The Idempotency-Key belongs to another order",
                "The key was used with another body in the last 24 hours; use a new one.".into(),
            ),
            Self::NoSuchOrder => (
                StatusCode::NOT_FOUND,
                "no-such-order",
                "There is no such order",
                "No order has this identifier.".into(),
            ),
            Self::NoSuchPath => (
                StatusCode::NOT_FOUND,
                "no-such-path",
                "There is no such path",
                "See /docs for what there is.".into(),
            ),
            Self::Method => (
                StatusCode::METHOD_NOT_ALLOWED,
                "method-not-allowed",
                "The method is not allowed here",
                "The Allow header names the methods of this path.".into(),
            ),
            Self::Overloaded => (
                StatusCode::SERVICE_UNAVAILABLE,
                "overloaded",
                "Too many requests at once",
                "Nothing was done. Try again after the time in Retry-After.".into(),
            ),
            Self::Throttled => (
                StatusCode::SERVICE_UNAVAILABLE,
                "throttled",
                "The database is busy",
                SAFE_TO_REPEAT.into(),
            ),
            Self::Unavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "unavailable",
                "The database is not available",
                SAFE_TO_REPEAT.into(),
            ),
            Self::Deadline => (
                StatusCode::GATEWAY_TIMEOUT,
                "deadline-exceeded",
                "The request took too long",
                SAFE_TO_REPEAT.into(),
            ),
            Self::Internal => (
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "Internal error",
                SAFE_TO_REPEAT.into(),
            ),
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Overloaded | Self::Throttled | Self::Unavailable => {
                Some((RETRY_AFTER, RETRY_AFTER_SECONDS))
            }
            Self::ContentEncoding => Some((ACCEPT_ENCODING, HeaderValue::from_static("identity"))),
            // The rest of the body would be read as the next request.
            Self::BodyTooSlow => Some((CONNECTION, HeaderValue::from_static("close"))),
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, title, detail) = self.describe();
        let header = self.header();
        let problem = Problem {
            kind: format!("urn:problem-type:order-api:{kind}"),
            title,
            status: status.as_u16(),
            detail,
            errors: match self {
                Self::Invalid(errors) => errors.into_listed(),
                _ => Vec::new(),
            },
        };
        let mut response = (status, Json(problem)).into_response();
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response.headers_mut().extend(header);
        response.extensions_mut().insert(ErrorType(kind));
        response
    }
}
