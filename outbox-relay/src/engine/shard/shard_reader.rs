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

/// Number of consecutive throttled reads from which they are reported. Fewer are usual where the
/// service permits fewer reads than `poll_min` asks for.
const REPORTED_THROTTLES: u32 = 10;

/// Page of records.
pub(super) struct ReadPage {
    pub(super) page: Page,
    /// Time at which the read started, by the service clock.
    pub(super) started_at: Timestamp,
    /// Reservation of a page with records, held until its events are dispatched.
    pub(super) budget: Option<OwnedSemaphorePermit>,
}

/// Position from which a shard is read when its lease is acquired.
#[derive(Clone, Debug)]
pub(crate) struct StartPosition {
    pub(crate) checkpoint: Option<SequenceNumber>,
    /// First position of a shard that was created after the consumer group began to read the
    /// stream. Records from there on that are not available any more are a gap.
    pub(crate) start: Option<SequenceNumber>,
}

impl From<StartPosition> for Position {
    fn from(position: StartPosition) -> Self {
        match (position.checkpoint, position.start) {
            (Some(checkpoint), _) => Self::After(checkpoint),
            (None, Some(start)) => Self::At(start),
            (None, None) => Self::TrimHorizon,
        }
    }
}

pub(super) struct ShardReader {
    ctx: ShardContext,
    shard: Arc<ShardState>,
    random: fastrand::Rng,
    /// Position of the next record.
    position: Position,
    /// Iterator at the next record. Kept while reads fail, since a new one costs a request.
    iterator: Option<ShardIterator>,
    /// The group knows of no record of the shard before `position`, so that a trimmed one is not a
    /// gap.
    is_unread: bool,
    /// No read has succeeded since the last gap. Records that are trimmed before belong to it.
    is_in_gap: bool,
    /// The next page may be of any size. The page of a reader that keeps up is small: it contains
    /// what was written since the last read.
    is_behind: bool,
    /// Consecutive failures.
    failures: u32,
}

impl ShardReader {
    /// Creates a reader that starts at `position`.
    pub(super) fn new(
        ctx: ShardContext,
        shard: Arc<ShardState>,
        position: StartPosition,
        random: fastrand::Rng,
    ) -> Self {
        let position = Position::from(position);
        Self {
            ctx,
            shard,
            random,
            is_unread: position == Position::TrimHorizon,
            position,
            iterator: None,
            is_in_gap: false,
            is_behind: true,
            failures: 0,
        }
    }

    /// Reads to the end of a closed shard, and sends the pages to `pages`.
    pub(super) async fn run(mut self, pages: mpsc::Sender<ReadPage>) {
        let mut pacing = ReadPacing::new(self.ctx.config.poll_min, self.ctx.config.poll_max);
        loop {
            let (id, status) = (&self.shard.id, &self.ctx.status);
            // Hundreds of shards that keep up must not delay each other, so they reserve permits
            // only once the size of the page is known.
            let mut permit = None;
            if self.is_behind {
                permit = Some(self.ctx.budget.reserve_largest_page(id, status).await);
            }
            let read_at = Instant::now();
            let started_at = self.ctx.clock.now();
            let page = match self.read_page().await {
                Ok(page) => page,
                Err(error) => {
                    drop(permit);
                    if self.is_end(error).await {
                        return;
                    }
                    continue;
                }
            };
            self.record_success(&page);
            let has_ended = self.iterator.is_none();
            let interval = pacing.interval_after(page.records.len(), page.bytes);
            self.is_behind = interval.is_zero();
            let (id, status) = (&self.shard.id, &self.ctx.status);
            let budget = if page.records.is_empty() {
                drop(permit);
                None
            } else {
                let budget = &self.ctx.budget;
                Some(budget.reserve_page(&page, permit, id, status).await)
            };
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

    /// Reads one page. The iterator is `None` afterwards if the shard has ended, and unchanged
    /// after an error.
    async fn read_page(&mut self) -> Result<Page, StreamError> {
        let stream = &self.ctx.ports.stream;
        let _permit = self.ctx.budget.reserve_read().await;
        let iterator = match &self.iterator {
            Some(iterator) => iterator,
            None => {
                let iterator = stream
                    .shard_iterator(&self.ctx.stream, &self.shard.id, &self.position)
                    .await?;
                self.iterator.insert(iterator)
            }
        };
        let page = stream.read(iterator).await?;
        self.iterator.clone_from(&page.next);
        Ok(page)
    }

    fn record_success(&mut self, page: &Page) {
        self.is_in_gap = false;
        self.failures = 0;
        let status = &self.ctx.status;
        status.record_read(&self.shard.id, Instant::now());
        if let Some(served_at) = page.served_at {
            self.ctx.clock.observe(served_at);
        }
        if let Some(last) = page.records.last() {
            self.position = Position::After(last.sequence_number.clone());
            self.is_unread = false;
        }
    }

    /// Handles a failed read, and waits before the next one. Returns `true` if the shard does not
    /// exist any more.
    async fn is_end(&mut self, error: StreamError) -> bool {
        self.failures += 1;
        self.is_behind = true;
        let (shard, failures) = (&self.shard.id, self.failures);
        match error {
            StreamError::Expired => self.iterator = None,
            StreamError::Trimmed => {
                if !self.is_in_gap {
                    self.report_trimmed().await;
                }
                self.is_in_gap = true;
                self.iterator = None;
                self.position = Position::TrimHorizon;
            }
            StreamError::NotFound(_) => {
                self.iterator = None;
                if self.ctx.directory.is_deleted(shard) {
                    self.report_gap("the end of the shard").await;
                    return true;
                }
                self.report_failure(&error);
            }
            StreamError::InvalidPosition(_) if matches!(self.position, Position::At(_)) => {
                tracing::info!(%shard, %error, "shard is read from its oldest available record");
                self.position = Position::TrimHorizon;
                self.is_unread = true;
            }
            StreamError::Throttled(_) if failures < REPORTED_THROTTLES => {
                tracing::debug!(%shard, %error, failures, "read was throttled; retrying");
            }
            StreamError::InvalidPosition(_)
            | StreamError::Throttled(_)
            | StreamError::Denied(_)
            | StreamError::Unavailable(_) => self.report_failure(&error),
        }
        let delay = backoff::delay(self.failures, self.random.f64());
        tokio::time::sleep(delay).await;
        false
    }

    fn report_failure(&self, error: &StreamError) {
        let (shard, failures) = (&self.shard.id, self.failures);
        let is_denied = matches!(error, StreamError::Denied(_));
        let status = &self.ctx.status;
        status.record_read_failure(shard, error.to_string(), is_denied);
        tracing::warn!(%shard, %error, failures, "shard could not be read; retrying");
    }

    /// Reports that records from the current position on were trimmed.
    async fn report_trimmed(&self) {
        if self.is_unread {
            // DynamoDB Local answers so at the first record of a stream.
            tracing::info!(
                shard = %self.shard.id,
                "the oldest record of a shard of which nothing was read has changed; reading from there"
            );
            self.ctx.request_sweep().await;
        } else {
            self.report_gap("the oldest available record").await;
        }
    }

    async fn report_gap(&self, until: &str) {
        let from = match &self.position {
            Position::TrimHorizon => None,
            Position::At(position) | Position::After(position) => Some(position),
        };
        self.ctx.report_gap(&self.shard.id, from, until).await;
    }
}
