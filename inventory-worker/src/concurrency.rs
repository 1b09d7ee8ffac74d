//! Concurrency limit: the one bound on the messages that the worker holds at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// `WORKER_CONCURRENCY` permits, shared by all pollers.
#[derive(Clone, Debug)]
pub(crate) struct ConcurrencyLimit {
    available: Arc<Semaphore>,
    /// Permits of messages in flight. The semaphore does not know the number, because a running
    /// long poll holds the permits of the messages it requested.
    in_flight: Arc<AtomicUsize>,
}

/// Permits for the messages of one receive request.
#[derive(Debug)]
pub(crate) struct Reservation {
    permits: OwnedSemaphorePermit,
    in_flight: Arc<AtomicUsize>,
}

/// Permit of one message in flight; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
    in_flight: Arc<AtomicUsize>,
}

impl ConcurrencyLimit {
    pub(crate) fn new(permits: u16) -> Self {
        Self {
            available: Arc::new(Semaphore::new(usize::from(permits))),
            in_flight: Arc::default(),
        }
    }

    /// Waits for a permit, and acquires up to `max` of those available then.
    pub(crate) async fn reserve(&self, max: u32) -> Reservation {
        let mut permits = Arc::clone(&self.available)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        for _ in 1..max {
            match Arc::clone(&self.available).try_acquire_owned() {
                Ok(permit) => permits.merge(permit),
                Err(_) => break,
            }
        }
        Reservation {
            permits,
            in_flight: Arc::clone(&self.in_flight),
        }
    }

    /// Returns `true` if no message is in flight.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.load(Ordering::Acquire) == 0
    }
}

impl Reservation {
    pub(crate) fn count(&self) -> usize {
        self.permits.num_permits()
    }

    /// Splits off the permit of one message; `None` if none is left.
    pub(crate) fn split_permit(&mut self) -> Option<Permit> {
        let permit = self.permits.split(1)?;
        self.in_flight.fetch_add(1, Ordering::AcqRel);
        Some(Permit {
            _permit: permit,
            in_flight: Arc::clone(&self.in_flight),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.in_flight.fetch_sub(1, Ordering::AcqRel);
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
}
