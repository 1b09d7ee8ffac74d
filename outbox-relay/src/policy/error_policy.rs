//! Maps a failed send to its handling: an outage, which is retried, or a rejected event, which is
//! quarantined (the "error classes" rule).

use shared::aws::error::code_name;

use crate::ports::{EntryFailure, SendError};

/// Handling of a failed send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendFailure {
    /// Retry indefinitely: the event is not the cause. The kind is a metric label and the span
    /// attribute `error.type`.
    Outage { kind: String },
    /// The queue will never accept this message.
    Rejected { failure: String },
    /// The request was rejected because of an entry that the error does not name: send the entries
    /// one by one.
    Split,
}

/// Names of the error codes of SQS whose cause is the message itself. An operator may correct the
/// cause of every other error: permissions, keys, quotas, a missing queue.
const MESSAGE_ERRORS: [&str; 6] = [
    "InvalidMessageContents",
    "InvalidParameterValue",
    "InvalidAttributeValue",
    "MissingParameter",
    "MissingRequiredParameter",
    "BatchRequestTooLong",
];

/// Returns `true` if the message itself causes the error.
fn is_message_error(code: &str) -> bool {
    MESSAGE_ERRORS.contains(&code_name(code))
}

/// Returns the handling of a failed entry of a batch that was otherwise accepted.
pub fn of_entry(failure: &EntryFailure) -> SendFailure {
    if failure.sender_fault && is_message_error(&failure.code) {
        SendFailure::Rejected {
            failure: format!(
                "SQS rejected the message: {}: {}",
                failure.code, failure.message
            ),
        }
    } else {
        SendFailure::Outage {
            kind: failure.code.clone(),
        }
    }
}

/// Returns the handling of a failed batch with `entries` entries.
pub fn of_batch(error: &SendError, entries: usize) -> SendFailure {
    match error {
        SendError::Unavailable { kind, .. } => SendFailure::Outage { kind: kind.clone() },
        SendError::Refused { code, message } if is_message_error(code) => {
            if entries > 1 {
                SendFailure::Split
            } else {
                SendFailure::Rejected {
                    failure: format!("SQS rejected the message: {code}: {message}"),
                }
            }
        }
        SendError::Refused { code, .. } => SendFailure::Outage { kind: code.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(code: &str, sender_fault: bool) -> SendFailure {
        of_entry(&EntryFailure {
            code: code.to_owned(),
            message: "m".to_owned(),
            sender_fault,
        })
    }

    fn refused(code: &str, entries: usize) -> SendFailure {
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
            SendFailure::Rejected { .. }
        ));
        for (code, fault) in [
            ("InternalError", false),
            ("InvalidMessageContents", false),
            ("ThrottlingException", true),
            ("KmsThrottled", true),
            ("AccessDenied", true),
        ] {
            assert!(
                matches!(entry(code, fault), SendFailure::Outage { .. }),
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
                matches!(refused(code, 1), SendFailure::Outage { .. }),
                "{code}"
            );
        }
    }

    #[test]
    fn a_refused_batch_is_split_before_an_event_is_rejected() {
        assert_eq!(refused("InvalidMessageContents", 2), SendFailure::Split);
        assert!(matches!(
            refused("com.amazonaws.sqs#InvalidMessageContents", 1),
            SendFailure::Rejected { .. }
        ));
    }
}
