//! Errors of requests to the outbox table and the lease table.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use outbox::item::BY_STATE_INDEX;
use shared::aws::error::{Causes, ErrorClass, classify, describe};

use crate::item::EventKey;

/// Error of a request to one of the two tables.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableError {
    /// The table does not exist. An operator may create it, or correct its name.
    #[error("table `{table}` does not exist in this account and region")]
    TableNotFound { table: String },
    /// The credentials are unknown or lack a permission.
    #[error("these credentials do not allow the request on table `{table}`: {reason}")]
    AccessDenied { table: String, reason: String },
    /// DynamoDB rejected what the request contains; repeating it has no effect.
    #[error("DynamoDB rejected the request on table `{table}`: {reason}")]
    Rejected { table: String, reason: String },
    /// The index of the outbox table is missing, or does not have what a query needs.
    #[error(
        "index `{BY_STATE_INDEX}` of table `{table}` cannot be read: {reason}; it is missing, or \
         does not project the attributes that this release needs. Run `all-in-one provision`, which \
         names the steps. Until it is repaired, events are published from the stream only; sweeps \
         and lists fail, and deferred events wait"
    )]
    IndexUnusable { table: String, reason: String },
    /// The change does not fit into the item. The event is unchanged.
    #[error(
        "event {} of `{}` is too large: the change exceeds DynamoDB's limit of 400 KB per item",
        .0.sequence, .0.aggregate_id
    )]
    ItemTooLarge(EventKey),
    /// A list of published or discarded events names neither an aggregate nor a scan.
    #[error(
        "published and discarded events are not in the index: name an aggregate, or request a scan of the whole table"
    )]
    NotIndexed,
    /// The page token is not one that a list with the same filter returned.
    #[error("the page token is invalid: pass the `next` of an earlier list with the same filter")]
    InvalidPageToken,
    /// DynamoDB did not answer, or the error may be transient. A write may have taken effect.
    #[error("the request on table `{table}` failed: {reason}")]
    Unavailable { table: String, reason: String },
}

impl TableError {
    /// Classifies an error of the SDK.
    pub fn of<E>(table: &str, error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let table = table.to_owned();
        match classify(error) {
            ErrorClass::NotFound => Self::TableNotFound { table },
            ErrorClass::Rejected => Self::Rejected {
                table,
                reason: error.message().unwrap_or("no reason given").to_owned(),
            },
            ErrorClass::AccessDenied => Self::AccessDenied {
                table,
                reason: describe(error),
            },
            _ => Self::Unavailable {
                table,
                reason: Causes(error).to_string(),
            },
        }
    }

    /// Classifies an error of a query of the index. DynamoDB has no code of its own for an index
    /// that is missing or lacks an attribute.
    pub(crate) fn of_index<E>(table: &str, error: &SdkError<E>) -> Self
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        match Self::of(table, error) {
            Self::Rejected { table, reason } => Self::IndexUnusable { table, reason },
            other => other,
        }
    }
}
