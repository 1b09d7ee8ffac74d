//! Why an attempt did not settle an order, and what a failed request says by its
//! error code. (What a cancelled transaction says is `outcome`'s.)

/// Why an attempt did not settle the order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AttemptError {
    /// Another writer holds an item; over in milliseconds.
    #[error("another transaction holds an item of this order")]
    Conflict,
    #[error("DynamoDB throttles")]
    Throttled,
    /// Away, or the outcome is unknown. Trying again is safe.
    #[error("DynamoDB does not answer: {0}")]
    Unavailable(String),
    /// Trying again cannot help; for the dead-letter queue.
    #[error("{0}")]
    Impossible(String),
}

impl AttemptError {
    /// The class, for OpenTelemetry's `error.type`.
    pub(crate) fn error_type(&self) -> &'static str {
        match self {
            Self::Conflict => "transaction_conflict",
            Self::Throttled => "throttled",
            Self::Unavailable(_) => "unavailable",
            Self::Impossible(_) => "impossible",
        }
    }
}

/// What a failed request says by its error code; `text` is for the log.
pub(crate) fn of_error_code(code: Option<&str>, text: String) -> AttemptError {
    match code {
        Some(
            "ThrottlingException"
            | "ProvisionedThroughputExceededException"
            | "RequestLimitExceeded"
            | "LimitExceededException",
        ) => AttemptError::Throttled,
        Some(
            "TransactionConflictException"
            | "TransactionInProgressException"
            | "ReplicatedWriteConflictException",
        ) => AttemptError::Conflict,
        Some("ValidationException" | "ItemCollectionSizeLimitExceededException") => {
            AttemptError::Impossible(format!("DynamoDB refuses the change: {text}"))
        }
        // Also a missing table and missing rights: an operator's to heal, and
        // no fault of the message.
        _ => AttemptError::Unavailable(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_message_can_never_pass_is_impossible() {
        let of = |code| of_error_code(code, String::new());
        assert!(matches!(
            of(Some("ValidationException")),
            AttemptError::Impossible(_)
        ));
        assert_eq!(of(Some("ThrottlingException")), AttemptError::Throttled);
        assert_eq!(
            of(Some("TransactionInProgressException")),
            AttemptError::Conflict
        );
        for outage in [
            Some("InternalServerError"),
            Some("ResourceNotFoundException"),
            Some("AccessDeniedException"),
            Some("ExpiredTokenException"),
            None,
        ] {
            assert!(
                matches!(of(outage), AttemptError::Unavailable(_)),
                "{outage:?}"
            );
        }
    }
}
