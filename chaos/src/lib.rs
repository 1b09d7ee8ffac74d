//! `chaos`: real processes under load, faults of every kind drawn from a seed,
//! and a check of everything that was promised.
//!
//! # Map
//!
//! ```text
//! order_workload ─HTTP─▶ order-api ─┐                     ┌─▶ DynamoDB, Streams
//!                       relay-1…n  ─┼─ proxy (one each) ──┤                      backend
//!                       worker-1…n ─┘    ▲                └─▶ SQS
//! sequence_workload ─────────────────────┼──────────────────▶
//! schedule ─▶ fault_injector ────────────┘ and processes (SIGKILL, SIGSTOP, SIGTERM)
//!
//! all of it ─▶ recorder ─▶ history ─▶ checkers ─▶ report
//! ```
//!
//! - `options`: the command line. `run`: a run from its start to its end. `error`: [`ChaosError`].
//! - `backend`: the cloud, embedded or at other endpoints; `final_state`: what it contains at the
//!   end.
//! - `cluster`: all processes and their configuration. `processes`: keeps one process running and
//!   records its incarnations; `logs`: reads its log. `remote`: kills, terminates and pauses it.
//! - `schedule`: the times of all faults, from the seed; `fault_injector` executes it.
//! - `proxy`: faults of requests; records what is sent and delivered.
//! - `order_workload`: clients of the API; `sequence_workload`: writers of events in sequence, and
//!   their consumer.
//! - `recorder`: collects the `history`, which `checkers` judge, `analysis` evaluates and `report`
//!   describes. `progress`: the line shown during a run.

mod analysis;
mod backend;
mod checkers;
mod cluster;
mod degradation;
mod error;
mod fault_injector;
mod final_state;
mod history;
mod logs;
pub mod options;
mod order_workload;
mod processes;
mod progress;
mod proxy;
mod recorder;
mod remote;
mod report;
mod run;
mod schedule;
mod sequence_workload;

pub use error::ChaosError;
pub use options::ChaosOptions;
pub use run::run;
