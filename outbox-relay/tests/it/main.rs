//! Tests of the relay as a process, with the embedded cloud.

// A panic is how a test fails; its message has the line.
#![allow(clippy::unwrap_used)]
#![allow(
    clippy::disallowed_methods,
    clippy::disallowed_types,
    reason = "these tests run real processes in real time"
)]

mod bad_events;
mod checkpoints;
mod configuration;
mod console;
mod index;
mod lease_items;
mod membership;
mod operate;
mod outages;
mod publishing;
mod replaced_stream;
mod restored_table;
mod scale;
mod sharded;
mod skewed_clock;
mod support;
mod sweeping;
mod unavailable_queues;
mod write_units;
