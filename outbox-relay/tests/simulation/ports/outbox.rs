//! Outbox table port.

use std::time::Duration;

use async_trait::async_trait;
use outbox::Status;
use outbox_relay::engine::OnFailure;
use outbox_relay::ports::{
    Deferral, EarlierEvent, EventKey, Item, MarkOutcome, OutboxTable, PendingCursor, PendingPage,
    Published, Quarantine, StoredStatus, TableError,
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
        self.request(Some(Err(simulated())), move |view, _| {
            view.mark_all(&published)
        })
        .await
    }

    async fn quarantine(&self, event: &Quarantine) -> Result<MarkOutcome, TableError> {
        let event = event.clone();
        self.request(Some(Err(simulated())), move |view, _| {
            if view.strikes("quarantine failed", 0.1) {
                return Err(simulated());
            }
            let quarantined = view.world().quarantine(&view.name, &event);
            view.retry_some(&event.key);
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

    async fn defer(&self, deferrals: &[Deferral]) -> Result<Vec<MarkOutcome>, TableError> {
        assert!((1..=25).contains(&deferrals.len()));
        if self.lacks(Mutation::NotDeferring) {
            return Err(simulated());
        }
        let deferrals = deferrals.to_vec();
        self.request(Some(Err(simulated())), move |view, _| {
            view.defer_all(&deferrals)
        })
        .await
    }

    async fn statuses(&self, keys: &[EventKey]) -> Result<Vec<Option<StoredStatus>>, TableError> {
        assert!((1..=100).contains(&keys.len()));
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(simulated());
        }
        let statuses = {
            let world = self.world();
            keys.iter()
                .map(|key| self.looked_up(world.status(key)))
                .collect()
        };
        self.travel().await;
        Ok(statuses)
    }

    async fn items(&self, keys: &[EventKey]) -> Result<Vec<Option<Item>>, TableError> {
        assert!((1..=100).contains(&keys.len()));
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(simulated());
        }
        let items = {
            let world = self.world();
            keys.iter().map(|key| world.item(key)).collect()
        };
        self.travel().await;
        Ok(items)
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
            page.entries.retain(|entry| !entry.is_republished);
        }
        self.travel().await;
        Ok(page)
    }

    async fn latest_before(
        &self,
        aggregate_id: &str,
        sequence: &str,
        limit: usize,
    ) -> Result<Vec<EarlierEvent>, TableError> {
        self.travel().await;
        if self.strikes("lookup failed", 0.03) {
            return Err(simulated());
        }
        let before = sequence.parse().expect("a sequence is a number");
        let mut earlier = self.world().latest_before(aggregate_id, before, limit);
        for event in &mut earlier {
            event.status = self.looked_up(event.status);
            if let Some(stored) = &mut event.status
                && self.lacks(Mutation::NoPredecessors)
            {
                stored.status = Status::Published;
            }
        }
        self.travel().await;
        Ok(earlier)
    }

    async fn count_pending(&self) -> Result<u64, TableError> {
        Ok(0)
    }

    async fn count_failed(&self) -> Result<u64, TableError> {
        Ok(0)
    }
}

impl View {
    /// Returns a status as a look-up of this instance returns it.
    fn looked_up(&self, stored: Option<StoredStatus>) -> Option<StoredStatus> {
        stored.map(|stored| match stored.status {
            Status::Published if self.lacks(Mutation::NoLookUps) => StoredStatus {
                status: Status::Pending,
                ..stored
            },
            _ => stored,
        })
    }

    /// Lets an operator retry a quarantined event in some cases, around the time of the answer to
    /// its quarantine.
    fn retry_some(&self, key: &EventKey) {
        let holds = self.world().setup.on_failure == OnFailure::Hold;
        if holds && self.strikes("event retried at once", 0.2) {
            let delay = Duration::from_millis(self.world().random.u64(..30));
            let (view, key) = (self.clone(), key.clone());
            tokio::spawn(async move {
                tokio::time::sleep(delay).await;
                view.world().retry_quarantined(&key);
            });
        }
    }

    fn defer_all(&self, deferrals: &[Deferral]) -> Result<Vec<MarkOutcome>, TableError> {
        if self.strikes("defer failed", 0.05) {
            return Err(simulated());
        }
        let outcomes = deferrals
            .iter()
            .map(|deferral| {
                if self.strikes("defer failed", 0.02) {
                    MarkOutcome::TryAgain
                } else if self.world().defer(&self.name, deferral) {
                    MarkOutcome::Marked
                } else {
                    MarkOutcome::NotPending
                }
            })
            .collect();
        if self.strikes("defer answer lost", 0.02) {
            Err(simulated())
        } else {
            Ok(outcomes)
        }
    }

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
                let mut mark = mark.clone();
                if self.lacks(Mutation::SwallowedReplays) {
                    mark.generation.replays = self.world().replays(&mark.key);
                }
                if self.strikes("mark failed", 0.02) {
                    MarkOutcome::TryAgain
                } else if self.world().mark(&self.name, &mark) {
                    MarkOutcome::Marked
                } else {
                    MarkOutcome::NotPending
                }
            })
            .collect();
        if self.strikes("mark answer lost", 0.02) {
            // The mark will be repeated.
            self.world().replay_some(&published[0].key);
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
