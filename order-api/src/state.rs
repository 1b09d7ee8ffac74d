//! State that the handlers share.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::auth::Guard;
use crate::error::ApiError;
use crate::store::Store;
use crate::telemetry::Instruments;

#[derive(Debug)]
pub(crate) struct Api {
    pub(crate) guard: Arc<Guard>,
    pub(crate) store: Store,
    pub(crate) instruments: Instruments,
    /// Time limit from the start of a request to its response.
    pub(crate) request_timeout: Duration,
    /// One permit for each request that may be in flight.
    pub(crate) in_flight: Semaphore,
}

impl Api {
    /// Returns a permit to handle a request. It is taken once the request has arrived completely,
    /// so that slow clients occupy none.
    ///
    /// # Errors
    /// [`ApiError::Overloaded`] if there is none. The request does not wait for one: under overload
    /// that would only make every response later.
    pub(crate) fn permit(&self) -> Result<SemaphorePermit<'_>, ApiError> {
        self.in_flight
            .try_acquire()
            .map_err(|_| ApiError::Overloaded)
    }
}
