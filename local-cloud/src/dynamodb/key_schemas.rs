//! Key schemas of the tables, which identify the items that a request writes.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dynoxide::Database;
use dynoxide::types::{KeySchemaElement, KeyType};

/// Names of the key attributes of one table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct KeySchema {
    pub(super) partition_key: String,
    pub(super) sort_key: Option<String>,
}

impl KeySchema {
    /// Parses the key schema of the table's metadata.
    fn parse(json: &str) -> Option<Self> {
        let elements: Vec<KeySchemaElement> = serde_json::from_str(json).ok()?;
        let name = |key_type| {
            let mut keys = elements.iter().filter(|key| key.key_type == key_type);
            keys.next().map(|key| key.attribute_name.clone())
        };
        Some(Self {
            partition_key: name(KeyType::HASH)?,
            sort_key: name(KeyType::RANGE),
        })
    }
}

/// The key schemas of all tables that were written so far.
pub(super) struct KeySchemas {
    database: Database,
    // Locked for one lookup or insertion, never across a statement of the database.
    known: Mutex<HashMap<String, Arc<KeySchema>>>,
}

impl KeySchemas {
    pub(super) fn new(database: Database) -> Self {
        Self {
            database,
            known: Mutex::default(),
        }
    }

    /// Returns the key schema of `table`, or `None` if there is no such table.
    pub(super) async fn get(&self, table: &str) -> Option<Arc<KeySchema>> {
        if let Some(known) = self.known().get(table) {
            return Some(Arc::clone(known));
        }
        let (database, name) = (self.database.clone(), table.to_owned());
        // It waits for the database.
        let read = tokio::task::spawn_blocking(move || {
            let metadata = database.get_table_metadata(&name).ok()??;
            KeySchema::parse(&metadata.key_schema)
        });
        let schema = Arc::new(read.await.ok()??);
        self.known().insert(table.to_owned(), Arc::clone(&schema));
        Some(schema)
    }

    /// Forgets all tables, because one of them is created or deleted.
    pub(super) fn clear(&self) {
        self.known().clear();
    }

    fn known(&self) -> MutexGuard<'_, HashMap<String, Arc<KeySchema>>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
