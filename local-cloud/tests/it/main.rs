//! The local cloud as the AWS SDK sees it.

// clippy.toml allows it in tests, but not in the helpers between them.
#![allow(clippy::unwrap_used)]

mod dynamodb;
mod fidelity;
mod lifecycle;
mod requests;
mod shards;
mod sqs;
mod streams;
mod support;
mod transactions;
