//! What the outcome of a transaction means, over plain data.
//!
//! The rules: never report an order that does not exist, never create a second
//! one, and never guess. Identifiers are made here and used once, so an order
//! of ours that is already there can only be our own earlier attempt.

use shared::order::OrderId;

use super::idempotency::KeyRecord;
use crate::store::{Failure, Reason};

/// The actions of the transaction, in this order; cancellation reasons come in
/// it too.
pub(super) const ORDER: usize = 0;
pub(super) const KEY: usize = 2;

/// What to do after a transaction failed.
#[derive(Debug, PartialEq)]
pub(super) enum Verdict {
    /// An earlier attempt of this request took effect.
    Committed,
    /// The key belongs to an earlier request.
    KeyUsed(KeyRecord),
    /// It did not happen because of another transaction; send it again soon.
    Conflict,
    /// It did not happen because of load; send it again, but not often.
    Throttled,
    /// It did not happen for want of a table; that may heal, but not soon.
    Unavailable,
    /// It may have happened: look before anything else.
    Look,
    /// It did not happen and never will.
    Refused,
}

/// Decides on `failure` of the transaction that was to create `own`.
pub(super) fn interpret(failure: Failure, own: OrderId) -> Verdict {
    match failure {
        Failure::Cancelled(reasons) => cancelled(reasons, own),
        Failure::Throttled => Verdict::Throttled,
        Failure::MissingTable => Verdict::Unavailable,
        Failure::Refused => Verdict::Refused,
        Failure::Unknown => Verdict::Look,
    }
}

fn cancelled(mut reasons: Vec<Reason>, own: OrderId) -> Verdict {
    const CONDITION: &str = "ConditionalCheckFailed";
    let has = |code: &[&str]| reasons.iter().any(|r| code.contains(&r.code.as_str()));

    // Asked before everything else: it proves that we are done.
    if reasons.get(ORDER).is_some_and(|r| r.code == CONDITION) {
        return Verdict::Committed;
    }
    let conflict = has(&["TransactionConflict"]);
    let throttled = has(&["ThrottlingError", "ProvisionedThroughputExceeded"]);
    if reasons.get(KEY).is_some_and(|r| r.code == CONDITION) {
        let item = reasons.swap_remove(KEY).item;
        return match item.map(KeyRecord::from_item) {
            Some(Ok(record)) if record.order_id == own => Verdict::Committed,
            Some(Ok(record)) => Verdict::KeyUsed(record),
            Some(Err(_)) | None => Verdict::Refused,
        };
    }
    if conflict {
        Verdict::Conflict
    } else if throttled {
        Verdict::Throttled
    } else {
        Verdict::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(codes: [&str; 3], record: Option<&KeyRecord>) -> Failure {
        let mut reasons: Vec<_> = codes
            .into_iter()
            .map(|code| Reason {
                code: code.to_owned(),
                item: None,
            })
            .collect();
        reasons[KEY].item = record.map(|record| record.to_item().unwrap());
        Failure::Cancelled(reasons)
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
    fn our_own_order_in_the_way_means_it_was_committed() {
        let own = OrderId::generate();
        for failure in [
            reasons([CHECK, CHECK, CHECK], Some(&record(own))),
            reasons([CHECK, NONE, NONE], None),
            reasons([CHECK, CONFLICT, CONFLICT], None),
            reasons([NONE, NONE, CHECK], Some(&record(own))),
        ] {
            assert_eq!(interpret(failure, own), Verdict::Committed);
        }
        let without_key = Failure::Cancelled(vec![
            Reason {
                code: CHECK.to_owned(),
                item: None,
            },
            Reason::default(),
        ]);
        assert_eq!(interpret(without_key, own), Verdict::Committed);
    }

    #[test]
    fn a_record_of_another_order_means_the_key_is_used() {
        let other = record(OrderId::generate());
        for codes in [[NONE, NONE, CHECK], [NONE, CONFLICT, CHECK]] {
            assert_eq!(
                interpret(reasons(codes, Some(&other)), OrderId::generate()),
                Verdict::KeyUsed(other.clone())
            );
        }
    }

    #[test]
    fn conflicts_and_throttling_did_not_happen() {
        let own = OrderId::generate();
        for (codes, verdict) in [
            ([NONE, NONE, CONFLICT], Verdict::Conflict),
            ([CONFLICT, "ThrottlingError", NONE], Verdict::Conflict),
            ([NONE, "ThrottlingError", NONE], Verdict::Throttled),
            (
                ["ProvisionedThroughputExceeded", NONE, NONE],
                Verdict::Throttled,
            ),
            ([NONE, "ValidationError", NONE], Verdict::Refused),
            (
                [NONE, "ItemCollectionSizeLimitExceeded", NONE],
                Verdict::Refused,
            ),
            // The event of an order that is not there: nothing of ours.
            ([NONE, CHECK, NONE], Verdict::Refused),
        ] {
            assert_eq!(interpret(reasons(codes, None), own), verdict, "{codes:?}");
        }
    }

    #[test]
    fn a_record_that_cannot_be_read_is_never_guessed_at() {
        let own = OrderId::generate();
        assert_eq!(
            interpret(reasons([NONE, NONE, CHECK], None), own),
            Verdict::Refused
        );
        let Failure::Cancelled(mut odd) = reasons([NONE, NONE, CHECK], Some(&record(own))) else {
            unreachable!("it was made as such");
        };
        odd[KEY].item.as_mut().unwrap().remove("order_id");
        assert_eq!(interpret(Failure::Cancelled(odd), own), Verdict::Refused);
    }

    #[test]
    fn what_may_have_happened_is_looked_at() {
        let own = OrderId::generate();
        assert_eq!(interpret(Failure::Unknown, own), Verdict::Look);
        assert_eq!(interpret(Failure::Throttled, own), Verdict::Throttled);
        assert_eq!(interpret(Failure::MissingTable, own), Verdict::Unavailable);
        assert_eq!(interpret(Failure::Refused, own), Verdict::Refused);
        assert_eq!(
            interpret(Failure::Cancelled(Vec::new()), own),
            Verdict::Refused
        );
    }
}
