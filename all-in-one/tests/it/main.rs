//! The whole system as a user runs it: the real binary, its child processes,
//! their ports and signals.

// Helpers outside of test functions; a panic is how a test fails.
#![allow(clippy::unwrap_used)]

mod chaos;
mod cloud;
mod collector;
mod compose;
mod dashboards;
mod healthcheck;
mod idle;
mod metrics;
mod module_cycles;
mod orders;
mod provision;
mod python;
mod requests;
mod resending;
mod sampling;
mod support;
mod telemetry;
mod up;
