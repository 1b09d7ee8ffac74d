//! The consumer's result of an event, as far as the aggregate's own item shows it. Only for
//! display: the relay does not read aggregates.

use aws_sdk_dynamodb::types::{AttributeValue, KeyType};
use outbox_store::TableError;
use serde::Serialize;

use super::{OperateError, Operator};

/// Excerpt of the aggregate's own item.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AggregateState {
    pub table: String,
    /// Its attribute `status`.
    pub status: Option<String>,
    /// Its attribute `updated_at`.
    pub updated_at: Option<String>,
    /// Reason why the item could not be read.
    pub problem: Option<String>,
}

impl Operator {
    /// Returns the state of an aggregate, or `None` if no table is configured for its type.
    pub(super) async fn aggregate_state(
        &self,
        aggregate_type: Option<&str>,
        aggregate_id: &str,
    ) -> Option<AggregateState> {
        let table = self.aggregate_tables.table_of(aggregate_type?)?;
        let mut state = AggregateState {
            table: table.to_owned(),
            ..AggregateState::default()
        };
        match self.aggregate_item(table, aggregate_id).await {
            Ok((status, updated_at)) => {
                state.status = status;
                state.updated_at = updated_at;
            }
            Err(error) => state.problem = Some(error.to_string()),
        }
        Some(state)
    }

    async fn aggregate_item(
        &self,
        table: &str,
        aggregate_id: &str,
    ) -> Result<(Option<String>, Option<String>), OperateError> {
        let described = self
            .dynamodb
            .describe_table()
            .table_name(table)
            .send()
            .await
            .map_err(|error| TableError::of(table, &error))?;
        let keys = described
            .table
            .map(|table| table.key_schema.unwrap_or_default());
        let key = match keys.as_deref() {
            Some([key]) if key.key_type == KeyType::Hash => key.attribute_name.clone(),
            _ => {
                return Err(OperateError::Refused(format!(
                    "table `{table}` has a sort key; RELAY_AGGREGATE_TABLES is for tables keyed by the aggregate's id alone"
                )));
            }
        };
        let item = self
            .dynamodb
            .get_item()
            .table_name(table)
            .key(key, AttributeValue::S(aggregate_id.to_owned()))
            .send()
            .await
            .map_err(|error| TableError::of(table, &error))?
            .item
            .ok_or_else(|| {
                OperateError::NotFound(format!("`{aggregate_id}` is not in table `{table}`"))
            })?;
        let text = |name: &str| item.get(name)?.as_s().ok().cloned();
        Ok((text("status"), text("updated_at")))
    }
}
