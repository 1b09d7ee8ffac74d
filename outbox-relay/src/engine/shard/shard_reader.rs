//! Shard reader: reads the pages of one shard (the "pacing" and "gap" rules).

use std::sync::Arc;

use outbox::timestamp::Timestamp;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::Instant;

use crate::engine::context::ShardContext;
use crate::engine::shard_state::ShardState;
use crate::policy::backoff;
use crate::policy::read_pacing::ReadPacing;
use crate::ports::{Page, Position, SequenceNumber, ShardIterator, StreamError};

/// Page of records.
pub(super) struct ReadPage {
    pub(super) page: Page,
    /// Wall-clock time at which the read started.
    pub(super) started_at: Timestamp,
    /// Reservation of a page with records, held until its events are dispatched.
    pub(super) budget: Option<OwnedSemaphorePermit>,
}

pub(super) struct ShardReader {
    pub(super) ctx: ShardContext,
    pub(super) shard: Arc<ShardState>,
    pub(super) random: fastrand::Rng,
}

impl ShardReader {
    /// Reads from `checkpoint` to the end of a closed shard, and sends the pages to `pages`.
    pub(super) async fn run(
        mut self,
        checkpoint: Option<SequenceNumber>,
        pages: mpsc::Sender<ReadPage>,
    ) {
        let mut position = checkpoint.map_or(Position::TrimHorizon, Position::After);
        let mut iterator = None;
        let mut pacing = ReadPacing::new(self.ctx.config.poll_min, self.ctx.config.poll_max);
        let mut failures = 0;
        let mut in_gap = false;
        let mut not_found_since = None;
        loop {
            let budget = self
                .ctx
                .budget
                .reserve_page(&self.shard.id, &self.ctx.status)
                .await;
            let read_at = Instant::now();
            let started_at = (self.ctx.config.clock)();
            let page = match self.read_page(&position, &mut iterator).await {
                Ok(page) => page,
                Err(error) => {
                    iterator = None;
                    drop(budget);
                    failures += 1;
                    match error {
                        StreamError::Expired => {}
                        StreamError::Trimmed => {
                            // Records that are trimmed before the next read belong to the same gap.
                            if !in_gap {
                                self.report_gap(&position, "the oldest available record")
                                    .await;
                            }
                            in_gap = true;
                            position = Position::TrimHorizon;
                        }
                        StreamError::NotFound(_) if self.is_deleted(&mut not_found_since) => {
                            self.report_gap(&position, "the end of the shard").await;
                            return;
                        }
                        StreamError::NotFound(_) | StreamError::Unavailable(_) => {
                            tracing::warn!(shard = %self.shard.id, %error, failures, "shard could not be read; retrying");
                        }
                    }
                    let delay = backoff::delay(failures, self.random.f64());
                    tokio::time::sleep(delay).await;
                    continue;
                }
            };
            in_gap = false;
            failures = 0;
            not_found_since = None;
            self.ctx.status.record_read(&self.shard.id, Instant::now());
            if let Some(last) = page.records.last() {
                position = Position::After(last.sequence_number.clone());
            }
            let has_ended = iterator.is_none();
            let interval = pacing.interval_after(page.records.len(), page.bytes);
            let budget = (!page.records.is_empty()).then_some(budget);
            let page = ReadPage {
                page,
                started_at,
                budget,
            };
            let _ = pages.send(page).await;
            if has_ended {
                return;
            }
            tokio::time::sleep_until(read_at + interval).await;
        }
    }

    /// Reads one page. `iterator` is `None` afterwards if the shard has ended.
    async fn read_page(
        &self,
        position: &Position,
        iterator: &mut Option<ShardIterator>,
    ) -> Result<Page, StreamError> {
        let stream = &self.ctx.ports.stream;
        let at = match iterator.take() {
            Some(iterator) => iterator,
            None => {
                stream
                    .shard_iterator(&self.ctx.stream, &self.shard.id, position)
                    .await?
            }
        };
        let page = stream.read(&at).await?;
        iterator.clone_from(&page.next);
        Ok(page)
    }

    async fn report_gap(&self, position: &Position, until: &str) {
        let after = match position {
            Position::TrimHorizon => None,
            Position::After(position) => Some(position),
        };
        self.ctx.report_gap(&self.shard.id, after, until).await;
    }

    /// Returns `true` if the shard, which is not found, is not listed either: it was trimmed
    /// completely. `since` is the time of the first read that did not find it.
    fn is_deleted(&self, since: &mut Option<Instant>) -> bool {
        let since = *since.get_or_insert_with(Instant::now);
        self.ctx.directory.is_deleted(&self.shard.id, since)
    }
}
