//! Definitions of the five tables, and their creation.

use std::time::Duration;

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::types::{
    AttributeDefinition, BillingMode, GlobalSecondaryIndex, KeySchemaElement, KeyType,
    ScalarAttributeType, StreamSpecification, StreamViewType, TableDescription, TableStatus,
};
use outbox::item::{BY_STATE_INDEX, attribute};

use super::ProvisionError;
use super::projection::{
    INDEX_ATTRIBUTES, Projects, REPLACEMENT, compare_projection, new_projection,
};
use crate::aws::error::explain;
use crate::order::attribute::{idempotency_keys, inventory, orders};

/// Time limit for a table to become active; it takes seconds on AWS.
const ACTIVE_WITHIN: Duration = Duration::from_secs(120);

/// A key attribute and its type.
type KeyAttribute = (&'static str, ScalarAttributeType);

/// A table of the contract, with its configured name.
#[derive(Clone, Debug)]
pub struct Table {
    pub name: String,
    keys: Vec<KeyAttribute>,
    /// Name and keys of the index, which projects [`INDEX_ATTRIBUTES`].
    index: Option<(&'static str, Vec<KeyAttribute>)>,
    /// The table has a stream of new images.
    stream: bool,
    /// The attribute `expires_at` is the time to live.
    expires: bool,
}

impl Table {
    pub fn orders(name: &str) -> Self {
        Self::keyed(name, vec![(orders::ORDER_ID, ScalarAttributeType::S)])
    }

    pub fn outbox(name: &str) -> Self {
        Self {
            index: Some((
                BY_STATE_INDEX,
                vec![
                    (attribute::STATE_BUCKET, ScalarAttributeType::S),
                    (attribute::OCCURRED_AT, ScalarAttributeType::S),
                ],
            )),
            stream: true,
            expires: true,
            ..Self::keyed(
                name,
                vec![
                    (attribute::AGGREGATE_ID, ScalarAttributeType::S),
                    (attribute::SEQUENCE, ScalarAttributeType::N),
                ],
            )
        }
    }

    pub fn inventory(name: &str) -> Self {
        Self::keyed(name, vec![(inventory::SKU, ScalarAttributeType::S)])
    }

    pub fn idempotency_keys(name: &str) -> Self {
        Self {
            expires: true,
            ..Self::keyed(
                name,
                vec![(idempotency_keys::IDEMPOTENCY_KEY, ScalarAttributeType::S)],
            )
        }
    }

    pub fn relay_leases(name: &str) -> Self {
        Self::keyed(
            name,
            vec![
                ("stream", ScalarAttributeType::S),
                ("lease", ScalarAttributeType::S),
            ],
        )
    }

    fn keyed(name: &str, keys: Vec<KeyAttribute>) -> Self {
        Self {
            name: name.to_owned(),
            keys,
            index: None,
            stream: false,
            expires: false,
        }
    }

    pub(super) fn request_error<E>(
        &self,
        action: &'static str,
        error: &SdkError<E>,
    ) -> ProvisionError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        ProvisionError::Request {
            what: format!("table `{}`", self.name),
            action,
            reason: explain(error),
        }
    }

    pub(super) fn differs(&self, difference: String, remedy: String) -> ProvisionError {
        ProvisionError::Differs {
            what: format!("table `{}`", self.name),
            difference,
            remedy,
        }
    }

    async fn create(&self, dynamodb: &Client) -> Result<(), ProvisionError> {
        let attributes = self
            .keys
            .iter()
            .chain(self.index.iter().flat_map(|(_, keys)| keys));
        let request = dynamodb
            .create_table()
            .table_name(&self.name)
            .billing_mode(BillingMode::PayPerRequest)
            .set_key_schema(Some(key_schema(&self.keys)))
            .set_attribute_definitions(Some(attributes.map(attribute_definition).collect()))
            .set_global_secondary_indexes(self.index.as_ref().map(|(name, keys)| {
                vec![
                    GlobalSecondaryIndex::builder()
                        .index_name(*name)
                        .set_key_schema(Some(key_schema(keys)))
                        .projection(new_projection())
                        .build()
                        .expect("name and keys are set"),
                ]
            }))
            .set_stream_specification(self.stream.then(new_image));
        match request.send().await {
            Ok(_) => {
                tracing::info!(table = %self.name, "table created");
                Ok(())
            }
            Err(SdkError::ServiceError(error)) if error.err().is_resource_in_use_exception() => {
                Ok(())
            }
            Err(error) => Err(self.request_error("created", &error)),
        }
    }

    async fn wait_until_active(
        &self,
        dynamodb: &Client,
    ) -> Result<TableDescription, ProvisionError> {
        let deadline = tokio::time::Instant::now() + ACTIVE_WITHIN;
        loop {
            let description = dynamodb
                .describe_table()
                .table_name(&self.name)
                .send()
                .await
                .map_err(|error| self.request_error("described", &error))?
                .table;
            if let Some(table) = description
                && table.table_status == Some(TableStatus::Active)
            {
                return Ok(table);
            }
            if tokio::time::Instant::now() >= deadline {
                return Err(ProvisionError::NotActive {
                    what: format!("table `{}`", self.name),
                    seconds: ACTIVE_WITHIN.as_secs(),
                });
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    /// Checks the keys and the index: a table of the same name may belong to another application,
    /// or to an earlier release.
    fn check(&self, table: &TableDescription) -> Result<(), ProvisionError> {
        let found = key_names(table.key_schema());
        if found != names(&self.keys) || !are_defined(&self.keys, table) {
            return Err(self.differs(
                format!("its key is {found:?}; {:?} is required", self.keys),
                "delete it, or choose another name".to_owned(),
            ));
        }
        match &self.index {
            Some((name, keys)) => self.check_index(table, name, keys),
            None => Ok(()),
        }
    }

    fn check_index(
        &self,
        table: &TableDescription,
        name: &str,
        keys: &[KeyAttribute],
    ) -> Result<(), ProvisionError> {
        let differs = |difference| ProvisionError::IndexDiffers {
            table: self.name.clone(),
            difference,
        };
        let required = names(keys);
        let index = table
            .global_secondary_indexes()
            .iter()
            .filter(|_| are_defined(keys, table))
            .find(|index| {
                index.index_name.as_deref() == Some(name)
                    && key_names(index.key_schema()) == required
            })
            .ok_or_else(|| differs(format!("no index `{name}` with the key {required:?}")))?;
        let projected = INDEX_ATTRIBUTES.join(", ");
        match compare_projection(index.projection.as_ref()) {
            Projects::Exactly => Ok(()),
            Projects::More => {
                tracing::warn!(
                    table = %self.name,
                    index = name,
                    "the index projects more than {projected}: it works, but each KB of payload \
                     costs two more write units; it is left unchanged. To replace it while relays \
                     and writers run: {REPLACEMENT}",
                );
                Ok(())
            }
            Projects::Less => Err(differs(format!(
                "an index `{name}` that does not project all of {projected}"
            ))),
        }
    }

    async fn enable_stream(
        &self,
        dynamodb: &Client,
        table: &TableDescription,
    ) -> Result<(), ProvisionError> {
        let view = table
            .stream_specification
            .as_ref()
            .filter(|stream| stream.stream_enabled)
            .and_then(|stream| stream.stream_view_type.clone());
        match view {
            Some(StreamViewType::NewImage | StreamViewType::NewAndOldImages) => Ok(()),
            Some(other) => Err(self.differs(
                format!("its stream has the view {other}; NEW_IMAGE is required"),
                format!(
                    "disable the stream (`aws dynamodb update-table --table-name {} \
                     --stream-specification StreamEnabled=false`) unless another application reads \
                     it, and run `all-in-one provision` again",
                    self.name
                ),
            )),
            None => {
                dynamodb
                    .update_table()
                    .table_name(&self.name)
                    .stream_specification(new_image())
                    .send()
                    .await
                    .map_err(|error| self.request_error("given a stream", &error))?;
                tracing::info!(table = %self.name, "stream enabled");
                self.wait_until_active(dynamodb).await.map(drop)
            }
        }
    }
}

/// Creates `tables` where they are missing, and checks them where they are not.
pub async fn tables(
    dynamodb: &Client,
    tables: impl IntoIterator<Item = Table>,
) -> Result<(), ProvisionError> {
    for table in tables {
        table.create(dynamodb).await?;
        let description = table.wait_until_active(dynamodb).await?;
        table.check(&description)?;
        if table.stream {
            table.enable_stream(dynamodb, &description).await?;
        }
        if table.expires {
            table.enable_expiry(dynamodb).await?;
        }
    }
    Ok(())
}

fn names(keys: &[KeyAttribute]) -> Vec<&str> {
    keys.iter().map(|(name, _)| *name).collect()
}

fn key_names(schema: &[KeySchemaElement]) -> Vec<&str> {
    schema.iter().map(|key| key.attribute_name()).collect()
}

/// Returns `true` if the table defines all `keys` with their types.
fn are_defined(keys: &[KeyAttribute], table: &TableDescription) -> bool {
    let definitions = table.attribute_definitions();
    keys.iter().all(|(name, attribute_type)| {
        definitions.iter().any(|defined| {
            defined.attribute_name == *name && defined.attribute_type == *attribute_type
        })
    })
}

fn new_image() -> StreamSpecification {
    StreamSpecification::builder()
        .stream_enabled(true)
        .stream_view_type(StreamViewType::NewImage)
        .build()
        .expect("stream_enabled is set")
}

fn key_schema(keys: &[KeyAttribute]) -> Vec<KeySchemaElement> {
    keys.iter()
        .zip([KeyType::Hash, KeyType::Range])
        .map(|((name, _), key_type)| {
            KeySchemaElement::builder()
                .attribute_name(*name)
                .key_type(key_type)
                .build()
                .expect("name and type are set")
        })
        .collect()
}

fn attribute_definition((name, attribute_type): &KeyAttribute) -> AttributeDefinition {
    AttributeDefinition::builder()
        .attribute_name(*name)
        .attribute_type(attribute_type.clone())
        .build()
        .expect("name and type are set")
}
