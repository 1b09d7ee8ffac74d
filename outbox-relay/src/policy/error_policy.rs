//! Maps a failed send to its handling: an outage, which is retried, or a rejected event, which is
//! quarantined (the "error classes" rule).

use crate::ports::{EntryFailure, SendError};

/// Handling of a failed send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// Retry indefinitely: the event is not the cause. The kind is a metric label and the span
    /// attribute `error.type`.
    Outage { kind: String },
    /// The queue will never accept this message.
    Rejected { failure: String },
    /// The request was rejected because of an entry that the error does not name: send the entries
    /// one by one.
    Split,
}

/// Error codes of SQS whose cause is the message itself. An operator may correct the cause of every
/// other error: permissions, keys, quotas, a missing queue.
const MESSAGE_AT_FAULT: [&str; 6] = [
    "InvalidMessageContents",
    "InvalidParameterValue",
    "InvalidAttributeValue",
    "MissingParameter",
    "MissingRequiredParameterException",
    "BatchRequestTooLong",
];

/// Returns `true` if the message itself causes the error. SDKs and services write codes as `Code`,
/// `CodeException`, `AWS.SimpleQueueService.Code` or `com.amazonaws.sqs#Code`.
fn is_message_error(code: &str) -> bool {
    let code = code.rsplit(['.', '#']).next().unwrap_or(code);
    MESSAGE_AT_FAULT.contains(&code)
}

/// Returns the handling of a failed entry of a batch that was otherwise accepted.
pub fn of_entry(failure: &EntryFailure) -> ErrorClass {
    if failure.sender_fault && is_message_error(&failure.code) {
        ErrorClass::Rejected {
            failure: format!(
                "SQS rejected the message: {}: {}",
                failure.code, failure.message
            ),
        }
    } else {
        ErrorClass::Outage {
            kind: failure.code.clone(),
        }
    }
}

/// Returns the handling of a failed batch with `entries` entries.
pub fn of_batch(error: &SendError, entries: usize) -> ErrorClass {
    match error {
        SendError::Unavailable { kind, .. } => ErrorClass::Outage { kind: kind.clone() },
        SendError::Refused { code, message } if is_message_error(code) => {
            if entries > 1 {
                ErrorClass::Split
            } else {
                ErrorClass::Rejected {
                    failure: format!("SQS rejected the message: {code}: {message}"),
                }
            }
        }
        SendError::Refused { code, .. } => ErrorClass::Outage { kind: code.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(code: &str, sender_fault: bool) -> ErrorClass {
        of_entry(&EntryFailure {
            code: code.to_owned(),
            message: "m".to_owned(),
            sender_fault,
        })
    }

    fn refused(code: &str, entries: usize) -> ErrorClass {
        let error = SendError::Refused {
            code: code.to_owned(),
            message: "m".to_owned(),
        };
        of_batch(&error, entries)
    }

    #[test]
    fn only_message_errors_reject_an_event() {
        assert!(matches!(
            entry("InvalidMessageContents", true),
            ErrorClass::Rejected { .. }
        ));
        for (code, fault) in [
            ("InternalError", false),
            ("InvalidMessageContents", false),
            ("ThrottlingException", true),
            ("KmsThrottled", true),
            ("AccessDenied", true),
        ] {
            assert!(
                matches!(entry(code, fault), ErrorClass::Outage { .. }),
                "{code}"
            );
        }
    }

    #[test]
    fn errors_that_an_operator_can_correct_are_outages() {
        for code in [
            "QueueDoesNotExist",
            "AWS.SimpleQueueService.NonExistentQueue",
            "AccessDenied",
            "ExpiredTokenException",
            "InvalidClientTokenId",
            "KmsAccessDenied",
            "RequestThrottled",
            // The endpoint is not SQS.
            "UnsupportedOperation",
            "UnknownOperationException",
        ] {
            assert!(
                matches!(refused(code, 1), ErrorClass::Outage { .. }),
                "{code}"
            );
        }
    }

    #[test]
    fn a_refused_batch_is_split_before_an_event_is_rejected() {
        assert_eq!(refused("InvalidMessageContents", 2), ErrorClass::Split);
        assert!(matches!(
            refused("com.amazonaws.sqs#InvalidMessageContents", 1),
            ErrorClass::Rejected { .. }
        ));
    }
}
