//! Everything in one command: the embedded cloud, provisioning and the three
//! services, each service its own process.
//!
//! # Map
//!
//! ```text
//!                        ┌─ cloud: LocalCloud, in this process
//! cli ─▶ commands ─▶ up ─┼─ shared::provision: tables, queue, stock
//!           │            ├─ supervisor ─▶ this executable again, as a service
//!           │            │                (child_entry, which ends when `up` is gone)
//!           │            └─ banner: where everything is
//!           └─▶ chaos::run, with this executable as the program to start
//! ```
//!
//! - [`cli`]: sub-commands and options.
//! - `commands`: what each sub-command does, on its own runtime.
//! - `up`: starts everything, waits for a signal, stops everything in order.
//! - `supervisor`: keeps the children running.
//! - `readiness`: asks `/readyz`; also the `healthcheck` sub-command.
//! - `child_entry`: the other side of `test_support::child_process`.

mod banner;
mod child_entry;
pub mod cli;
mod cloud;
mod commands;
mod error;
mod readiness;
mod supervisor;
mod up;

pub use commands::run;
