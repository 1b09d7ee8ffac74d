//! A transaction that changes two aggregates, each with its own event: money moves from one account
//! to another.
//!
//! The number of an account's last event is stored in the account. The transaction checks that it
//! is still the number that was read: of two concurrent transfers, one is cancelled and tried
//! again.
//!
//! ```sh
//! cargo run -p outbox --example two_aggregates
//! ```

use aws_config::BehaviorVersion;
use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{AttributeValue, TransactWriteItem, Update};
use outbox::{Aggregate, NewEvent, Outbox, Sequence};
use serde_json::json;

type Error = Box<dyn std::error::Error>;

/// Attempts to commit a transfer. Each one that fails lost against a concurrent transfer, or the
/// balance is too low.
const ATTEMPTS: u32 = 3;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let config = aws_config::load_defaults(BehaviorVersion::latest()).await;
    let dynamodb = Client::new(&config);
    let outbox = Outbox::new("outbox");
    for _ in 0..ATTEMPTS {
        if transfer(&dynamodb, &outbox, "a-1", "a-2", 500).await? {
            println!("transferred");
            return Ok(());
        }
    }
    Err("not transferred: the balance is too low, or the accounts are too busy".into())
}

/// Moves `amount` between two accounts. Returns `false` if an account changed in the meantime or
/// has too low a balance; nothing is written then.
async fn transfer(
    dynamodb: &Client,
    outbox: &Outbox,
    from: &str,
    to: &str,
    amount: i64,
) -> Result<bool, Error> {
    let withdrawn = next_event(dynamodb, from).await?;
    let deposited = next_event(dynamodb, to).await?;
    let event = |id: &str, sequence: Sequence, event_type: &str| {
        let payload = json!({ "account_id": id, "amount_minor": amount });
        let account = Aggregate {
            kind: "account",
            id,
        };
        NewEvent::new(account, sequence.get(), event_type, &payload)
    };
    let result = dynamodb
        .transact_write_items()
        .transact_items(book(from, withdrawn, -amount)?)
        .transact_items(book(to, deposited, amount)?)
        // One event per aggregate: an order between two events of one transaction is not promised.
        .transact_items(outbox.stage(event(from, withdrawn, "account.withdrawn")?)?)
        .transact_items(outbox.stage(event(to, deposited, "account.deposited")?)?)
        .send()
        .await;
    match result {
        Ok(_) => Ok(true),
        Err(error)
            if error
                .as_service_error()
                .is_some_and(|error| error.is_transaction_canceled_exception()) =>
        {
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

/// Returns the number of the account's next event; the first one, `account.opened`, has number 1.
async fn next_event(dynamodb: &Client, account: &str) -> Result<Sequence, Error> {
    let item = dynamodb
        .get_item()
        .table_name("accounts")
        .key("account_id", AttributeValue::S(account.to_owned()))
        .consistent_read(true)
        .send()
        .await?
        .item
        .ok_or_else(|| format!("account {account} does not exist"))?;
    Ok(Sequence::after(&item)?)
}

/// Returns the update of a balance whose event has the number `sequence`.
fn book(account: &str, sequence: Sequence, amount: i64) -> Result<TransactWriteItem, Error> {
    let number = |n: String| AttributeValue::N(n);
    let update = Update::builder()
        .table_name("accounts")
        .key("account_id", AttributeValue::S(account.to_owned()))
        .update_expression("SET balance = balance + :amount")
        // A withdrawal needs the amount on the account; a deposit passes with a negative bound.
        .condition_expression("balance >= :minimum")
        .expression_attribute_values(":amount", number(amount.to_string()))
        .expression_attribute_values(":minimum", number((-amount).to_string()));
    // The number is stored and checked by the same update.
    let update = sequence.update(update).build()?;
    Ok(TransactWriteItem::builder().update(update).build())
}
