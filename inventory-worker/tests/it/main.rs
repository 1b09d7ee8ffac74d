//! The worker as what it is in production: a process, talked to over SQS,
//! DynamoDB, HTTP and signals.

// Helpers are no test functions to clippy.
#![allow(clippy::unwrap_used)]

mod config;
mod effect_once;
mod health;
mod outage;
mod poison;
mod queue_depth;
mod rejection;
mod shutdown;
mod support;
mod telemetry;
mod visibility;
