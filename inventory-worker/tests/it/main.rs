//! Tests of the worker as it runs in production: a process that is driven through SQS, DynamoDB,
//! HTTP and signals.

// clippy.toml allows it in test functions, but not in their helpers.
#![allow(clippy::unwrap_used)]

mod batches;
mod config;
mod effect_once;
mod health;
mod hot_sku;
mod outage;
mod poison;
mod queue_depth;
mod rejection;
mod reservation;
mod shutdown;
mod support;
mod telemetry;
mod visibility;
