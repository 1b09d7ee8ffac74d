//! Items of the inventory table.

use aws_sdk_dynamodb::Client;
use aws_sdk_dynamodb::error::SdkError;
use aws_sdk_dynamodb::types::AttributeValue;

use super::{ProvisionError, ResourceNames};
use crate::aws::Clients;
use crate::aws::error::explain;
use crate::order::attribute::inventory;

/// SKUs for which orders can be placed at once.
const SKUS: std::ops::RangeInclusive<u32> = 1..=5;
const PIECES: u64 = 1_000_000;

/// Stocks `WIDGET-1` … `WIDGET-5` unless they are already stocked.
pub async fn stock_widgets(clients: &Clients, names: &ResourceNames) -> Result<(), ProvisionError> {
    let skus = SKUS.map(|n| format!("WIDGET-{n}"));
    stock(&clients.dynamodb, &names.inventory_table, skus, PIECES).await
}

/// Creates the inventory items of `skus` with `available` pieces each; existing items are left as
/// they are.
pub async fn stock(
    dynamodb: &Client,
    inventory_table: &str,
    skus: impl IntoIterator<Item = String>,
    available: u64,
) -> Result<(), ProvisionError> {
    for sku in skus {
        let put = dynamodb
            .put_item()
            .table_name(inventory_table)
            .item(inventory::SKU, AttributeValue::S(sku.clone()))
            .item(
                inventory::AVAILABLE,
                AttributeValue::N(available.to_string()),
            )
            .item(inventory::RESERVED, AttributeValue::N("0".to_owned()))
            .condition_expression(format!("attribute_not_exists({})", inventory::SKU))
            .send()
            .await;
        match put {
            Ok(_) => {}
            Err(SdkError::ServiceError(error))
                if error.err().is_conditional_check_failed_exception() => {}
            Err(error) => {
                return Err(ProvisionError::Request {
                    what: format!("SKU `{sku}`"),
                    action: "stocked",
                    reason: explain(&error),
                });
            }
        }
    }
    Ok(())
}
