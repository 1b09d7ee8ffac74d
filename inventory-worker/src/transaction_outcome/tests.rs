use std::sync::Arc;

use shared::order::{OrderId, PlacedLine};

use super::*;

/// Returns the transaction of orders with these (SKU, quantity) lines.
fn transaction(orders: &[&[(&str, u64)]]) -> Transaction {
    let order = |lines: &[(&str, u64)]| {
        let items = lines.iter().map(|(sku, quantity)| PlacedLine {
            sku: Sku::try_from((*sku).to_owned()).unwrap(),
            quantity: (*quantity).try_into().unwrap(),
        });
        TransactionOrder {
            order: Arc::new(OrderPlaced {
                order_id: OrderId::generate(),
                items: items.collect(),
            }),
            check: LinesCheck::Digest,
        }
    };
    Transaction::new(orders.iter().map(|lines| order(lines)).collect())
}

/// Returns the transaction of one order with a line of each quantity.
fn single(quantities: &[u64]) -> Transaction {
    let names: Vec<_> = (0..quantities.len()).map(|n| format!("SKU-{n}")).collect();
    let lines: Vec<_> = names
        .iter()
        .zip(quantities)
        .map(|(sku, quantity)| (sku.as_str(), *quantity))
        .collect();
    transaction(&[&lines])
}

fn code(code: &str) -> CancellationReason {
    CancellationReason::builder().code(code).build()
}

fn none() -> CancellationReason {
    code("None")
}

fn conflict() -> CancellationReason {
    code("TransactionConflict")
}

/// Returns the reason of a failed condition on an item with these attributes.
fn failed(attributes: &[(&str, AttributeValue)]) -> CancellationReason {
    let reason = CancellationReason::builder().code("ConditionalCheckFailed");
    let attributes = attributes.iter();
    attributes
        .fold(reason, |reason, (name, value)| {
            reason.item(*name, value.clone())
        })
        .build()
}

fn text(text: &str) -> AttributeValue {
    AttributeValue::S(text.to_owned())
}

fn status(status: &str) -> CancellationReason {
    failed(&[("status", text(status))])
}

fn available(count: &str) -> CancellationReason {
    failed(&[("available", AttributeValue::N(count.to_owned()))])
}

fn missing() -> CancellationReason {
    code("ConditionalCheckFailed")
}

fn short(reason: &str) -> Verdict {
    Verdict::InsufficientStock(format!("Not enough stock: {reason}"))
}

fn again() -> Verdict {
    Verdict::Again(LinesCheck::Digest)
}

fn verdicts(transaction: &Transaction, reasons: &[CancellationReason]) -> Vec<Verdict> {
    interpret(transaction, reasons).verdicts
}

/// Asserts that all orders are to be sent again after a pause for this reason.
#[track_caller]
fn assert_waits(
    transaction: &Transaction,
    reasons: &[CancellationReason],
    matches: impl Fn(&AttemptError) -> bool,
) {
    let interpretation = interpret(transaction, reasons);
    let expected = vec![again(); transaction.orders.len()];
    assert_eq!(interpretation.verdicts, expected);
    let wait_for = interpretation.wait_for;
    assert!(wait_for.as_ref().is_some_and(matches), "{wait_for:?}");
}

fn is_conflict(error: &AttemptError) -> bool {
    *error == AttemptError::Conflict
}

fn is_unavailable(error: &AttemptError) -> bool {
    matches!(error, AttemptError::Unavailable(_))
}

fn unprocessable(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Unprocessable(_))
}

#[test]
fn a_final_order_is_a_duplicate_whatever_the_other_reasons_are() {
    for settled in ["PROCESSED", "REJECTED"] {
        for other in [
            none(),
            missing(),
            available("0"),
            conflict(),
            code("ThrottlingError"),
            code("ValidationError"),
        ] {
            let found = verdicts(&single(&[1]), &[status(settled), other]);
            assert_eq!(found, [Verdict::Duplicate]);
        }
    }
}

#[test]
fn a_duplicate_is_left_out_and_the_others_are_sent_again_at_once() {
    let batch = transaction(&[&[("A", 1)], &[("A", 2)], &[("A", 3)]]);
    let reasons = [none(), status("PROCESSED"), none(), none()];
    let found = interpret(&batch, &reasons);
    assert_eq!(found.verdicts, [again(), Verdict::Duplicate, again()]);
    assert_eq!(found.wait_for, None);
}

#[test]
fn a_shortage_states_the_wanted_and_the_available_quantity() {
    assert_eq!(
        verdicts(&single(&[5]), &[none(), available("3")]),
        [short("SKU SKU-0 has 3 available, 5 wanted")]
    );
}

#[test]
fn an_unknown_sku_is_a_shortage() {
    let empty = CancellationReason::builder()
        .code("ConditionalCheckFailed")
        .set_item(Some(HashMap::new()))
        .build();
    for absent in [missing(), empty] {
        assert_eq!(
            verdicts(&single(&[5]), &[none(), absent]),
            [short("SKU SKU-0 is unknown (5 wanted)")]
        );
    }
}

#[test]
fn the_reason_names_every_short_line_and_no_other() {
    assert_eq!(
        verdicts(
            &single(&[2, 3, 4]),
            &[none(), available("1"), none(), missing()]
        ),
        [short(
            "SKU SKU-0 has 1 available, 2 wanted; SKU SKU-2 is unknown (4 wanted)"
        )]
    );
}

#[test]
fn stock_is_allotted_in_the_order_of_arrival() {
    let batch = transaction(&[
        &[("A", 4)],
        &[("A", 9)],
        &[("A", 3)],
        &[("A", 2)],
        &[("A", 1)],
    ]);
    let reasons = [none(), none(), none(), none(), none(), available("8")];
    let found = interpret(&batch, &reasons);
    // 4 and 3 fit into 8, and 9 never does. Whether 2 fits is known when they are processed, and
    // whether 1 fits only after that: the order of 2 arrived before it.
    assert_eq!(
        found.verdicts,
        [
            again(),
            short("SKU A has 8 available, 9 wanted"),
            again(),
            Verdict::After,
            Verdict::After,
        ]
    );
    assert_eq!(found.wait_for, None);
}

#[test]
fn a_shortage_rejects_only_the_orders_that_need_the_sku() {
    let batch = transaction(&[&[("A", 1), ("B", 1)], &[("A", 1)], &[("A", 1), ("C", 1)]]);
    // Stock of A, B and C.
    let reasons = [none(), none(), none(), none(), available("0"), none()];
    assert_eq!(
        verdicts(&batch, &reasons),
        [short("SKU B has 0 available, 1 wanted"), again(), again()]
    );
}

#[test]
fn orders_that_exhaust_the_stock_exactly_fit() {
    let batch = transaction(&[&[("A", 2)], &[("A", 3)], &[("A", 1)]]);
    let reasons = [none(), none(), none(), available("5")];
    assert_eq!(
        verdicts(&batch, &reasons),
        [again(), again(), Verdict::After]
    );
}

#[test]
fn a_duplicate_takes_none_of_the_stock() {
    let batch = transaction(&[&[("A", 5)], &[("A", 3)]]);
    let reasons = [status("PROCESSED"), none(), available("4")];
    let found = interpret(&batch, &reasons);
    assert_eq!(found.verdicts, [Verdict::Duplicate, again()]);
    assert_eq!(found.wait_for, None);
}

#[test]
fn a_conflict_beside_a_shortage_is_retried() {
    for reasons in [
        [conflict(), available("0"), none()],
        [none(), available("0"), conflict()],
        [none(), conflict(), none()],
    ] {
        assert_waits(&single(&[1, 1]), &reasons, is_conflict);
    }
    let batch = transaction(&[&[("A", 5)], &[("A", 3)]]);
    assert_waits(&batch, &[none(), none(), conflict()], is_conflict);
}

#[test]
fn throttling_beside_a_shortage_is_retried() {
    for throttled in ["ThrottlingError", "ProvisionedThroughputExceeded"] {
        let reasons = [conflict(), available("0"), code(throttled)];
        assert_waits(&single(&[1, 1]), &reasons, |error| {
            *error == AttemptError::Throttled
        });
    }
}

#[test]
fn an_order_that_does_not_exist_is_neither_rejected_nor_deleted() {
    for other in [none(), available("0")] {
        assert!(unprocessable(
            &verdicts(&single(&[1]), &[missing(), other])[0]
        ));
    }
}

#[test]
fn an_unknown_status_is_unprocessable() {
    let no_status = failed(&[("version", AttributeValue::N("1".to_owned()))]);
    for stored in [status("SHIPPED"), no_status] {
        assert!(unprocessable(
            &verdicts(&single(&[1]), &[stored, none()])[0]
        ));
    }
}

#[test]
fn other_lines_than_those_of_the_stored_order_are_unprocessable() {
    let batch = transaction(&[&[("A", 5)], &[("A", 3)]]);
    let other_digest = failed(&[
        ("status", text("CREATED")),
        ("items_digest", text("another")),
    ]);
    let no_lines = status("CREATED");
    for stored in [other_digest, no_lines] {
        let found = interpret(&batch, &[stored, none(), none()]);
        assert!(unprocessable(&found.verdicts[0]));
        assert_eq!(found.verdicts[1], again());
        assert_eq!(found.wait_for, None);
    }
}

#[test]
fn an_order_without_a_digest_is_sent_again_when_its_lines_agree() {
    let line = HashMap::from([
        ("sku".to_owned(), text("SKU-0")),
        ("quantity".to_owned(), AttributeValue::N("3".to_owned())),
    ]);
    let items = AttributeValue::L(vec![AttributeValue::M(line)]);
    let stored = || failed(&[("status", text("CREATED")), ("items", items.clone())]);
    let found = interpret(&single(&[3]), &[stored(), none()]);
    assert_eq!(found.verdicts, [Verdict::Again(LinesCheck::Compared)]);
    assert_eq!(found.wait_for, None);
    let found = interpret(&single(&[4]), &[stored(), none()]);
    assert!(unprocessable(&found.verdicts[0]));
}

#[test]
fn a_stored_item_of_the_wrong_shape_concerns_its_own_orders_only() {
    let batch = transaction(&[&[("A", 1)], &[("A", 1), ("B", 1)]]);
    let wrong = failed(&[("available", text("7"))]);
    for of_b in [code("ValidationError"), wrong] {
        let found = interpret(&batch, &[none(), none(), none(), of_b]);
        assert_eq!(found.verdicts[0], again());
        assert!(unprocessable(&found.verdicts[1]));
        assert_eq!(found.wait_for, None);
    }
    let found = verdicts(&batch, &[code("ValidationError"), none(), none(), none()]);
    assert!(unprocessable(&found[0]));
    assert_eq!(found[1], again());
}

#[test]
fn a_failed_condition_that_holds_by_now_is_retried() {
    let order = single(&[1]);
    let digest = order.orders[0].order.items_digest();
    let created = failed(&[("status", text("CREATED")), ("items_digest", text(&digest))]);
    for reasons in [
        [none(), available("1")],
        [created, none()],
        [none(), none()],
    ] {
        assert_waits(&order, &reasons, is_conflict);
    }
}

#[test]
fn reasons_that_do_not_match_the_transaction_decide_nothing() {
    for reasons in [vec![], vec![none()], vec![none(), missing(), none()]] {
        assert_waits(&single(&[1]), &reasons, is_unavailable);
    }
    let unknown = [none(), code("AccessDenied")];
    assert_waits(&single(&[1]), &unknown, is_unavailable);
}
