//! Keys and indexes of the tables.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynoxide::types::{GlobalSecondaryIndex, KeySchemaElement, KeyType, ProjectionType};
use dynoxide::{Database, TableMetadata};

/// Properties of a table that matter for the writes of its items.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TableSchema {
    pub(super) name: String,
    pub(super) partition_key: String,
    pub(super) sort_key: Option<String>,
    /// Provisioned capacity instead of on-demand.
    pub(super) is_provisioned: bool,
    /// Global secondary indexes.
    pub(super) indexes: Vec<Index>,
}

/// A global secondary index.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub(super) name: String,
    pub(super) partition_key: String,
    pub(super) sort_key: Option<String>,
    /// Attributes that it contains in addition to the keys; `None` for all.
    pub(super) projected: Option<Vec<String>>,
}

impl TableSchema {
    fn parse(metadata: TableMetadata) -> Option<Self> {
        let (partition_key, sort_key) =
            keys(&serde_json::from_str::<Vec<_>>(&metadata.key_schema).ok()?)?;
        let indexes: Vec<GlobalSecondaryIndex> = match &metadata.gsi_definitions {
            Some(definitions) => serde_json::from_str(definitions).ok()?,
            None => Vec::new(),
        };
        Some(Self {
            name: metadata.table_name,
            partition_key,
            sort_key,
            is_provisioned: metadata.billing_mode.as_deref() != Some("PAY_PER_REQUEST"),
            indexes: indexes.into_iter().filter_map(Index::parse).collect(),
        })
    }
}

impl Index {
    fn parse(definition: GlobalSecondaryIndex) -> Option<Self> {
        let (partition_key, sort_key) = keys(&definition.key_schema)?;
        let projection = definition.projection;
        Some(Self {
            name: definition.index_name,
            partition_key,
            sort_key,
            projected: match projection.projection_type {
                None | Some(ProjectionType::ALL) => None,
                Some(ProjectionType::KEYS_ONLY | ProjectionType::INCLUDE) => {
                    Some(projection.non_key_attributes.unwrap_or_default())
                }
            },
        })
    }

    /// Returns `true` if the index contains this attribute.
    pub(super) fn projects(&self, table: &TableSchema, attribute: &str) -> bool {
        let is = |key: &Option<String>| key.as_deref() == Some(attribute);
        let projected = self.projected.as_ref();
        projected.is_none_or(|names| names.iter().any(|name| name == attribute))
            || [&self.partition_key, &table.partition_key]
                .iter()
                .any(|key| *key == attribute)
            || is(&self.sort_key)
            || is(&table.sort_key)
    }
}

/// Returns the names of the partition key and of the sort key.
fn keys(schema: &[KeySchemaElement]) -> Option<(String, Option<String>)> {
    let name = |key_type| {
        let mut keys = schema.iter().filter(|key| key.key_type == key_type);
        keys.next().map(|key| key.attribute_name.clone())
    };
    Some((name(KeyType::HASH)?, name(KeyType::RANGE)))
}

/// The schemas of all tables that were written so far.
pub(super) struct TableSchemas {
    database: Database,
    // Locked for one lookup or insertion, never across a statement of the database.
    known: Mutex<HashMap<String, Arc<TableSchema>>>,
}

impl TableSchemas {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            known: Mutex::default(),
        }
    }

    /// Returns the schema of `table`, or `None` if there is no such table.
    pub(super) async fn get(&self, table: &str) -> Option<Arc<TableSchema>> {
        if let Some(known) = self.known().get(table) {
            return Some(Arc::clone(known));
        }
        let (database, name) = (self.database.clone(), table.to_owned());
        // It waits for the database.
        let read = tokio::task::spawn_blocking(move || {
            let metadata = database.get_table_metadata(&name).ok()??;
            TableSchema::parse(metadata)
        });
        let schema = Arc::new(read.await.ok()??);
        self.known().insert(table.to_owned(), Arc::clone(&schema));
        Some(schema)
    }

    /// Forgets all tables, because one of them is created, changed or deleted.
    pub(super) fn clear(&self) {
        self.known().clear();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<TableSchema>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
