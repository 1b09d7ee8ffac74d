//! Reads from a request which items it writes.

use std::borrow::Cow;
use std::collections::BTreeMap;

use dynoxide::AttributeValue;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::item_id::{Attributes, ItemId, key_text, table_name};
use super::key_schemas::KeySchemas;
use super::partiql;

/// `PutItem`, `UpdateItem`, `DeleteItem`, or one action of a transaction. Fields that are not
/// needed here are not read.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Action<'a> {
    #[serde(borrow)]
    table_name: Cow<'a, str>,
    #[serde(borrow)]
    item: Option<Attributes<'a>>,
    #[serde(borrow)]
    key: Option<Attributes<'a>>,
}

impl Action<'_> {
    async fn item(&self, schemas: &KeySchemas) -> Option<ItemId> {
        let table = table_name(&self.table_name);
        let schema = schemas.get(table).await?;
        ItemId::of(table, &schema, self.key.as_ref().or(self.item.as_ref())?)
    }
}

/// The items of `TransactWriteItems` and `TransactGetItems`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Transaction<'a> {
    // Each element has one field, named after the kind of the action.
    #[serde(borrow)]
    transact_items: Vec<BTreeMap<String, Action<'a>>>,
}

/// `BatchWriteItem`: lists of `PutRequest` or `DeleteRequest` by table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchWrite<'a> {
    #[serde(borrow)]
    request_items: BTreeMap<String, Vec<BTreeMap<String, BTreeMap<String, Attributes<'a>>>>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchExecute<'a> {
    #[serde(borrow)]
    statements: Vec<Statement<'a>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Statement<'a> {
    #[serde(borrow)]
    statement: Cow<'a, str>,
    #[serde(borrow, default)]
    parameters: Vec<&'a RawValue>,
}

/// Returns the item that a `PutItem`, `UpdateItem` or `DeleteItem` writes. `None`, here and below:
/// the request does not name an item of an existing table, or not in a form that is understood.
pub(super) async fn of_write(body: &[u8], schemas: &KeySchemas) -> Option<ItemId> {
    let action: Action<'_> = serde_json::from_slice(body).ok()?;
    action.item(schemas).await
}

/// Returns the items of a `TransactWriteItems` or `TransactGetItems`, in order, with those that are
/// only checked or read.
pub(super) async fn of_transaction(body: &[u8], schemas: &KeySchemas) -> Vec<Option<ItemId>> {
    let Ok(transaction) = serde_json::from_slice::<Transaction<'_>>(body) else {
        return Vec::new();
    };
    let mut items = Vec::with_capacity(transaction.transact_items.len());
    for action in &transaction.transact_items {
        items.push(match action.values().next() {
            Some(action) => action.item(schemas).await,
            None => None,
        });
    }
    items
}

/// Returns the items of a `BatchWriteItem`, by table and in order.
pub(super) async fn of_batch_write(
    body: &[u8],
    schemas: &KeySchemas,
) -> BTreeMap<String, Vec<Option<ItemId>>> {
    let Ok(batch) = serde_json::from_slice::<BatchWrite<'_>>(body) else {
        return BTreeMap::new();
    };
    let mut items = BTreeMap::new();
    for (name, requests) in &batch.request_items {
        let table = table_name(name);
        let schema = schemas.get(table).await;
        let item = |request: &BTreeMap<String, BTreeMap<String, Attributes<'_>>>| {
            let attributes = request.values().next()?.values().next()?;
            ItemId::of(table, schema.as_ref()?, attributes)
        };
        items.insert(name.clone(), requests.iter().map(item).collect());
    }
    items
}

/// Returns the items of a `BatchExecuteStatement`, in the order of its statements.
pub(super) async fn of_statements(body: &[u8], schemas: &KeySchemas) -> Vec<Option<ItemId>> {
    let Ok(batch) = serde_json::from_slice::<BatchExecute<'_>>(body) else {
        return Vec::new();
    };
    let mut items = Vec::with_capacity(batch.statements.len());
    for statement in &batch.statements {
        items.push(statement.item(schemas).await);
    }
    items
}

/// Returns the item that an `ExecuteStatement` writes.
pub(super) async fn of_statement(body: &[u8], schemas: &KeySchemas) -> Option<ItemId> {
    let statement: Statement<'_> = serde_json::from_slice(body).ok()?;
    statement.item(schemas).await
}

impl Statement<'_> {
    async fn item(&self, schemas: &KeySchemas) -> Option<ItemId> {
        let target = partiql::target(&self.statement)?;
        let schema = schemas.get(&target.table).await?;
        let key = |name: &String| {
            let value = match target.equals.get(name)? {
                partiql::Operand::Parameter(position) => {
                    serde_json::from_str(self.parameters.get(*position)?.get()).ok()?
                }
                partiql::Operand::Text(text) => AttributeValue::S(text.clone()),
                partiql::Operand::Number(number) => AttributeValue::N(number.clone()),
            };
            key_text(&value)
        };
        let sort_key = schema.sort_key.as_ref().map_or(Some(String::new()), key)?;
        Some(ItemId::new(
            &target.table,
            &key(&schema.partition_key)?,
            &sort_key,
        ))
    }
}
