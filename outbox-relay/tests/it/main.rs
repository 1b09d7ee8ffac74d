//! Tests of the relay as a process, with the embedded cloud.

// A panic is how a test fails; its message has the line.
#![allow(clippy::unwrap_used)]

mod bad_events;
mod checkpoints;
mod configuration;
mod console;
mod operate;
mod outages;
mod publishing;
mod sharded;
mod support;
mod sweeping;
