//! Outbox table port.

use async_trait::async_trait;
use outbox::Status;
use outbox_relay::ports::{
    EventKey, Item, MarkOutcome, OutboxTable, PendingCursor, PendingPage, Published, Quarantine,
    TableError,
};

use super::{Mutation, View};

#[async_trait]
impl OutboxTable for View {
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        assert!((1..=25).contains(&published.len()));
        let keys: Vec<_> = published.iter().map(|event| event.key.clone()).collect();
        self.request(move |view| view.mark_all(&keys)).await
    }

    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        let key = event.key.clone();
        self.request(move |view| {
            if view.strikes("quarantine failed", 0.1) {
                return Err(simulated());
            }
            let quarantined = view.world().quarantine(&view.name, &key);
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
        let page = self.world().pending(bucket, after);
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
    fn mark_all(&self, keys: &[EventKey]) -> Result<Vec<MarkOutcome>, TableError> {
        if self.lacks(Mutation::NotMarking) {
            return Ok(vec![MarkOutcome::Marked; keys.len()]);
        }
        if self.strikes("mark failed", 0.05) {
            return Err(simulated());
        }
        let outcomes = keys
            .iter()
            .map(|key| {
                if self.strikes("mark failed", 0.02) {
                    MarkOutcome::TryAgain
                } else if self.world().mark(&self.name, key) {
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
