//! Decides what the outcome of a transaction means, over plain data.
//!
//! The rules: never report an order that does not exist, never create a second one, and never
//! guess. Order ids are generated here and used once, so a stored order with the id of this request
//! can only stem from an earlier attempt of this request.

use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::operation::transact_write_items::TransactWriteItemsError;
use aws_sdk_dynamodb::types::CancellationReason;
use shared::aws::error::{ErrorClass, classify};
use shared::order::OrderId;

use super::idempotency::KeyRecord;

/// Positions of the transaction's actions, and so of its cancellation reasons.
pub(super) const ORDER: usize = 0;
pub(super) const KEY: usize = 2;
pub(super) const UNSCOPED_KEY: usize = 3;

/// Outcome of a failed transaction.
#[derive(Debug, PartialEq)]
pub(super) enum CommitOutcome {
    /// An earlier attempt of this request took effect.
    Committed,
    /// The key belongs to an earlier request, which wrote this record.
    KeyUsed(KeyRecord),
    /// An earlier release wrote this record for the key, of this or of another customer.
    UnscopedKeyUsed(KeyRecord),
    /// No effect, because of another transaction. Retry soon.
    Conflict,
    /// No effect, because DynamoDB throttles. Retry a few times at most.
    Throttled,
    /// No effect, because a table does not exist. It may be created, but not soon.
    Unavailable,
    /// No effect, because the credentials of this process are not valid or lack a permission. An
    /// operator may correct it, but not soon.
    CredentialsRejected,
    /// The transaction may have taken effect. Read the order before anything else.
    Unknown,
    /// No effect, and repeating the transaction has none.
    Rejected,
}

/// Returns the outcome of the transaction that was to create the order `own` and failed with
/// `error`.
pub(super) fn interpret(error: &SdkError<TransactWriteItemsError>, own: OrderId) -> CommitOutcome {
    match error.as_service_error() {
        Some(TransactWriteItemsError::TransactionCanceledException(cancelled)) => {
            interpret_cancellation(cancelled.cancellation_reasons(), own)
        }
        _ => interpret_class(classify(error)),
    }
}

fn interpret_class(class: ErrorClass) -> CommitOutcome {
    match class {
        ErrorClass::Throttled => CommitOutcome::Throttled,
        ErrorClass::NotFound => CommitOutcome::Unavailable,
        // A conflict of the whole request is an earlier attempt with the same token in progress.
        ErrorClass::Unavailable | ErrorClass::Timeout | ErrorClass::Conflict => {
            CommitOutcome::Unknown
        }
        ErrorClass::AccessDenied | ErrorClass::Credentials => CommitOutcome::CredentialsRejected,
        ErrorClass::ConditionFailed
        | ErrorClass::Rejected
        | ErrorClass::NotSent
        | ErrorClass::Other => CommitOutcome::Rejected,
    }
}

fn interpret_cancellation(reasons: &[CancellationReason], own: OrderId) -> CommitOutcome {
    const CONDITION: &str = "ConditionalCheckFailed";
    let is = |reason: &CancellationReason, code| reason.code() == Some(code);
    let any = |code| reasons.iter().any(|reason| is(reason, code));

    // First, because it proves that this request's order is stored.
    if reasons.get(ORDER).is_some_and(|r| is(r, CONDITION)) {
        return CommitOutcome::Committed;
    }
    if let Some(key) = reasons.get(KEY).filter(|r| is(r, CONDITION)) {
        return match key.item().cloned().map(KeyRecord::from_item) {
            Some(Ok(record)) if record.order_id == own => CommitOutcome::Committed,
            Some(Ok(record)) => CommitOutcome::KeyUsed(record),
            Some(Err(_)) | None => CommitOutcome::Rejected,
        };
    }
    if let Some(key) = reasons.get(UNSCOPED_KEY).filter(|r| is(r, CONDITION)) {
        return match key.item().cloned().map(KeyRecord::from_item) {
            Some(Ok(record)) => CommitOutcome::UnscopedKeyUsed(record),
            Some(Err(_)) | None => CommitOutcome::Rejected,
        };
    }
    if any("TransactionConflict") {
        CommitOutcome::Conflict
    } else if any("ThrottlingError") || any("ProvisionedThroughputExceeded") {
        CommitOutcome::Throttled
    } else {
        CommitOutcome::Rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(code: &str, record: Option<&KeyRecord>) -> CancellationReason {
        CancellationReason::builder()
            .code(code)
            .set_item(record.map(|record| record.to_item().unwrap()))
            .build()
    }

    fn reasons(codes: [&str; 3], record: Option<&KeyRecord>) -> Vec<CancellationReason> {
        let [order, event, key] = codes;
        vec![
            reason(order, None),
            reason(event, None),
            reason(key, record),
        ]
    }

    fn record(order_id: OrderId) -> KeyRecord {
        KeyRecord {
            idempotency_key: "k".to_owned(),
            request_hash: "h".to_owned(),
            order_id,
            expires_at: 1,
        }
    }

    const NONE: &str = "None";
    const CHECK: &str = "ConditionalCheckFailed";
    const CONFLICT: &str = "TransactionConflict";

    #[test]
    fn a_stored_order_of_this_request_means_that_it_is_committed() {
        let own = OrderId::generate();
        for reasons in [
            reasons([CHECK, CHECK, CHECK], Some(&record(own))),
            reasons([CHECK, NONE, NONE], None),
            reasons([CHECK, CONFLICT, CONFLICT], None),
            reasons([NONE, NONE, CHECK], Some(&record(own))),
            // Without a key.
            vec![reason(CHECK, None), reason(NONE, None)],
        ] {
            assert_eq!(
                interpret_cancellation(&reasons, own),
                CommitOutcome::Committed
            );
        }
    }

    #[test]
    fn a_record_of_another_order_means_that_the_key_is_used() {
        let other = record(OrderId::generate());
        for codes in [[NONE, NONE, CHECK], [NONE, CONFLICT, CHECK]] {
            assert_eq!(
                interpret_cancellation(&reasons(codes, Some(&other)), OrderId::generate()),
                CommitOutcome::KeyUsed(other.clone())
            );
        }
    }

    #[test]
    fn a_record_of_an_earlier_release_counts_unless_there_is_one_of_this_release() {
        let [scoped, unscoped] = [(); 2].map(|()| record(OrderId::generate()));
        let with = |key, record: &KeyRecord, old_key, old_record: &KeyRecord| {
            let reasons = [
                reason(NONE, None),
                reason(NONE, None),
                reason(key, Some(record)),
                reason(old_key, Some(old_record)),
            ];
            interpret_cancellation(&reasons, OrderId::generate())
        };
        assert_eq!(
            with(NONE, &scoped, CHECK, &unscoped),
            CommitOutcome::UnscopedKeyUsed(unscoped.clone())
        );
        assert_eq!(
            with(CHECK, &scoped, CHECK, &unscoped),
            CommitOutcome::KeyUsed(scoped.clone())
        );
    }

    #[test]
    fn a_cancelled_transaction_had_no_effect() {
        let own = OrderId::generate();
        for (codes, outcome) in [
            ([NONE, NONE, CONFLICT], CommitOutcome::Conflict),
            ([CONFLICT, "ThrottlingError", NONE], CommitOutcome::Conflict),
            ([NONE, "ThrottlingError", NONE], CommitOutcome::Throttled),
            (
                ["ProvisionedThroughputExceeded", NONE, NONE],
                CommitOutcome::Throttled,
            ),
            ([NONE, "ValidationError", NONE], CommitOutcome::Rejected),
            (
                [NONE, "ItemCollectionSizeLimitExceeded", NONE],
                CommitOutcome::Rejected,
            ),
            // An event of an order that does not exist: not of this request.
            ([NONE, CHECK, NONE], CommitOutcome::Rejected),
        ] {
            assert_eq!(
                interpret_cancellation(&reasons(codes, None), own),
                outcome,
                "{codes:?}"
            );
        }
        assert_eq!(interpret_cancellation(&[], own), CommitOutcome::Rejected);
    }

    #[test]
    fn a_malformed_key_record_is_never_guessed_at() {
        let own = OrderId::generate();
        assert_eq!(
            interpret_cancellation(&reasons([NONE, NONE, CHECK], None), own),
            CommitOutcome::Rejected
        );
        let mut item = record(own).to_item().unwrap();
        item.remove("order_id");
        let malformed = CancellationReason::builder()
            .code(CHECK)
            .set_item(Some(item))
            .build();
        let reasons = [reason(NONE, None), reason(NONE, None), malformed];
        assert_eq!(
            interpret_cancellation(&reasons, own),
            CommitOutcome::Rejected
        );
    }

    #[test]
    fn an_outcome_is_unknown_unless_the_error_excludes_an_effect() {
        for (class, outcome) in [
            (ErrorClass::Unavailable, CommitOutcome::Unknown),
            (ErrorClass::Timeout, CommitOutcome::Unknown),
            (ErrorClass::Conflict, CommitOutcome::Unknown),
            (ErrorClass::Throttled, CommitOutcome::Throttled),
            (ErrorClass::NotFound, CommitOutcome::Unavailable),
            (ErrorClass::AccessDenied, CommitOutcome::CredentialsRejected),
            (ErrorClass::Credentials, CommitOutcome::CredentialsRejected),
            (ErrorClass::Rejected, CommitOutcome::Rejected),
            (ErrorClass::NotSent, CommitOutcome::Rejected),
            (ErrorClass::Other, CommitOutcome::Rejected),
        ] {
            assert_eq!(interpret_class(class), outcome, "{class:?}");
        }
    }
}
