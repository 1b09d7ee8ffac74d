//! Tools of operators: read and change the outbox table and the leases from outside a relay.
//!
//! - [`service`]: the operations. Lists, shows and changes events, observes leases, reports the
//!   status. Issues its requests to the two tables through `outbox-store`.
//! - [`cli`]: the operations as sub-commands on a terminal or in a script.
//! - [`web`]: the operations as a console on a relay's admin port, together with a view of the
//!   relay that serves it.
//! - [`Settings`]: the tables and the consumer group that all of them work on.
//!
//! The relay depends on this crate and never the reverse: the state of a running relay arrives as
//! plain data ([`web::RelayView`]).

pub mod cli;
pub mod service;
mod settings;
pub mod web;

pub use settings::{AggregateTables, Settings};
pub use web::{AdminToken, AdminTokens, AllowedHosts, MIN_REMOTE_TOKEN};
