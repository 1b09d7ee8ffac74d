//! The one classification of errors from the AWS SDK, and their text for logs and people.
//!
//! [`classify`] reduces an error of any operation to an [`ErrorClass`]. Each program decides by the
//! class whether to retry, what to return, and what to tell an operator. Errors that carry meaning
//! for one operation only (a failed condition, a cancelled transaction) are that operation's to
//! interpret.

use std::error::Error;
use std::fmt;

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};

/// Class of a failed request, by what the caller can do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The service throttled the request. It had no effect; retry with backoff.
    Throttled,
    /// The response did not arrive within a time limit of the client. The request may have taken
    /// effect.
    Timeout,
    /// The connection failed, the response was incomplete, or the service reported a failure of its
    /// own (5xx). The request may have taken effect.
    Unavailable,
    /// Another transaction, or an earlier attempt of this one, holds an item. Retry soon.
    Conflict,
    /// A condition of the request was not met. It had no effect.
    ConditionFailed,
    /// The table, stream, shard or queue does not exist. The request had no effect; an operator may
    /// create the resource.
    NotFound,
    /// The credentials are unknown or lack a permission. The request had no effect; an operator may
    /// grant it.
    AccessDenied,
    /// The credentials have expired, or the signature is missing or wrong. The request had no
    /// effect; new credentials may be on their way.
    Credentials,
    /// The service rejected what the request contains. It had no effect, and repeating it has none.
    Rejected,
    /// The client could not construct the request, so that nothing was sent.
    NotSent,
    /// The service rejected the request with a code that is not listed here. It had no effect.
    Other,
}

impl ErrorClass {
    /// Returns `true` if the service rejected the credentials of the request and not its content:
    /// an operator can correct this by other credentials or permissions, without a change of the
    /// program.
    pub fn is_refusal_of_credentials(self) -> bool {
        matches!(self, Self::AccessDenied | Self::Credentials)
    }
}

/// Returns the class of `error`.
///
/// A 5xx response is [`ErrorClass::Unavailable`] whatever its code, because the service does not
/// state whether the request took effect. So is a 4xx response without a code: it comes from
/// something else than the service, such as a proxy on the way.
pub fn classify<E: ProvideErrorMetadata>(error: &SdkError<E>) -> ErrorClass {
    match error {
        SdkError::ServiceError(service) if service.raw().status().is_server_error() => {
            ErrorClass::Unavailable
        }
        SdkError::ServiceError(service) => service
            .err()
            .code()
            .map_or(ErrorClass::Unavailable, class_of_code),
        SdkError::TimeoutError(_) => ErrorClass::Timeout,
        SdkError::DispatchFailure(failure) if failure.is_timeout() => ErrorClass::Timeout,
        SdkError::ConstructionFailure(_) => ErrorClass::NotSent,
        _ => ErrorClass::Unavailable,
    }
}

/// Returns the name of an error without what SDKs and services add to it: they write a code as
/// `Code`, `CodeException`, `AWS.SimpleQueueService.Code` or `com.amazonaws.sqs#Code`.
pub fn code_name(code: &str) -> &str {
    let name = code.rsplit(['.', '#']).next().unwrap_or(code);
    name.strip_suffix("Exception").unwrap_or(name)
}

/// Returns the class of an error code of DynamoDB, DynamoDB Streams or SQS.
fn class_of_code(code: &str) -> ErrorClass {
    match code_name(code) {
        "Throttling"
        | "ThrottlingError"
        | "ProvisionedThroughputExceeded"
        | "RequestLimitExceeded"
        | "LimitExceeded"
        | "RequestThrottled"
        | "KmsThrottled" => ErrorClass::Throttled,
        "TransactionConflict" | "TransactionInProgress" | "ReplicatedWriteConflict" => {
            ErrorClass::Conflict
        }
        "ConditionalCheckFailed" => ErrorClass::ConditionFailed,
        "ResourceNotFound" | "QueueDoesNotExist" | "NonExistentQueue" => ErrorClass::NotFound,
        // The rest of the codes of SQS with a prefix `Kms`: its key cannot be used as it is.
        "AccessDenied"
        | "UnrecognizedClient"
        | "InvalidClientTokenId"
        | "NotAuthorized"
        | "OptInRequired"
        | "KmsAccessDenied"
        | "KmsDisabled"
        | "KmsInvalidKeyUsage"
        | "KmsInvalidState"
        | "KmsNotFound"
        | "KmsOptInRequired" => ErrorClass::AccessDenied,
        "ExpiredToken"
        | "RequestExpired"
        | "InvalidSignature"
        | "SignatureDoesNotMatch"
        | "IncompleteSignature"
        | "MissingAuthenticationToken" => ErrorClass::Credentials,
        "Validation" | "ValidationError" | "ItemCollectionSizeLimitExceeded" => {
            ErrorClass::Rejected
        }
        "InternalServerError" | "InternalError" | "InternalFailure" | "ServiceUnavailable" => {
            ErrorClass::Unavailable
        }
        _ => ErrorClass::Other,
    }
}

/// Formats an error and its sources on one line.
///
/// The SDK's own `DisplayErrorContext` adds the debug form of the whole error, which is pages of
/// HTTP headers.
#[derive(Clone, Copy, Debug)]
pub struct Causes<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = String::new();
        let mut next = Some(self.0);
        while let Some(error) = next {
            let text = error.to_string();
            // Some errors repeat the text of their source in their own.
            if !line.contains(&text) {
                if !line.is_empty() {
                    line.push_str(": ");
                }
                line.push_str(&text.lines().map(str::trim).collect::<Vec<_>>().join(" "));
            }
            next = error.source();
        }
        f.write_str(&line)
    }
}

/// Returns the text of [`describe`], and what an operator can do if the service refused the
/// credentials.
pub fn explain<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    let described = describe(error);
    match classify(error) {
        ErrorClass::AccessDenied => {
            format!("{described}; grant the permission (see deploy/iam) or correct the credentials")
        }
        ErrorClass::Credentials => format!("{described}; renew the credentials"),
        _ => described,
    }
}

/// Returns a short text for an error of the SDK: the service's code and message, or how the request
/// failed. Contains nothing of what was sent or stored.
pub fn describe<E>(error: &SdkError<E>) -> String
where
    E: ProvideErrorMetadata + Error + 'static,
{
    match error {
        SdkError::ServiceError(service) => {
            let code = service.err().code().unwrap_or("unknown error");
            match service.err().message() {
                Some(message) => format!("{code}: {message}"),
                None => code.to_owned(),
            }
        }
        SdkError::TimeoutError(_) => "the request timed out".to_owned(),
        SdkError::DispatchFailure(failure) => {
            let cause = failure.as_connector_error().map(|error| root_cause(error));
            format!("connection failed: {}", cause.unwrap_or_default())
        }
        SdkError::ResponseError(_) => "the response is incomplete or malformed".to_owned(),
        _ => "the request could not be constructed".to_owned(),
    }
}

fn root_cause(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

#[cfg(test)]
mod tests {
    use aws_sdk_dynamodb::config::http::HttpResponse;
    use aws_sdk_dynamodb::error::ErrorMetadata;
    use aws_sdk_dynamodb::operation::get_item::GetItemError;

    use super::*;

    fn service_error(status: u16, code: Option<&str>) -> SdkError<GetItemError> {
        let mut metadata = ErrorMetadata::builder().message("m");
        if let Some(code) = code {
            metadata = metadata.code(code);
        }
        let response = HttpResponse::new(status.try_into().unwrap(), Vec::new().into());
        SdkError::service_error(GetItemError::generic(metadata.build()), response)
    }

    #[test]
    fn error_codes_are_classified_by_what_the_caller_can_do() {
        use ErrorClass::*;
        for (code, class) in [
            ("ThrottlingException", Throttled),
            ("ProvisionedThroughputExceededException", Throttled),
            ("RequestLimitExceeded", Throttled),
            ("LimitExceededException", Throttled),
            ("RequestThrottled", Throttled),
            ("TransactionConflictException", Conflict),
            ("TransactionInProgressException", Conflict),
            ("ReplicatedWriteConflictException", Conflict),
            ("ConditionalCheckFailedException", ConditionFailed),
            ("ResourceNotFoundException", NotFound),
            ("QueueDoesNotExist", NotFound),
            ("AWS.SimpleQueueService.NonExistentQueue", NotFound),
            ("com.amazonaws.sqs#QueueDoesNotExist", NotFound),
            ("AccessDeniedException", AccessDenied),
            ("AccessDenied", AccessDenied),
            ("UnrecognizedClientException", AccessDenied),
            ("InvalidClientTokenId", AccessDenied),
            ("NotAuthorized", AccessDenied),
            ("KMS.AccessDeniedException", AccessDenied),
            ("KmsDisabled", AccessDenied),
            ("KmsThrottled", Throttled),
            ("ExpiredTokenException", Credentials),
            ("RequestExpired", Credentials),
            ("InvalidSignatureException", Credentials),
            ("MissingAuthenticationTokenException", Credentials),
            ("ValidationException", Rejected),
            ("ItemCollectionSizeLimitExceededException", Rejected),
            ("InternalServerError", Unavailable),
            ("UnknownOperationException", Other),
            ("TransactionCanceledException", Other),
        ] {
            assert_eq!(classify(&service_error(400, Some(code))), class, "{code}");
        }
    }

    #[test]
    fn a_5xx_response_is_unavailable_whatever_its_code() {
        for code in [Some("ThrottlingException"), Some("Unheard"), None] {
            assert_eq!(
                classify(&service_error(503, code)),
                ErrorClass::Unavailable,
                "{code:?}"
            );
        }
    }

    #[test]
    fn a_4xx_response_without_a_code_is_unavailable() {
        assert_eq!(classify(&service_error(404, None)), ErrorClass::Unavailable);
    }

    #[test]
    fn errors_without_a_response_are_classified_by_how_the_request_failed() {
        type Failed = SdkError<GetItemError>;
        assert_eq!(
            classify(&Failed::timeout_error("slow")),
            ErrorClass::Timeout
        );
        assert_eq!(
            classify(&Failed::construction_failure("no key")),
            ErrorClass::NotSent
        );
    }

    #[test]
    fn a_description_has_the_code_and_the_message() {
        assert_eq!(
            describe(&service_error(400, Some("ThrottlingException"))),
            "ThrottlingException: m"
        );
    }
}
