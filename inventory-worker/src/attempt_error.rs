//! Failure of one attempt to process orders.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use shared::aws::error::{ErrorClass, classify, describe};

/// Failure of an attempt, which neither processed nor rejected the orders.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttemptError {
    /// Another transaction holds an item, for some milliseconds.
    #[error("another transaction holds an item of these orders")]
    Conflict,
    #[error("DynamoDB throttles the request")]
    Throttled,
    /// DynamoDB is unavailable or the outcome is unknown. Repeating the attempt is safe.
    #[error("DynamoDB is unavailable: {0}")]
    Unavailable(String),
    /// No attempt can succeed.
    #[error("{0}")]
    Unprocessable(String),
}

impl AttemptError {
    /// Every value of [`AttemptError::kind`].
    pub(crate) const KINDS: [&str; 3] = ["conflict", "throttled", "unavailable"];

    /// Returns the kind of a failure after which the attempt is repeated; `None` if it is not.
    pub(crate) fn kind(&self) -> Option<&'static str> {
        match self {
            Self::Conflict => Some("conflict"),
            Self::Throttled => Some("throttled"),
            Self::Unavailable(_) => Some("unavailable"),
            Self::Unprocessable(_) => None,
        }
    }

    /// Returns what a failed request means for the attempt. Cancelled transactions and failed
    /// conditions are `transaction_outcome`'s to interpret.
    pub(crate) fn of_request<E>(error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        Self::of_class(classify(error), describe(error))
    }

    fn of_class(class: ErrorClass, text: String) -> Self {
        match class {
            ErrorClass::Throttled => Self::Throttled,
            ErrorClass::Conflict => Self::Conflict,
            ErrorClass::Rejected => {
                Self::Unprocessable(format!("DynamoDB rejected the change: {text}"))
            }
            // A missing table and missing permissions included: the message is not at fault, and an
            // operator can restore them.
            ErrorClass::Unavailable
            | ErrorClass::Timeout
            | ErrorClass::ConditionFailed
            | ErrorClass::NotFound
            | ErrorClass::AccessDenied
            | ErrorClass::Credentials
            | ErrorClass::NotSent
            | ErrorClass::Other => Self::Unavailable(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_rejected_change_is_unprocessable() {
        let of = |class| AttemptError::of_class(class, String::new());
        assert!(matches!(
            of(ErrorClass::Rejected),
            AttemptError::Unprocessable(_)
        ));
        assert_eq!(of(ErrorClass::Throttled), AttemptError::Throttled);
        assert_eq!(of(ErrorClass::Conflict), AttemptError::Conflict);
        for outage in [
            ErrorClass::Unavailable,
            ErrorClass::Timeout,
            ErrorClass::NotFound,
            ErrorClass::AccessDenied,
            ErrorClass::Credentials,
            ErrorClass::NotSent,
            ErrorClass::Other,
        ] {
            assert!(
                matches!(of(outage), AttemptError::Unavailable(_)),
                "{outage:?}"
            );
        }
    }
}
