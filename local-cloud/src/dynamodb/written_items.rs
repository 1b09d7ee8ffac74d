//! Reads from a request which items it writes.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use dynoxide::{AttributeValue, Item};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::item_id::{ItemId, table_name};
use super::partiql;
use super::table_schemas::{TableSchema, TableSchemas};

/// An item that a request writes.
#[derive(Clone, Debug)]
pub(super) struct WrittenItem {
    pub(super) id: ItemId,
    pub(super) schema: Arc<TableSchema>,
    /// The primary key.
    pub(super) key: Item,
    /// All keys of an item that is put: the primary key and those of the indexes.
    pub(super) put: Option<Item>,
}

/// The items of a request, in its order. `None`: not an item of an existing table, or not in a form
/// that is understood.
pub(super) type WrittenItems = Vec<Option<WrittenItem>>;

/// Attributes of a request, of which only the keys are parsed.
type Attributes<'a> = BTreeMap<String, &'a RawValue>;

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

/// The items of `TransactWriteItems` and `TransactGetItems`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Transaction<'a> {
    // Each element has one field, named after the kind of the action.
    #[serde(borrow)]
    transact_items: Vec<BTreeMap<String, Action<'a>>>,
}

/// A put or a deletion of a `BatchWriteItem`, such as `{"PutRequest": {"Item": …}}`.
type BatchedWrite<'a> = BTreeMap<String, BTreeMap<String, Attributes<'a>>>;

/// `BatchWriteItem`: the writes of each table, by its name.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct BatchWrite<'a> {
    #[serde(borrow)]
    request_items: BTreeMap<String, Vec<BatchedWrite<'a>>>,
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

impl WrittenItem {
    /// Returns the item whose primary key has these values.
    fn new(
        schema: Arc<TableSchema>,
        value: impl Fn(&str) -> Option<AttributeValue>,
    ) -> Option<Self> {
        let names = std::iter::once(&schema.partition_key).chain(&schema.sort_key);
        let with_value = |name: &String| Some((name.clone(), value(name)?));
        let key: Item = names.map(with_value).collect::<Option<_>>()?;
        Some(Self {
            id: ItemId::of(&schema, &key)?,
            schema,
            key,
            put: None,
        })
    }

    /// Returns the item that is put, if `is_put`, or that has these attributes as its key.
    fn of(schema: &Arc<TableSchema>, attributes: &Attributes<'_>, is_put: bool) -> Option<Self> {
        let value = |name: &str| serde_json::from_str(attributes.get(name)?.get()).ok();
        let item = Self::new(Arc::clone(schema), value)?;
        let mut keys = item.key.clone();
        for index in &schema.indexes {
            let names = std::iter::once(&index.partition_key).chain(&index.sort_key);
            keys.extend(names.filter_map(|name| Some((name.clone(), value(name)?))));
        }
        Some(Self {
            put: is_put.then_some(keys),
            ..item
        })
    }
}

/// Returns the item that a `PutItem`, `UpdateItem` or `DeleteItem` writes.
pub(super) async fn of_write(body: &[u8], schemas: &TableSchemas) -> WrittenItems {
    match serde_json::from_slice::<Action<'_>>(body) {
        Ok(action) => vec![action.item(schemas).await],
        Err(_) => Vec::new(),
    }
}

/// Returns the items of a `TransactWriteItems` or `TransactGetItems`, with those that are only
/// checked or read.
pub(super) async fn of_transaction(body: &[u8], schemas: &TableSchemas) -> WrittenItems {
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

/// Returns the items of a `BatchWriteItem`, in the order of the names of the tables.
pub(super) async fn of_batch_write(body: &[u8], schemas: &TableSchemas) -> WrittenItems {
    let Ok(batch) = serde_json::from_slice::<BatchWrite<'_>>(body) else {
        return Vec::new();
    };
    let mut items = Vec::new();
    for (name, requests) in &batch.request_items {
        let schema = schemas.get(table_name(name)).await;
        items.extend(requests.iter().map(|request| {
            let (kind, fields) = request.first_key_value()?;
            let attributes = fields.values().next()?;
            WrittenItem::of(schema.as_ref()?, attributes, kind == "PutRequest")
        }));
    }
    items
}

/// Returns the items of a `BatchExecuteStatement`.
pub(super) async fn of_statements(body: &[u8], schemas: &TableSchemas) -> WrittenItems {
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
pub(super) async fn of_statement(body: &[u8], schemas: &TableSchemas) -> WrittenItems {
    match serde_json::from_slice::<Statement<'_>>(body) {
        Ok(statement) => vec![statement.item(schemas).await],
        Err(_) => Vec::new(),
    }
}

impl Action<'_> {
    async fn item(&self, schemas: &TableSchemas) -> Option<WrittenItem> {
        let schema = schemas.get(table_name(&self.table_name)).await?;
        match (&self.key, &self.item) {
            (Some(key), _) => WrittenItem::of(&schema, key, false),
            (None, Some(item)) => WrittenItem::of(&schema, item, true),
            (None, None) => None,
        }
    }
}

impl Statement<'_> {
    async fn item(&self, schemas: &TableSchemas) -> Option<WrittenItem> {
        let target = partiql::target(&self.statement)?;
        let schema = schemas.get(&target.table).await?;
        WrittenItem::new(schema, |name| match target.equals.get(name)? {
            partiql::Operand::Parameter(position) => {
                serde_json::from_str(self.parameters.get(*position)?.get()).ok()
            }
            partiql::Operand::Text(text) => Some(AttributeValue::S(text.clone())),
            partiql::Operand::Number(number) => Some(AttributeValue::N(number.clone())),
        })
    }
}
