//! The runtime of a service: its `main`, HTTP server, health endpoints and telemetry.
//!
//! [`service`] parses the options and checks the environment (`env_check`), starts
//! [`telemetry`], and runs the service until a signal. The service binds a [`server`] and mounts
//! the routes of [`health`] on it; [`denials`] are for its readiness. [`descriptors`] raises the
//! limit on open files for it.

pub mod denials;
pub mod descriptors;
mod env_check;
pub mod health;
pub mod server;
pub mod service;
pub mod telemetry;
