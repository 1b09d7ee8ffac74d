//! Errors of requests to the lease table.

use aws_sdk_dynamodb::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_dynamodb::operation::update_item::UpdateItemError;
use shared::aws::error::{Causes, ErrorClass, classify};

use super::lease_item::from_item;
use crate::LeaseError;

/// Ignores that the condition of an update was not met: what it was to change has changed
/// meanwhile.
pub(super) fn ignore_lost<T>(updated: Result<T, LeaseError>) -> Result<(), LeaseError> {
    match updated {
        Ok(_) | Err(LeaseError::Lost(_)) => Ok(()),
        Err(error) => Err(error),
    }
}

pub(super) fn update_error(error: SdkError<UpdateItemError>) -> LeaseError {
    if classify(&error) != ErrorClass::ConditionFailed {
        return unavailable(&error);
    }
    let stored = match error.into_service_error() {
        UpdateItemError::ConditionalCheckFailedException(failed) => failed.item,
        _ => None,
    };
    LeaseError::Lost(stored.and_then(|item| from_item(&item)).map(Box::new))
}

pub(super) fn unavailable<E>(error: &SdkError<E>) -> LeaseError
where
    E: ProvideErrorMetadata + std::error::Error + 'static,
{
    LeaseError::Unavailable(Causes(error).to_string())
}
