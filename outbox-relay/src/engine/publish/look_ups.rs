//! Look-ups of events that have waited for a queue that failed: drops those that were settled
//! meanwhile (the "deferral" rule).

use outbox::Status;
use tokio::time::Instant;

use super::publisher::Publisher;
use crate::engine::in_flight::Ack;
use crate::policy::send_scheduler::{Batch, EventRef};
use crate::ports::StoredStatus;

impl Publisher {
    /// Processes the statuses of the events of a batch, in order: those that are still pending are
    /// sent next, and the others are settled.
    pub(super) fn process_statuses(
        &mut self,
        batch: &Batch,
        statuses: &[Option<StoredStatus>],
        now: Instant,
    ) {
        self.scheduler.record_batch_end(batch);
        let mut pending = Vec::new();
        for (outgoing, stored) in batch.events.iter().zip(statuses) {
            let event = EventRef::of(&outgoing.event);
            let status = stored.map(|stored| stored.status);
            if status == Some(Status::Pending) || self.scheduler.is_newer(&event, batch) {
                pending.push(event);
            } else {
                self.settle_waiting(&event, status, now);
            }
        }
        self.scheduler.resume(pending.iter(), now);
    }

    /// Settles an event that is no longer pending. Later events of its aggregate follow, unless it
    /// was quarantined and they have to wait for it.
    fn settle_waiting(&mut self, event: &EventRef, status: Option<Status>, now: Instant) {
        if status == Some(Status::Failed) {
            self.hold_successors(event, now);
        }
        self.scheduler
            .remove_rejected(event, now)
            .into_iter()
            .for_each(Ack::settle);
    }
}
