//! Embedded DynamoDB, DynamoDB Streams and SQS, for development and tests: no container, no AWS
//! account. Data is kept in a temporary directory and in memory, and is deleted when the cloud
//! stops.
//!
//! # Map
//!
//! ```text
//!            ┌─ DynamoDB, Streams ─▶ dynamodb::interceptor ─HTTP─▶ dynoxide ─▶ SQLite file in a
//! SDK client ┤                                                              temporary directory
//!            └─ SQS ───────────────▶ sqs::handler ───────────────▶ rustack, in memory
//! ```
//!
//! - `cloud`: [`LocalCloud`] and [`Config`]; starts and stops both services.
//! - `temp_dir`: the temporary directory; deletes those that killed processes left behind.
//! - `clients`: URLs, environment variables and SDK clients of a running cloud.
//! - `service_host`: runs one service on its own threads. `connections`: accepts its connections.
//! - `dynamodb`, `sqs`: the embedded services. Differences from AWS that would mislead a developer
//!   or slow down a test are corrected before a request reaches them: `dynamodb::writes`,
//!   `dynamodb::client_request_tokens`, `dynamodb::child_shards` and `dynamodb::user_identity`,
//!   `sqs::queue_attributes` and `sqs::message_validation`. `dynamodb::index_replica` delays
//!   indexes.
//! - `shards`: splits and trims the virtual shards of `dynamodb::shards`, which stand in front of
//!   the single shard of a stream if [`Config::shards`] is set.
//! - `upstream`: the connection of the interceptor to dynoxide.
//! - `fidelity`: [`Fidelity`], behaviour of DynamoDB that can be switched off.
//! - `error`: [`StartError`].
//!
//! # Remaining differences from AWS
//!
//! - Without [`Config::shards`], a stream has one shard that never closes. Its records are never
//!   trimmed, its iterators never expire, and `GetShardIterator` accepts any shard id. With it,
//!   streams are as in DynamoDB, except that a shard is closed only on request or at an interval.
//! - `ExecuteTransaction` and PartiQL `INSERT` never conflict with a transaction, are not
//!   throttled, and do not reach indexes with a delay.
//! - Only writes are throttled, and only if [`Fidelity::partition_write_units`] is set. Signatures
//!   are not checked.
//! - PartiQL `SELECT` reads an index without [`Fidelity::index_delay`].
//! - A message has at most 256 KiB (SQS: 1 MiB), and the number of messages in flight is unlimited.
//! - A long poll returns a sent message at once, but a message whose visibility timeout has expired
//!   only within a second.
//! - A standard queue rejects `MessageGroupId` (SQS: fair queues).
//! - ARNs name the region `dynoxide` in DynamoDB, `us-east-1` in SQS, and the account
//!   `000000000000` in both.

mod clients;
mod cloud;
mod connections;
mod dynamodb;
mod error;
mod fidelity;
mod service_host;
mod shards;
mod sqs;
mod temp_dir;
mod upstream;

pub use cloud::{Config, LocalCloud};
pub use dynamodb::{MAX_SHARDS, ShardError, ShardOptions};
pub use error::{DatabaseError, Service, StartError};
pub use fidelity::{Fidelity, FidelityControl};
