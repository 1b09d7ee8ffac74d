//! The whole system in one command: the embedded cloud, provisioning and the three services, each
//! service in a process of its own.
//!
//! # Map
//!
//! ```text
//!                        ┌─ cloud: LocalCloud, in this process
//! cli ─▶ commands ─▶ up ─┼─ shared::provision: tables, queue, stock
//!           │            ├─ services ─▶ this executable again, as a service
//!           │            │              (child_entry, which exits when `up` has exited)
//!           │            └─ banner: endpoints, for the terminal
//!           └─▶ chaos::run, with this executable as the program to start
//! ```
//!
//! - [`cli`]: sub-commands and options. [`cloud_options`]: those of the embedded cloud.
//! - `commands`: runs each sub-command, on a runtime of its own.
//! - `up`: starts everything, waits for a signal, stops everything in order.
//! - `services`: the supervisor of each service; logs its events.
//! - `readiness`: polls `/readyz`; also the `healthcheck` sub-command.
//! - `child_entry`: entry point of a child that `test_support::child_process` starts.

mod banner;
mod child_entry;
pub mod cli;
mod cloud;
pub mod cloud_options;
mod commands;
mod error;
mod readiness;
mod services;
mod up;

pub use commands::run;
