//! The time to live of a table.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::types::{TimeToLiveDescription, TimeToLiveSpecification, TimeToLiveStatus};
use outbox::item::attribute;

use super::{ProvisionError, Table};

impl Table {
    /// Enables the time to live on `expires_at`, or checks the existing one.
    pub(super) async fn enable_expiry(&self, dynamodb: &Client) -> Result<(), ProvisionError> {
        let found = dynamodb
            .describe_time_to_live()
            .table_name(&self.name)
            .send()
            .await
            .map_err(|error| self.request_error("described with its time to live", &error))?
            .time_to_live_description;
        match found {
            // Enabling it a second time is an error on AWS.
            Some(found) if is_in_use(&found) => self.check_expiry(&found),
            _ => self.set_expiry(dynamodb).await,
        }
    }

    async fn set_expiry(&self, dynamodb: &Client) -> Result<(), ProvisionError> {
        dynamodb
            .update_time_to_live()
            .table_name(&self.name)
            .time_to_live_specification(
                TimeToLiveSpecification::builder()
                    .enabled(true)
                    .attribute_name(attribute::EXPIRES_AT)
                    .build()
                    .expect("both fields are set"),
            )
            .send()
            .await
            .map_err(|error| self.request_error("given a time to live", &error))?;
        Ok(())
    }

    /// Checks the attribute: by another one, DynamoDB would delete nothing, or events that are not
    /// published.
    fn check_expiry(&self, found: &TimeToLiveDescription) -> Result<(), ProvisionError> {
        let (table, required) = (&self.name, attribute::EXPIRES_AT);
        let found = found.attribute_name.as_deref().unwrap_or_default();
        if found == required {
            return Ok(());
        }
        Err(self.differs(
            format!("its time to live is on the attribute `{found}`; `{required}` is required"),
            format!(
                "disable it (`aws dynamodb update-time-to-live --table-name {table} \
                 --time-to-live-specification Enabled=false,AttributeName={found}`), and run \
                 `all-in-one provision` again when DynamoDB accepts another change, up to an hour \
                 later"
            ),
        ))
    }
}

fn is_in_use(found: &TimeToLiveDescription) -> bool {
    matches!(
        found.time_to_live_status,
        Some(TimeToLiveStatus::Enabled | TimeToLiveStatus::Enabling)
    )
}
