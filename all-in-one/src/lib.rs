//! Everything in one command: the embedded cloud, provisioning and the three
//! services, each service its own process.
//!
//! # Map
//!
//! ```text
//!                      ┌─ cloud: LocalCloud, in this process
//! cli ─▶ commands ─▶ up ─┼─ provision: tables, queue, stock
//!                      ├─ ports: reserved before anything starts
//!                      ├─ supervisor ─▶ child ─▶ this executable again, as a service
//!                      │                         (service, which ends when `up` is gone)
//!                      └─ banner: where everything is
//! ```
//!
//! - [`cli`]: sub-commands and options.
//! - `commands`: what each sub-command does, on its own runtime.
//! - `up`: starts everything, waits for a signal, stops everything in order.
//! - `supervisor`: keeps the children running; `child` is one process.
//! - `chaos`: the same with more of them, behind a proxy, under load and faults.
//! - `readiness`: asks `/readyz`; also the `healthcheck` sub-command.
//! - `service`: the other side of `child`.
//! - `signals`: the first Ctrl-C stops, the second kills.

mod banner;
mod chaos;
mod child;
pub mod cli;
mod cloud;
mod commands;
mod ports;
mod provision;
mod readiness;
mod service;
mod signals;
mod supervisor;
mod up;

pub use commands::run;
