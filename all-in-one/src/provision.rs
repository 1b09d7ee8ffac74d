//! What is created before the services start.

use shared::aws::Clients;
use shared::provision::{self, ProvisionError, Table};

use crate::cli::Names;

/// Orders for these can be placed right away.
const SKUS: std::ops::RangeInclusive<u32> = 1..=5;
const PIECES: u64 = 1_000_000;

/// Creates the tables and the queue with its dead-letter queue where they are
/// missing. Running it again changes nothing.
pub(crate) async fn create(clients: &Clients, names: &Names) -> Result<(), ProvisionError> {
    let tables = [
        Table::orders(&names.orders_table),
        Table::outbox(&names.outbox_table),
        Table::inventory(&names.inventory_table),
        Table::idempotency_keys(&names.idempotency_table),
        Table::relay_leases(&names.leases_table),
    ];
    provision::tables(&clients.dynamodb, tables).await?;
    provision::queue(&clients.sqs, &names.worker_queue).await?;
    Ok(())
}

/// Stocks `WIDGET-1` … `WIDGET-5` where they are not stocked yet.
pub(crate) async fn stock(clients: &Clients, names: &Names) -> Result<(), ProvisionError> {
    let skus = SKUS.map(|n| format!("WIDGET-{n}"));
    provision::stock(&clients.dynamodb, &names.inventory_table, skus, PIECES).await
}
