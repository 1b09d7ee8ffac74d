//! Outbox table port.

use async_trait::async_trait;
use outbox::Status;
use outbox::item::attribute;
use outbox_relay::ports::{
    EventKey, Item, MarkOutcome, OutboxTable, PendingCursor, PendingPage, Published, Quarantine,
    TableError,
};

use super::{Mutation, View};

#[async_trait]
impl OutboxTable for View {
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        assert!((1..=25).contains(&published.len()));
        let mut published = published.to_vec();
        if self.lacks(Mutation::NoExpiry) {
            published.iter_mut().for_each(|mark| mark.expires_at = 0);
        }
        self.request(move |view| view.mark_all(&published)).await
    }

    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        let event = event.clone();
        self.request(move |view| {
            if view.strikes("quarantine failed", 0.1) {
                return Err(simulated());
            }
            let quarantined = view.world().quarantine(&view.name, &event);
            if view.strikes("quarantine answer lost", 0.05) {
                Err(simulated())
            } else if quarantined {
                Ok(MarkOutcome::Marked)
            } else {
                Ok(MarkOutcome::NotPending)
            }
        })
        .await
    }

    async fn statuses(&self, keys: &[EventKey]) -> Result<Vec<Option<Status>>, TableError> {
        assert!((1..=100).contains(&keys.len()));
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(simulated());
        }
        let states = {
            let world = self.world();
            keys.iter()
                .map(|key| world.events.get(key).filter(|event| !event.deleted))
                .map(|event| event.map(|event| event.status))
                .map(|status| match status {
                    Some(Status::Published) if self.lacks(Mutation::NoLookUps) => {
                        Some(Status::Pending)
                    }
                    status => status,
                })
                .collect()
        };
        self.travel().await;
        Ok(states)
    }

    async fn pending(
        &self,
        bucket: u32,
        after: Option<PendingCursor>,
    ) -> Result<PendingPage, TableError> {
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(simulated());
        }
        if self.lacks(Mutation::NoSweeper) {
            return Ok(PendingPage::default());
        }
        let mut page = self.world().pending(bucket, after);
        if self.lacks(Mutation::NoRepublishedEvents) {
            let republished = |item: &Item| item.contains_key(attribute::RETRIED_AT);
            page.items.retain(|item| !republished(item));
        }
        self.travel().await;
        Ok(page)
    }

    async fn pending_between(
        &self,
        aggregate_id: &str,
        first: u64,
        last: u64,
    ) -> Result<Vec<Item>, TableError> {
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(simulated());
        }
        if self.lacks(Mutation::NoSweeper) {
            return Ok(Vec::new());
        }
        let items = self.world().pending_between(aggregate_id, first, last);
        self.travel().await;
        Ok(items)
    }

    async fn count_pending(&self) -> Result<u64, TableError> {
        Ok(0)
    }

    async fn count_failed(&self) -> Result<u64, TableError> {
        Ok(0)
    }
}

impl View {
    fn mark_all(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        if self.lacks(Mutation::NotMarking) {
            return Ok(vec![MarkOutcome::Marked; published.len()]);
        }
        if self.strikes("mark failed", 0.05) {
            return Err(simulated());
        }
        let outcomes = published
            .iter()
            .map(|mark| {
                if self.strikes("mark failed", 0.02) {
                    MarkOutcome::TryAgain
                } else if self.world().mark(&self.name, mark) {
                    MarkOutcome::Marked
                } else {
                    MarkOutcome::NotPending
                }
            })
            .collect();
        if self.strikes("mark answer lost", 0.02) {
            Err(simulated())
        } else {
            Ok(outcomes)
        }
    }
}

fn simulated() -> TableError {
    TableError::Unavailable {
        table: "outbox".to_owned(),
        reason: "simulated".to_owned(),
    }
}
