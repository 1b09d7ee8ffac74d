//! What the services share.
//!
//! - [`order`]: the order domain (identifiers, the stored order, `order.placed`).
//! - [`provision`]: table and queue definitions, created idempotently.
//! - [`aws`]: the SDK clients, from the SDK's own variables.
//! - [`telemetry`]: logs, traces and metrics.
//! - [`health`], [`http`]: `/healthz`, `/readyz`, `/metrics` and how a server is bound and stopped.
//! - [`names`]: the form of table and queue names; `environment`: of the SDK's and OpenTelemetry's
//!   variables.
//! - [`process`]: what every `main` does: parse, telemetry, run until a signal.
//!
//! A request flows: `process` starts a service with [`aws::Clients`] and a
//! cancellation token; the service writes through the `outbox` crate and `order`, and
//! reports through `telemetry` and `health`.

pub mod aws;
mod environment;
pub mod health;
pub mod http;
pub mod names;
pub mod order;
pub mod process;
pub mod provision;
pub mod telemetry;
