//! Room for messages: the one bound on how much the worker holds at a time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// `WORKER_CONCURRENCY` slots, shared by everything that receives.
#[derive(Clone, Debug)]
pub(crate) struct ConcurrencyLimit {
    free: Arc<Semaphore>,
    /// Permits of messages in flight. The semaphore cannot tell, because a
    /// running long poll holds the slots of the messages it asked for.
    working: Arc<AtomicUsize>,
}

/// Room for the messages of one request.
#[derive(Debug)]
pub(crate) struct Reservation {
    permits: OwnedSemaphorePermit,
    working: Arc<AtomicUsize>,
}

/// One message's slot; dropping it makes room.
#[derive(Debug)]
pub(crate) struct Permit {
    _permit: OwnedSemaphorePermit,
    working: Arc<AtomicUsize>,
}

impl ConcurrencyLimit {
    pub(crate) fn new(count: u16) -> Self {
        Self {
            free: Arc::new(Semaphore::new(usize::from(count))),
            working: Arc::default(),
        }
    }

    /// Waits for a free slot and takes up to `most` of those free then.
    pub(crate) async fn reserve(&self, most: u32) -> Reservation {
        let mut permits = Arc::clone(&self.free)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        for _ in 1..most {
            match Arc::clone(&self.free).try_acquire_owned() {
                Ok(permit) => permits.merge(permit),
                Err(_) => break,
            }
        }
        Reservation {
            permits,
            working: Arc::clone(&self.working),
        }
    }

    /// Whether no message is being worked on.
    pub(crate) fn idle(&self) -> bool {
        self.working.load(Ordering::Acquire) == 0
    }
}

impl Reservation {
    pub(crate) fn count(&self) -> usize {
        self.permits.num_permits()
    }

    /// A slot for one message; `None` when none is left.
    pub(crate) fn take(&mut self) -> Option<Permit> {
        let permit = self.permits.split(1)?;
        self.working.fetch_add(1, Ordering::AcqRel);
        Some(Permit {
            _permit: permit,
            working: Arc::clone(&self.working),
        })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.working.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_free_slots_are_handed_out_and_a_dropped_one_is_free_again() {
        let slots = ConcurrencyLimit::new(3);
        let mut first = slots.reserve(2).await;
        assert_eq!(first.count(), 2);
        let slot = first.take().unwrap();
        assert!(!slots.idle());

        let second = slots.reserve(10).await;
        assert_eq!(second.count(), 1);
        drop((first, second));
        assert_eq!(slots.reserve(10).await.count(), 2);

        drop(slot);
        assert!(slots.idle());
        assert_eq!(slots.reserve(10).await.count(), 3);
    }
}
