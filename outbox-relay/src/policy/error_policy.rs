//! Maps a failed send to its handling: an outage, which is retried, or a rejected event, which is
//! quarantined (the "error classes" rule).
//!
//! A code of neither list may be either: an emulator, a proxy or a later release of SQS refuses a
//! message by a code of its own. Such an event is isolated and retried by itself, and never
//! quarantined without an operator.

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
    /// The request was rejected, possibly because of an entry that the error does not name: send
    /// the entries one by one. `blocks_queue`: the queue may be the cause as well.
    Split { blocks_queue: bool },
    /// The queue accepts other events, and refuses this one by a code that does not say why: retry
    /// it without delaying others.
    Alone { code: String, message: String },
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

/// Parts of the names of error codes whose cause is the queue, the caller or the load.
const OUTAGE_ERRORS: [&str; 16] = [
    "QueueDoesNotExist",
    "NonExistentQueue",
    "QueueDeletedRecently",
    "AccessDenied",
    "UnauthorizedOperation",
    "Throttl",
    "OverLimit",
    "Kms",
    "KMS",
    "Token",
    "Credential",
    "Signature",
    "Security",
    "Expired",
    "InvalidAddress",
    "UnsupportedOperation",
];

/// Returns `true` if an error with this code would also fail any other message.
fn is_outage_error(code: &str) -> bool {
    let name = code_name(code);
    name.starts_with("Unknown") || OUTAGE_ERRORS.iter().any(|part| name.contains(part))
}

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

/// Returns the handling of a failed batch with `entries` entries. `is_accepting`: the queue
/// accepted another batch since the last one that failed.
pub fn of_batch(error: &SendError, entries: usize, is_accepting: bool) -> SendFailure {
    match error {
        SendError::Unavailable { kind, .. } => SendFailure::Outage { kind: kind.clone() },
        SendError::Refused { code, .. } if is_outage_error(code) => {
            SendFailure::Outage { kind: code.clone() }
        }
        SendError::Refused { code, .. } if entries > 1 => SendFailure::Split {
            blocks_queue: !is_message_error(code) && !is_accepting,
        },
        SendError::Refused { code, message } if is_message_error(code) => SendFailure::Rejected {
            failure: format!("SQS rejected the message: {code}: {message}"),
        },
        SendError::Refused { code, message } if is_accepting => SendFailure::Alone {
            code: code.clone(),
            message: message.clone(),
        },
        SendError::Refused { code, .. } => SendFailure::Outage { kind: code.clone() },
    }
}

/// Returns the first failure if the queue accepted no entry of a batch and none is at fault by
/// itself; that is treated as an outage of the queue, unless the queue accepts other events and
/// the entry was alone.
pub fn outage_of(
    results: &[Result<String, EntryFailure>],
    is_accepting: bool,
) -> Option<&EntryFailure> {
    let is_outage =
        |failure: &&EntryFailure| matches!(of_entry(failure), SendFailure::Outage { .. });
    let failures: Option<Vec<_>> = results
        .iter()
        .map(|result| result.as_ref().err().filter(is_outage))
        .collect();
    let first = failures?.first().copied()?;
    let may_be_the_entry = first.sender_fault && !is_outage_error(&first.code);
    (results.len() > 1 || !may_be_the_entry || !is_accepting).then_some(first)
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

    fn refused(code: &str, entries: usize, is_accepting: bool) -> SendFailure {
        let error = SendError::Refused {
            code: code.to_owned(),
            message: "m".to_owned(),
        };
        of_batch(&error, entries, is_accepting)
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
            for (entries, is_accepting) in [(1, false), (1, true), (2, true)] {
                assert!(
                    matches!(
                        refused(code, entries, is_accepting),
                        SendFailure::Outage { .. }
                    ),
                    "{code}"
                );
            }
        }
    }

    #[test]
    fn an_unlisted_code_isolates_the_event_and_blocks_only_a_queue_that_accepts_nothing() {
        for is_accepting in [false, true] {
            assert_eq!(
                refused("RequestEntityTooLarge", 2, is_accepting),
                SendFailure::Split {
                    blocks_queue: !is_accepting
                }
            );
        }
        assert!(matches!(
            refused("RequestEntityTooLarge", 1, false),
            SendFailure::Outage { .. }
        ));
        assert!(matches!(
            refused("RequestEntityTooLarge", 1, true),
            SendFailure::Alone { .. }
        ));
    }

    #[test]
    fn a_batch_without_any_accepted_entry_is_an_outage_unless_the_only_entry_may_be_at_fault() {
        let failed = |code: &str, sender_fault| {
            Err(EntryFailure {
                code: code.to_owned(),
                message: "m".to_owned(),
                sender_fault,
            })
        };
        let outage = |results: &[Result<String, EntryFailure>], is_accepting| {
            outage_of(results, is_accepting).is_some()
        };
        let (internal, unlisted) = (failed("InternalError", false), failed("Unlisted", true));
        assert!(outage(std::slice::from_ref(&internal), true));
        assert!(outage(&[internal.clone(), internal.clone()], true));
        assert!(!outage(&[internal, Ok("id".to_owned())], false));
        assert!(!outage(std::slice::from_ref(&unlisted), true));
        assert!(outage(std::slice::from_ref(&unlisted), false));
        assert!(outage(&[unlisted.clone(), unlisted], true));
        assert!(outage(&[failed("KmsThrottled", true)], true));
        assert!(!outage(&[failed("InvalidMessageContents", true)], false));
    }

    #[test]
    fn a_refused_batch_is_split_before_an_event_is_rejected() {
        assert_eq!(
            refused("InvalidMessageContents", 2, false),
            SendFailure::Split {
                blocks_queue: false
            }
        );
        assert!(matches!(
            refused("com.amazonaws.sqs#InvalidMessageContents", 1, false),
            SendFailure::Rejected { .. }
        ));
    }
}
