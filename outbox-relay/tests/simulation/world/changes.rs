//! Changes of stored events: by the relay, by operators, and by DynamoDB.

use outbox::Status;
use outbox_relay::ports::{EventKey, Generation, Published, Quarantine};
use tokio::time::Instant;

use super::table::{EventModel, Flaw};
use super::{World, clock};

impl World {
    /// Marks an event. Returns `false` if it was not pending.
    pub(crate) fn mark(&mut self, instance: &str, mark: &Published) -> bool {
        let Some(event) = self.pending_event(&mark.key, &mark.generation) else {
            return false;
        };
        event.status = Status::Published;
        let replays = event.added.replays;
        event.published.insert(replays, Instant::now());
        event.added.published_at = Some(mark.published_at.to_string());
        event.added.message_id = Some(mark.message_id.clone());
        event.added.expires_at = Some(mark.expires_at);
        self.check_mark(instance, mark, replays);
        self.settled(&mark.key, instance);
        true
    }

    /// Returns the number of replays of an event, as its item contains it.
    pub(crate) fn replays(&self, key: &EventKey) -> Option<u64> {
        let replays = self.events.get(key)?.added.replays;
        (replays > 0).then_some(replays)
    }

    /// Quarantines an event, which must have a flaw. Returns `false` if it was not pending.
    pub(crate) fn quarantine(&mut self, instance: &str, quarantine: &Quarantine) -> bool {
        let key = &quarantine.key;
        let failed_at = Some(quarantine.failed_at.to_string());
        let stored = self.events.get(key);
        // The same write again, after its response was lost.
        if stored.is_some_and(|event| {
            !event.deleted && event.status == Status::Failed && event.added.failed_at == failed_at
        }) {
            return true;
        }
        let retried_at = &quarantine.generation.retried_at;
        let Some(event) = self
            .pending_event(key, &quarantine.generation)
            .filter(|event| event.added.retried_at == *retried_at)
        else {
            return false;
        };
        event.status = Status::Failed;
        event.was_failed = true;
        event.added.failed_at = failed_at;
        if event.flaw.is_none() {
            self.violations.push(format!(
                "error classes: {instance} quarantined the valid event {key:?}"
            ));
        }
        self.settled(key, instance);
        true
    }

    fn pending_event(
        &mut self,
        key: &EventKey,
        generation: &Generation,
    ) -> Option<&mut EventModel> {
        self.events
            .get_mut(key)
            .filter(|event| event.is_pending_replay(generation))
    }

    /// Records that the event is no longer pending.
    fn settled(&mut self, key: &EventKey, by: &str) {
        self.forget_unsettled(key);
        let unindexed_at = Instant::now() + self.lag();
        let event = self.events.get_mut(key).expect("a stored event");
        event.settled_at = Some(Instant::now());
        event.unindexed_at = Some(unindexed_at);
        let line = format!(
            "{by} marks {}:{} {:?}",
            key.aggregate_id, key.sequence, event.status
        );
        self.log(line);
        self.append(key, false);
    }

    fn forget_unsettled(&mut self, key: &EventKey) {
        for unsettled in self.unsettled.values_mut() {
            unsettled.remove(key);
        }
    }

    /// Lets an operator retry, replay or discard a random event, and mostly request a sweep.
    pub(crate) fn operate(&mut self) {
        let failed: Vec<_> = self.keys(|event| event.status == Status::Failed);
        let keys = if failed.is_empty() || self.random.f64() < 0.4 {
            self.keys(|_| true)
        } else {
            failed
        };
        if keys.is_empty() {
            return;
        }
        let key = keys[self.random.usize(..keys.len())].clone();
        match self.events[&key].status {
            Status::Failed if self.random.f64() < 0.7 => self.retry(&key),
            Status::Failed => self.discard(&key, "event discarded"),
            Status::Published => self.replay(&key),
            Status::Pending if self.random.f64() < 0.3 => {
                self.discard(&key, "pending event discarded");
            }
            Status::Pending | Status::Discarded => {}
        }
        if self.random.f64() < 0.8 {
            self.request_sweep();
        }
    }

    /// Lets an operator retry every quarantined event that the queue accepts now, and discard the
    /// others.
    pub(crate) fn release_failed(&mut self) {
        let failed = self.keys(|event| event.status == Status::Failed);
        for key in &failed {
            if self.events[key].flaw == Some(Flaw::Malformed) {
                self.discard(key, "event discarded");
            } else {
                self.retry(key);
            }
        }
        if !failed.is_empty() {
            self.request_sweep();
        }
    }

    /// Lets an operator retry an event if it is quarantined, and request a sweep in some cases.
    pub(crate) fn retry_quarantined(&mut self, key: &EventKey) {
        let stored = self.status(key);
        if stored.is_some_and(|stored| stored.status == Status::Failed) {
            self.retry(key);
            if self.random.bool() {
                self.request_sweep();
            }
        }
    }

    /// Returns the keys of the stored events that satisfy `condition`.
    fn keys(&self, condition: impl Fn(&EventModel) -> bool) -> Vec<EventKey> {
        let stored = self.events.iter().filter(|(_, event)| !event.deleted);
        let found = stored.filter(|(_, event)| condition(event));
        found.map(|(key, _)| key.clone()).collect()
    }

    /// Makes a quarantined event pending again. In the meantime the queue may accept it.
    fn retry(&mut self, key: &EventKey) {
        let heals = self.random.bool();
        let event = self.events.get_mut(key).expect("a stored event");
        if heals && event.flaw == Some(Flaw::Refused) {
            event.flaw = None;
        }
        event.added.retried_at = Some(clock().to_string());
        self.republish(key, "event retried");
    }

    /// Makes a published event pending again: it must be delivered once more.
    fn replay(&mut self, key: &EventKey) {
        let event = self.events.get_mut(key).expect("a stored event");
        event.added.replays += 1;
        event.added.replayed_at = Some(clock().to_string());
        self.republish(key, "event replayed");
    }

    /// Lets an operator replay an event in some cases, if it is published.
    pub(crate) fn replay_some(&mut self, key: &EventKey) {
        let is_published = self
            .status(key)
            .is_some_and(|stored| stored.status == Status::Published);
        if is_published && self.random.f64() < 0.3 {
            self.replay(key);
        }
    }

    fn republish(&mut self, key: &EventKey, kind: &'static str) {
        let indexed_at = Instant::now() + self.lag();
        let event = self.events.get_mut(key).expect("a stored event");
        event.status = Status::Pending;
        event.has_bucket = true;
        event.added.expires_at = None;
        event.indexed_at = indexed_at;
        event.unindexed_at = None;
        event.republished += 1;
        self.changed(key, kind);
    }

    fn discard(&mut self, key: &EventKey, kind: &'static str) {
        let event = self.events.get_mut(key).expect("a stored event");
        event.status = Status::Discarded;
        event.was_discarded = true;
        self.forget_unsettled(key);
        let unindexed_at = Instant::now() + self.lag();
        let event = self.events.get_mut(key).expect("a stored event");
        event.settled_at = Some(Instant::now());
        event.unindexed_at = Some(unindexed_at);
        self.changed(key, kind);
    }

    /// Records a change by an operator.
    fn changed(&mut self, key: &EventKey, kind: &'static str) {
        self.faults.note(kind);
        self.log(format!("{kind}: {}:{}", key.aggregate_id, key.sequence));
        self.append(key, false);
    }

    /// Requests a sweep from the holders of the sweeper's leases.
    fn request_sweep(&mut self) {
        self.faults.note("sweep requested");
        let value = self.next_value();
        for lease in self.leases.values_mut() {
            if lease.shard.sweeper_index().is_some() {
                lease.requests.sweep = Some(value.clone());
            }
        }
    }

    /// Removes a random item, whatever its status.
    pub(crate) fn delete_one(&mut self) {
        let unindexed_at = Instant::now() + self.lag();
        let at = self.random.usize(..self.events.len().max(1));
        let Some((key, event)) = self.events.iter_mut().nth(at) else {
            return;
        };
        event.deleted = true;
        event.unindexed_at.get_or_insert(unindexed_at);
        let key = key.clone();
        self.forget_unsettled(&key);
        self.faults.note("event deleted");
        self.log(format!("delete {}:{}", key.aggregate_id, key.sequence));
    }
}
