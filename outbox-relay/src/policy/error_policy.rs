//! What a failed send means: an outage to sit out, or an event that can never
//! be sent.

use crate::ports::{EntryFailure, SendError};

/// What to do after a failure.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Try again, forever: nothing is wrong with the event. The kind is a
    /// metric label and `error.type`.
    Outage { kind: String },
    /// The queue says this message can never be sent.
    Rejected { failure: String },
    /// The request was refused for the sake of one of its entries, and nobody
    /// says which: send them one by one.
    Split,
}

/// Codes with which SQS says that a message is at fault. Everything it does
/// not name like this, an operator may heal: permissions, keys, quotas, a
/// missing queue.
const MESSAGE_AT_FAULT: [&str; 6] = [
    "InvalidMessageContents",
    "InvalidParameterValue",
    "InvalidAttributeValue",
    "MissingParameter",
    "MissingRequiredParameterException",
    "BatchRequestTooLong",
];

/// SDKs and services spell codes as `Code`, `CodeException`,
/// `AWS.SimpleQueueService.Code` or `com.amazonaws.sqs#Code`.
fn names_the_message(code: &str) -> bool {
    let code = code.rsplit(['.', '#']).next().unwrap_or(code);
    MESSAGE_AT_FAULT.contains(&code)
}

/// About one entry of a batch that otherwise went through.
pub fn of_entry(failure: &EntryFailure) -> Verdict {
    if failure.sender_fault && names_the_message(&failure.code) {
        Verdict::Rejected {
            failure: format!(
                "the queue refused it: {}: {}",
                failure.code, failure.message
            ),
        }
    } else {
        Verdict::Outage {
            kind: failure.code.clone(),
        }
    }
}

/// About a whole batch of `entries`.
pub fn of_batch(error: &SendError, entries: usize) -> Verdict {
    match error {
        SendError::Unavailable { kind, .. } => Verdict::Outage { kind: kind.clone() },
        SendError::Refused { code, message } if names_the_message(code) => {
            if entries > 1 {
                Verdict::Split
            } else {
                Verdict::Rejected {
                    failure: format!("the queue refused it: {code}: {message}"),
                }
            }
        }
        SendError::Refused { code, .. } => Verdict::Outage { kind: code.clone() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(code: &str, sender_fault: bool) -> Verdict {
        of_entry(&EntryFailure {
            code: code.to_owned(),
            message: "m".to_owned(),
            sender_fault,
        })
    }

    fn refused(code: &str, entries: usize) -> Verdict {
        let error = SendError::Refused {
            code: code.to_owned(),
            message: "m".to_owned(),
        };
        of_batch(&error, entries)
    }

    #[test]
    fn only_a_message_at_fault_is_rejected() {
        assert!(matches!(
            entry("InvalidMessageContents", true),
            Verdict::Rejected { .. }
        ));
        for (code, fault) in [
            ("InternalError", false),
            ("InvalidMessageContents", false),
            ("ThrottlingException", true),
            ("KmsThrottled", true),
            ("AccessDenied", true),
        ] {
            assert!(
                matches!(entry(code, fault), Verdict::Outage { .. }),
                "{code}"
            );
        }
    }

    #[test]
    fn what_an_operator_can_heal_is_an_outage() {
        for code in [
            "QueueDoesNotExist",
            "AWS.SimpleQueueService.NonExistentQueue",
            "AccessDenied",
            "ExpiredTokenException",
            "InvalidClientTokenId",
            "KmsAccessDenied",
            "RequestThrottled",
            // Something else than SQS stands at the endpoint.
            "UnsupportedOperation",
            "UnknownOperationException",
        ] {
            assert!(matches!(refused(code, 1), Verdict::Outage { .. }), "{code}");
        }
    }

    #[test]
    fn a_refused_batch_is_split_before_anything_is_rejected() {
        assert_eq!(refused("InvalidMessageContents", 2), Verdict::Split);
        assert!(matches!(
            refused("com.amazonaws.sqs#InvalidMessageContents", 1),
            Verdict::Rejected { .. }
        ));
    }
}
