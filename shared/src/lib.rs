//! Code that the services share.
//!
//! - [`order`]: the order domain (identifiers, the stored order, `order.placed`).
//! - [`provision`]: table and queue definitions, created idempotently.
//! - [`aws`]: the SDK clients, configured by the SDK's own variables; the classification of their
//!   errors; the syntax of table and queue names.
//! - [`runtime`]: the service runtime: options, server, health, telemetry, shutdown.
//!
//! [`runtime::service`] starts a service with [`aws::Clients`] and a cancellation token. The
//! service writes through the `outbox` crate and [`order`], and reports through
//! [`runtime::telemetry`] and [`runtime::health`].

pub mod aws;
pub mod order;
pub mod provision;
pub mod runtime;
