//! Names of the tables and the queue of a whole system, as options, and their creation.

use clap::Args;

use super::{ProvisionError, Table};
use crate::aws::Clients;
use crate::aws::resource_names::{parse_queue_name, parse_table};

/// Names of the resources to create. The environment variables are those of the services.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Tables and queues")]
pub struct ResourceNames {
    #[arg(
        long,
        env = "ORDERS_TABLE",
        value_name = "TABLE",
        default_value = "orders",
        value_parser = parse_table
    )]
    pub orders_table: String,

    #[arg(
        long,
        env = "OUTBOX_TABLE",
        value_name = "TABLE",
        default_value = "outbox",
        value_parser = parse_table
    )]
    pub outbox_table: String,

    #[arg(
        long,
        env = "INVENTORY_TABLE",
        value_name = "TABLE",
        default_value = "inventory",
        value_parser = parse_table
    )]
    pub inventory_table: String,

    #[arg(
        long,
        env = "IDEMPOTENCY_TABLE",
        value_name = "TABLE",
        default_value = "idempotency_keys",
        value_parser = parse_table
    )]
    pub idempotency_table: String,

    #[arg(
        long,
        env = "LEASES_TABLE",
        value_name = "TABLE",
        default_value = "relay_leases",
        value_parser = parse_table
    )]
    pub leases_table: String,

    /// Created with its dead-letter queue; FIFO when the name ends in `.fifo`.
    #[arg(long, env = "WORKER_QUEUE", value_name = "QUEUE", default_value = "order-events", value_parser = parse_queue_name)]
    pub worker_queue: String,
}

impl ResourceNames {
    /// Checks conditions on several options.
    ///
    /// # Errors
    /// A sentence that names the options in conflict.
    pub fn check(&self) -> Result<(), String> {
        let tables = self.tables();
        for (n, (one, table)) in tables.iter().enumerate() {
            if let Some((other, _)) = tables[..n].iter().find(|(_, earlier)| earlier == table) {
                return Err(format!(
                    "{other} and {one} are both `{table}`; they must be two tables"
                ));
            }
        }
        Ok(())
    }

    /// Returns the environment variables that configure these names in the services.
    pub fn environment(&self) -> impl Iterator<Item = (&'static str, String)> {
        self.tables()
            .into_iter()
            .chain([("WORKER_QUEUE", self.worker_queue.as_str())])
            .map(|(variable, name)| (variable, name.to_owned()))
    }

    fn tables(&self) -> [(&'static str, &str); 5] {
        [
            ("ORDERS_TABLE", &self.orders_table),
            ("OUTBOX_TABLE", &self.outbox_table),
            ("INVENTORY_TABLE", &self.inventory_table),
            ("IDEMPOTENCY_TABLE", &self.idempotency_table),
            ("LEASES_TABLE", &self.leases_table),
        ]
    }
}

/// Creates the missing tables, and the missing queue with its dead-letter queue. Repeated calls
/// change nothing.
pub async fn create_resources(
    clients: &Clients,
    names: &ResourceNames,
) -> Result<(), ProvisionError> {
    let tables = [
        Table::orders(&names.orders_table),
        Table::outbox(&names.outbox_table),
        Table::inventory(&names.inventory_table),
        Table::idempotency_keys(&names.idempotency_table),
        Table::relay_leases(&names.leases_table),
    ];
    super::tables(&clients.dynamodb, tables).await?;
    super::queue(&clients.sqs, &names.worker_queue).await?;
    Ok(())
}
