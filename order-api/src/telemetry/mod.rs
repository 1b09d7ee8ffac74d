//! Span and metrics of every request.

mod metrics;
mod server_span;

pub(crate) use metrics::Instruments;
pub(crate) use server_span::observe;
