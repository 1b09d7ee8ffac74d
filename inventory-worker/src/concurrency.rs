//! Bounds on the messages that the worker holds at a time, and on its requests.
//!
//! A message is received with an *admission permit*, of which there are `WORKER_CONCURRENCY`. When
//! it has to wait, for other orders of its SKUs or for the next attempt, it exchanges the permit
//! for one of [`MAX_PARKED`] *parking permits*, so that messages for other SKUs are received
//! meanwhile. While no parking permit is available it keeps its admission permit, and when all are
//! kept, receiving pauses. So a worker holds at most `WORKER_CONCURRENCY` + [`MAX_PARKED`]
//! messages.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::Meter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};

/// Upper bound on parked messages. A batch takes up to 50 of them, so that a hot SKU at DynamoDB's
/// some hundred transactions a second never lacks orders; a message takes up to about 10 KB.
pub(crate) const MAX_PARKED: usize = 1_000;

/// The permits, shared by all pollers and batches.
#[derive(Clone, Debug)]
pub(crate) struct ConcurrencyLimit {
    admission: Arc<Semaphore>,
    parking: Arc<Semaphore>,
    /// Permits of requests to DynamoDB that are in flight: `WORKER_CONCURRENCY` as well.
    requests: Arc<Semaphore>,
    /// Messages in flight. The semaphores do not know the number, because a running long poll
    /// holds the permits of the messages it requested.
    in_flight: Arc<AtomicUsize>,
}

/// Permits for the messages of one receive request.
#[derive(Debug)]
pub(crate) struct Reservation {
    permits: OwnedSemaphorePermit,
    limit: ConcurrencyLimit,
}

/// Permit of one message in flight; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Permit {
    permit: OwnedSemaphorePermit,
    is_parked: bool,
    limit: ConcurrencyLimit,
}

impl ConcurrencyLimit {
    pub(crate) fn new(permits: u16) -> Self {
        Self::with_parking(permits, MAX_PARKED)
    }

    fn with_parking(permits: u16, parked: usize) -> Self {
        Self {
            admission: Arc::new(Semaphore::new(usize::from(permits))),
            parking: Arc::new(Semaphore::new(parked)),
            requests: Arc::new(Semaphore::new(usize::from(permits))),
            in_flight: Arc::default(),
        }
    }

    /// Waits for an admission permit, and acquires up to `max` of those available then.
    pub(crate) async fn reserve(&self, max: u32) -> Reservation {
        let mut permits = Arc::clone(&self.admission)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        for _ in 1..max {
            match Arc::clone(&self.admission).try_acquire_owned() {
                Ok(permit) => permits.merge(permit),
                Err(_) => break,
            }
        }
        Reservation {
            permits,
            limit: self.clone(),
        }
    }

    /// Waits for the permit of a request. It is held while the request runs, never during a pause.
    pub(crate) async fn request(&self) -> SemaphorePermit<'_> {
        let permit = self.requests.acquire().await;
        permit.expect("the semaphore is never closed")
    }

    /// Creates the gauge of the messages that the worker holds.
    pub(crate) fn register_gauge(&self, meter: &Meter) {
        let limit = self.clone();
        meter
            .u64_observable_gauge("worker.messages.held")
            .with_unit("{message}")
            .with_description(
                "Messages received and not yet ended: `active` ones, up to WORKER_CONCURRENCY, and \
                 those `waiting` for their SKUs or for the next attempt.",
            )
            .with_callback(move |gauge| {
                let waiting = MAX_PARKED.saturating_sub(limit.parking.available_permits());
                let active = limit.in_flight().saturating_sub(waiting);
                for (state, count) in [("active", active), ("waiting", waiting)] {
                    let count = u64::try_from(count).unwrap_or(u64::MAX);
                    gauge.observe(count, &[KeyValue::new("state", state)]);
                }
            })
            .build();
    }

    /// Returns the number of messages in flight.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Acquire)
    }

    /// Returns `true` if no message is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight() == 0
    }
}

impl Reservation {
    pub(crate) fn count(&self) -> usize {
        self.permits.num_permits()
    }

    /// Splits off the permit of one message; `None` if none is left.
    pub(crate) fn split_permit(&mut self) -> Option<Permit> {
        let permit = self.permits.split(1)?;
        self.limit.in_flight.fetch_add(1, Ordering::AcqRel);
        Some(Permit {
            permit,
            is_parked: false,
            limit: self.limit.clone(),
        })
    }
}

impl Permit {
    /// Exchanges the admission permit for a parking permit, if one is available.
    pub(crate) fn park(&mut self) {
        if !self.is_parked
            && let Ok(parked) = Arc::clone(&self.limit.parking).try_acquire_owned()
        {
            self.permit = parked;
            self.is_parked = true;
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limit.in_flight.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reservation_has_only_available_permits_and_a_dropped_permit_is_available_again() {
        let limit = ConcurrencyLimit::new(3);
        let mut first = limit.reserve(2).await;
        assert_eq!(first.count(), 2);
        let permit = first.split_permit().unwrap();
        assert!(!limit.is_idle());

        let second = limit.reserve(10).await;
        assert_eq!(second.count(), 1);
        drop((first, second));
        assert_eq!(limit.reserve(10).await.count(), 2);

        drop(permit);
        assert!(limit.is_idle());
        assert_eq!(limit.reserve(10).await.count(), 3);
    }

    #[tokio::test]
    async fn a_parked_message_admits_another_until_no_parking_permit_is_left() {
        let limit = ConcurrencyLimit::with_parking(2, 2);
        let mut held = Vec::new();
        for _ in 0..4 {
            let mut permit = limit.reserve(1).await.split_permit().unwrap();
            permit.park();
            held.push(permit);
        }
        assert_eq!(limit.in_flight(), 4);
        // The last two keep their admission permits.
        assert_eq!(limit.admission.available_permits(), 0);
        held.remove(0);
        held[2].park();
        assert_eq!(limit.reserve(10).await.count(), 1);
        held.clear();
        assert_eq!(limit.reserve(10).await.count(), 2);
        assert_eq!(limit.parking.available_permits(), 2);
    }
}
