//! `chaos`: real processes under load, faults of every kind drawn from a seed,
//! and a check of everything that was promised.
//!
//! # Map
//!
//! ```text
//!  load ──HTTP──▶ order-api ─┐                     ┌─▶ DynamoDB, Streams
//!                relay-1…n  ─┼─ proxy (one each) ──┤                      target
//!                worker-1…n ─┘    ▲                └─▶ SQS
//!  steps ─────────────────────────┼──────────────────▶
//!  schedule ─▶ injector ──────────┘ and processes (SIGKILL, SIGSTOP, SIGTERM)
//!
//!  all of it ─▶ recorder ─▶ history ─▶ check ─▶ report
//! ```
//!
//! - [`options`]: the command line. `run`: a run from its start to its end.
//! - [`target`]: the cloud, embedded or somebody else's; `observe`: what is in it.
//! - [`crew`]: all processes, and what each is told. [`processes`]: keeps one running, and does to
//!   it what it is told; `logs`: reads what it logs.
//! - [`schedule`]: what happens when, from the seed; [`injector`] makes it happen.
//! - [`proxy`]: faults of requests; sees what is sent and delivered.
//! - [`load`]: clients of the API; [`steps`]: writers of events in sequence, and their consumer.
//! - [`recorder`]: gathers the [`history`], which [`check`] judges, [`measure`] counts and
//!   [`report`] describes. [`progress`]: the line shown meanwhile.

mod check;
mod crew;
mod history;
mod injector;
mod load;
mod logs;
mod measure;
mod observe;
pub mod options;
mod processes;
mod progress;
mod proxy;
mod recorder;
mod report;
mod run;
mod schedule;
mod steps;
mod target;

pub use options::ChaosOptions;
pub use run::{ChaosError, run};
