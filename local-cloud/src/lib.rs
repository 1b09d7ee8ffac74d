//! DynamoDB, DynamoDB Streams and SQS in the process: no container, no account.
//! For development and tests only. Data lives in a temporary folder and in
//! memory, and goes when the cloud stops.
//!
//! # Map
//!
//! ```text
//!            ┌─ DynamoDB, Streams ─▶ dynamodb::front ─HTTP─▶ dynoxide ─▶ SQLite file
//! SDK client ┤                       (tokens, shards)                   in a TempDir
//!            └─ SQS ───────────────▶ sqs::handler ─────────▶ rustack, in memory
//!                                    (settings, contents)
//! ```
//!
//! - `cloud`: [`LocalCloud`] and [`Config`]; starting and stopping all of it.
//! - `folder`: the temporary folder, and what killed processes left of theirs.
//! - `clients`: URLs, environment variables and SDK clients that reach it.
//! - `host`: one service's listener, threads and end. `connections`: its accept loop.
//! - `dynamodb`, `sqs`: the embedded services. What they do otherwise than AWS, and would mislead
//!   or slow down whoever develops against them, is mended in front of them: `dynamodb::tokens` and
//!   `dynamodb::shards`, `sqs::settings` and `sqs::contents`.
//! - `upstream`: the connection of such a front to what is behind it.
//! - `error`: [`StartError`].
//!
//! # What still differs from AWS
//!
//! - A stream has one shard that never closes. Its records are never trimmed, its iterators never
//!   expire, and `GetShardIterator` takes any shard id.
//! - Nothing is throttled, signatures are not checked, and items are not removed when their time to
//!   live is over.
//! - A message has at most 256 KiB (SQS: 1 MiB), and any number may be in flight.
//! - Long polls notice a visibility timeout that ran out within a second, a sent message at once.
//! - A standard queue takes no `MessageGroupId` (SQS: fair queues).
//! - ARNs name the region `dynoxide` in DynamoDB, `us-east-1` in SQS, and the account
//!   `000000000000` in both.

mod clients;
mod cloud;
mod connections;
mod dynamodb;
mod error;
mod service_host;
mod sqs;
mod temp_dir;
mod upstream;

pub use cloud::{Config, LocalCloud};
pub use error::{Service, StartError};
