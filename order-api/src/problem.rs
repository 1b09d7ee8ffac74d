//! The one mapping from errors to HTTP: `application/problem+json` (RFC 9457).
//!
//! Bodies contain nothing internal; `type` is stable, and clients may rely on it.

use std::borrow::Cow;

use axum::Json;
use axum::http::header::{
    ACCEPT_ENCODING, CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use opentelemetry::trace::TraceContextExt;
use serde::Serialize;
use shared::order::OrderId;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use utoipa::{IntoResponses, ToSchema};

use crate::auth::{Denied, Schemes, TokenError};
use crate::body::MAX_BODY_BYTES;
use crate::error::ApiError;
use crate::response::NO_STORE;
use crate::validate::FieldError;

/// The media type of every error body.
pub(crate) const PROBLEM_JSON: &str = "application/problem+json";

/// Seconds after which a client may retry: by then a burst is over, or a throttled table has
/// adapted somewhat. Random, so that the clients of a failure do not return all at once.
const RETRY_AFTER_SECONDS: std::ops::RangeInclusive<u16> = 1..=3;

const SAFE_TO_REPEAT: &str =
    "Repeat the request; with the same Idempotency-Key an order is created only once.";

const OUTCOME_UNKNOWN: &str = "The order may have been placed: look for it at the path in \
     `instance`, or repeat the request with the same Idempotency-Key.";

/// Body of an error response (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// Kind of problem, for programs.
    #[serde(rename = "type")]
    #[schema(
        value_type = String,
        format = "uri",
        example = "urn:problem-type:order-api:invalid-order"
    )]
    kind: String,
    /// Kind of problem, for people.
    #[schema(value_type = String, example = "The order is not valid")]
    title: &'static str,
    /// The HTTP status code.
    #[schema(minimum = 400, maximum = 599, example = 422)]
    status: u16,
    /// Details of this occurrence, for people.
    #[schema(value_type = String, example = "1 field is not valid.")]
    detail: Cow<'static, str>,
    /// The invalid fields; only with `invalid-order`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    errors: Vec<FieldError>,
    /// The order that may exist, if the outcome of placing it is unknown.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = String, required = false, nullable = false, format = "uuid")]
    order_id: Option<OrderId>,
    /// Path of that order.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, format = "uri-reference")]
    instance: Option<String>,
    /// W3C trace id of this request, by which operators find its log lines.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false, pattern = "^[0-9a-f]{32}$")]
    trace_id: Option<String>,
}

/// Error responses that every operation can have.
#[derive(IntoResponses)]
#[expect(dead_code, reason = "documents the responses")]
pub(crate) enum CommonErrors {
    /// The request has no credentials (`no-credentials`), or they are not accepted
    /// (`invalid-credentials`).
    #[response(
        status = 401,
        content_type = "application/problem+json",
        headers(("WWW-Authenticate" = String, description = "The accepted schemes."))
    )]
    NotAuthenticated(Problem),
    /// The credentials are valid, but not for this customer (`other-customer`, `no-customer`).
    #[response(status = 403, content_type = "application/problem+json")]
    Forbidden(Problem),
    /// The path does not support the method (`method-not-allowed`).
    #[response(
        status = 405,
        content_type = "application/problem+json",
        headers(("Allow" = String, description = "The methods that the path supports."))
    )]
    Method(Problem),
    /// Too many requests with these credentials or from this address (`rate-limited`).
    #[response(
        status = 429,
        content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds to wait before the next attempt."))
    )]
    RateLimited(Problem),
    /// Internal error (`internal`).
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(Problem),
    /// The database throttles or is unavailable, the API sheds load, or the keys of bearer tokens
    /// could not be read yet (`throttled`, `unavailable`, `overloaded`,
    /// `authentication-unavailable`). Safe to repeat with the same key. `order_id` names the order
    /// that may have been placed; without it the request had no effect.
    #[response(
        status = 503,
        content_type = "application/problem+json",
        headers(("Retry-After" = u32, description = "Seconds to wait before the next attempt."))
    )]
    Unavailable(Problem),
    /// The request took too long (`deadline-exceeded`). Safe to repeat with the same key.
    /// `order_id` names the order that may have been placed.
    #[response(status = 504, content_type = "application/problem+json")]
    Deadline(Problem),
}

/// The `error.type` of a failed request, an extension of the response for the server span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ErrorType(pub(crate) &'static str);

impl ApiError {
    /// Returns the kind: the last part of the problem's `type`, and the span's `error.type`.
    pub(crate) fn kind(&self) -> &'static str {
        self.describe().1
    }

    /// Returns status, kind, title and detail.
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
                "The connection is closed; the request had no effect.".into(),
            ),
            Self::BodyCut => (
                StatusCode::BAD_REQUEST,
                "body-incomplete",
                "The body is incomplete",
                "The body ended before its announced length.".into(),
            ),
            Self::NotJson(reason) => (
                StatusCode::BAD_REQUEST,
                "not-json",
                "The body is not JSON",
                format!("The body cannot be parsed as JSON: {reason}.").into(),
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
                "The Idempotency-Key belongs to another request",
                "The key was used with another body in the last 24 hours; send this body with a new key.".into(),
            ),
            Self::NoSuchOrder => (
                StatusCode::NOT_FOUND,
                "no-such-order",
                "The order does not exist",
                "No order has this identifier.".into(),
            ),
            Self::NoSuchPath => (
                StatusCode::NOT_FOUND,
                "no-such-path",
                "The path does not exist",
                "See /docs for the paths of this API.".into(),
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
                "The request had no effect. Retry after the time in Retry-After.".into(),
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
                "The request failed because of a defect of this service, which is logged.".into(),
            ),
            Self::Denied(denied) => describe_denied(denied),
            Self::OutcomeUnknown { cause, .. } => {
                let (status, kind, title, _) = cause.describe();
                (status, kind, title, OUTCOME_UNKNOWN.into())
            }
        }
    }

    fn header(&self) -> Option<(HeaderName, HeaderValue)> {
        match self {
            Self::Overloaded
            | Self::Throttled
            | Self::Unavailable
            | Self::Denied(Denied::NoTokenKeys) => {
                Some((RETRY_AFTER, fastrand::u16(RETRY_AFTER_SECONDS).into()))
            }
            Self::OutcomeUnknown { cause, .. } => cause.header(),
            Self::Denied(Denied::RateLimited { wait, .. }) => {
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Some((RETRY_AFTER, seconds.max(1).into()))
            }
            Self::Denied(denied) => {
                let challenge = HeaderValue::from_static(challenge(denied)?);
                Some((WWW_AUTHENTICATE, challenge))
            }
            Self::ContentEncoding => Some((ACCEPT_ENCODING, HeaderValue::from_static("identity"))),
            // The rest of the body would be parsed as the next request.
            Self::BodyTooSlow => Some((CONNECTION, HeaderValue::from_static("close"))),
            _ => None,
        }
    }
}

/// Returns status, kind, title and detail of a request that is not admitted.
fn describe_denied(denied: &Denied) -> (StatusCode, &'static str, &'static str, Cow<'static, str>) {
    let invalid = |detail: Cow<'static, str>| {
        let title = "The credentials are not accepted";
        (
            StatusCode::UNAUTHORIZED,
            "invalid-credentials",
            title,
            detail,
        )
    };
    match denied {
        Denied::NoCredentials(schemes) => (
            StatusCode::UNAUTHORIZED,
            "no-credentials",
            "The request has no credentials",
            match schemes {
                Schemes { tokens: false, .. } => "Send an API key as X-API-Key.",
                Schemes { api_keys: false, .. } => "Send a token as Authorization: Bearer.",
                _ => "Send an API key as X-API-Key, or a token as Authorization: Bearer.",
            }
            .into(),
        ),
        Denied::Malformed { reason, .. } => invalid((*reason).into()),
        Denied::UnknownKey(_) => invalid("The API key is not known.".into()),
        Denied::Token(TokenError::NoCustomer) => (
            StatusCode::FORBIDDEN,
            "no-customer",
            "The token names no customer",
            "The token is valid, but has no claim with the id of a customer.".into(),
        ),
        Denied::Token(error) => invalid(format!("The token {error}.").into()),
        Denied::NoTokenKeys => (
            StatusCode::SERVICE_UNAVAILABLE,
            "authentication-unavailable",
            "Tokens cannot be verified",
            "The keys of the issuer could not be read yet. The request had no effect.".into(),
        ),
        Denied::OtherCustomer => (
            StatusCode::FORBIDDEN,
            "other-customer",
            "The order is of another customer",
            "The credentials do not permit orders of the customer in customer_id.".into(),
        ),
        Denied::RateLimited { subject, .. } => (
            StatusCode::TOO_MANY_REQUESTS,
            "rate-limited",
            "Too many requests",
            format!("The {subject} has sent too many requests. The request had no effect. Retry after the time in Retry-After.")
                .into(),
        ),
    }
}

/// Returns the schemes that a client may authenticate with (RFC 9110, section 11.6.1), for a 401.
fn challenge(denied: &Denied) -> Option<&'static str> {
    match denied {
        Denied::NoCredentials(schemes)
        | Denied::Malformed { schemes, .. }
        | Denied::UnknownKey(schemes) => Some(match schemes {
            Schemes { tokens: false, .. } => "ApiKey",
            Schemes {
                api_keys: false, ..
            } => "Bearer",
            _ => "Bearer, ApiKey",
        }),
        Denied::Token(TokenError::NoCustomer) => None,
        Denied::Token(_) => Some("Bearer error=\"invalid_token\""),
        Denied::NoTokenKeys | Denied::OtherCustomer | Denied::RateLimited { .. } => None,
    }
}

/// Returns the trace id of the current request.
fn trace_id() -> Option<String> {
    let context = Span::current().context();
    let span = context.span();
    let span_context = span.span_context();
    span_context
        .is_valid()
        .then(|| span_context.trace_id().to_string())
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, kind, title, detail) = self.describe();
        let header = self.header();
        let order_id = match &self {
            Self::OutcomeUnknown { order_id, .. } => Some(*order_id),
            _ => None,
        };
        let problem = Problem {
            kind: format!("urn:problem-type:order-api:{kind}"),
            title,
            status: status.as_u16(),
            detail,
            errors: match self {
                Self::Invalid(errors) => errors.into_listed(),
                _ => Vec::new(),
            },
            order_id,
            instance: order_id.map(|id| format!("/orders/{id}")),
            trace_id: trace_id(),
        };
        let mut response = (status, Json(problem)).into_response();
        response
            .headers_mut()
            .insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        let (name, value) = NO_STORE;
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
        response.headers_mut().extend(header);
        response.extensions_mut().insert(ErrorType(kind));
        response
    }
}
