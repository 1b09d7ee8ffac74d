//! Tests of the program as a process, on the embedded DynamoDB.

// clippy.toml allows it in test functions, but not in their helpers.
#![allow(clippy::unwrap_used)]

mod atomicity;
mod authentication;
mod bad_input;
mod bounds;
mod config;
mod hostile;
mod idempotency;
mod issuer;
mod load;
mod openapi;
mod otlp_collector;
mod rate_limits;
mod readiness;
mod rolling_restart;
mod shutdown;
mod support;
mod telemetry;
mod unknown_outcome;
