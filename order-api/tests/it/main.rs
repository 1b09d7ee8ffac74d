//! The real program against the embedded DynamoDB.

// clippy.toml allows it in tests, but not in the helpers between them.
#![allow(clippy::unwrap_used)]

mod atomicity;
mod bad_input;
mod bounds;
mod config;
mod idempotency;
mod load;
mod openapi;
mod otlp_collector;
mod readiness;
mod shutdown;
mod support;
mod telemetry;
mod unknown_outcome;
