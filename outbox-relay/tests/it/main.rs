//! The relay as a process, against the embedded cloud.

mod bad_events;
mod checkpoints;
mod configuration;
mod outages;
mod publishing;
mod support;
mod sweeping;
