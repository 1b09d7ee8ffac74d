//! Tables and queues of the contract, created idempotently on any endpoint.
//!
//! Running it again changes nothing. Resources that differ in a way that would lose events (another
//! stream view, another key, another time to live) are an error that names the difference and what
//! to do.

mod expiry;
mod projection;
mod queues;
mod resources;
mod stock;
mod tables;

use projection::REPLACEMENT;
pub use queues::{MAX_RECEIVES, dead_letter_queue_name, queue};
pub use resources::{ResourceNames, create_resources};
pub use stock::{stock, stock_widgets};
pub use tables::{Table, tables};

/// A resource could not be created, or differs from the contract.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    #[error("{what} could not be {action}: {reason}")]
    Request {
        what: String,
        action: &'static str,
        reason: String,
    },
    #[error("{what} exists, but {difference}; {remedy}")]
    Differs {
        what: String,
        difference: String,
        remedy: String,
    },
    #[error(
        "table `{table}` has {difference}. To replace the index while relays and writers run: \
         {REPLACEMENT}"
    )]
    IndexDiffers { table: String, difference: String },
    #[error("{what} did not become active within {seconds} s")]
    NotActive { what: String, seconds: u64 },
}
