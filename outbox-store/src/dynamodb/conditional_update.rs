//! Statements that change one pending event, for batches of them.

use aws_sdk_dynamodb::types::{AttributeValue, BatchStatementRequest};
use outbox::Status;
use outbox::item::attribute;

use super::attribute_value::{number, string};
use crate::{EventKey, Generation};

/// PartiQL statement that updates one pending event of a generation.
#[derive(Clone, Debug)]
pub(super) struct ConditionalUpdate {
    first: String,
    replayed: String,
}

impl ConditionalUpdate {
    /// Returns the statement that marks an event as published.
    pub(super) fn publication(table: &str) -> Self {
        use attribute::{EXPIRES_AT, MESSAGE_ID, PUBLISHED_AT, STATE_BUCKET, STATUS};
        let published = Status::Published.as_str();
        let changes = format!(
            r#"SET "{STATUS}" = '{published}' SET "{PUBLISHED_AT}" = ? SET "{MESSAGE_ID}" = ? SET "{EXPIRES_AT}" = ? REMOVE "{STATE_BUCKET}""#
        );
        Self::new(table, &changes)
    }

    /// Returns the statement that defers an event.
    pub(super) fn deferral(table: &str) -> Self {
        Self::new(table, &format!(r#"SET "{}" = ?"#, attribute::DEFERRED_AT))
    }

    /// Returns the statement that applies `changes` to a pending event. PartiQL's UPDATE never
    /// creates an item. The parameters are those of `changes`, then those that [`Self::request`]
    /// adds.
    fn new(table: &str, changes: &str) -> Self {
        use attribute::{AGGREGATE_ID, REPLAYS, SEQUENCE, STATUS};
        let pending = Status::Pending.as_str();
        let update = format!(
            r#"UPDATE "{table}" {changes} WHERE "{AGGREGATE_ID}" = ? AND "{SEQUENCE}" = ? AND "{STATUS}" = '{pending}' AND "{REPLAYS}""#
        );
        Self {
            first: format!("{update} IS MISSING"),
            replayed: format!("{update} = ?"),
        }
    }

    /// Returns the statement for one event, with the values of the changes.
    pub(super) fn request(
        &self,
        parameters: impl IntoIterator<Item = AttributeValue>,
        key: &EventKey,
        generation: &Generation,
    ) -> BatchStatementRequest {
        let statement = match generation.replays {
            None => &self.first,
            Some(_) => &self.replayed,
        };
        let parameters = parameters
            .into_iter()
            .chain([string(&key.aggregate_id), number(&key.sequence)])
            .chain(generation.replays.map(number))
            .collect();
        BatchStatementRequest::builder()
            .statement(statement)
            .set_parameters(Some(parameters))
            .build()
            .expect("the statement is set")
    }
}
