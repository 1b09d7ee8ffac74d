//! The outbox table.

use async_trait::async_trait;
use outbox_relay::ports::{
    EventKey, Item, MarkOutcome, OutboxTable, PendingCursor, PendingPage, Published, Quarantine,
    TableError,
};
use shared::outbox::Status;

use super::{Mutation, View};

#[async_trait]
impl OutboxTable for View {
    async fn mark(&self, published: &[Published]) -> Result<Vec<MarkOutcome>, TableError> {
        assert!((1..=25).contains(&published.len()));
        self.travel().await;
        if self.lacks(Mutation::NotMarking) {
            return Ok(vec![MarkOutcome::Marked; published.len()]);
        }
        if self.strikes("mark failed", 0.05) {
            return Err(TableError("simulated".to_owned()));
        }
        let outcomes = published
            .iter()
            .map(|event| {
                if self.strikes("mark failed", 0.02) {
                    MarkOutcome::TryAgain
                } else if self.world().mark(&self.name, &event.key) {
                    MarkOutcome::Marked
                } else {
                    MarkOutcome::NotPending
                }
            })
            .collect();
        let lost = self.strikes("mark answer lost", 0.02);
        self.travel().await;
        if lost {
            Err(TableError("simulated".to_owned()))
        } else {
            Ok(outcomes)
        }
    }

    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        self.travel().await;
        if self.strikes("quarantine failed", 0.1) {
            return Err(TableError("simulated".to_owned()));
        }
        let quarantined = self.world().quarantine(&self.name, &event.key);
        let lost = self.strikes("quarantine answer lost", 0.05);
        self.travel().await;
        match (lost, quarantined) {
            (true, _) => Err(TableError("simulated".to_owned())),
            (false, true) => Ok(MarkOutcome::Marked),
            (false, false) => Ok(MarkOutcome::NotPending),
        }
    }

    async fn states(&self, keys: &[EventKey]) -> Result<Vec<Option<Status>>, TableError> {
        assert!((1..=100).contains(&keys.len()));
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(TableError("simulated".to_owned()));
        }
        let states = {
            let world = self.world();
            keys.iter()
                .map(|key| world.events.get(key).filter(|event| !event.deleted))
                .map(|event| event.map(|event| event.status))
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
            return Err(TableError("simulated".to_owned()));
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
            return Err(TableError("simulated".to_owned()));
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
