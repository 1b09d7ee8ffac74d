//! State that the handlers share.

use std::time::Duration;

use crate::store::Store;
use crate::telemetry::Instruments;

#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) store: Store,
    pub(crate) instruments: Instruments,
    /// Time limit from the start of a request to its response.
    pub(crate) request_timeout: Duration,
}
