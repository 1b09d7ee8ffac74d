//! The worker as what it is in production: a process, talked to over SQS,
//! DynamoDB, HTTP and signals.

// Helpers are no test functions to clippy.
#![allow(clippy::unwrap_used)]

mod config;
mod depth;
mod effect;
mod health;
mod outage;
mod poison;
mod rejection;
mod rig;
mod stopping;
mod telemetry;
mod visibility;
