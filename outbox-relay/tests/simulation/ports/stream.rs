//! Stream port.

use std::sync::Arc;

use async_trait::async_trait;
use outbox::timestamp::Timestamp;
use outbox_relay::ports::{Page, Position, Shard, ShardId, ShardIterator, Stream, StreamError};
use tokio::time::Instant;

use super::{Mutation, View};
use crate::world::{Limit, PAGE, clock};

/// Maximum number of shards in a page of a listing: low, so that a listing takes several requests.
const LISTING_PAGE: usize = 3;

/// Suffix of an iterator that has been at the oldest record of a shard since it was requested.
const UNREAD: &str = "|unread";

#[async_trait]
impl Stream for View {
    async fn locate(&self) -> Result<Arc<str>, StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.02) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        Ok(self.world().stream().into())
    }

    async fn shards(
        &self,
        stream: &str,
        after: Option<&ShardId>,
    ) -> Result<(Vec<Shard>, Option<ShardId>), StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.05) || self.world().is_throttled(Limit::Listing) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        self.check_stream(stream)?;
        if after.is_some() && self.strikes("lister dies", 0.02) {
            self.world().condemned.insert(self.name.clone());
        }
        let mut rest = self.listed();
        if let Some(after) = after {
            let at = rest.iter().position(|shard| shard.id == *after);
            rest.drain(..at.map_or(0, |at| at + 1));
        }
        let next = (rest.len() > LISTING_PAGE).then(|| rest[LISTING_PAGE - 1].id.clone());
        rest.truncate(LISTING_PAGE);
        Ok((rest, next))
    }

    async fn children(
        &self,
        stream: &str,
        parent: &ShardId,
    ) -> Result<Option<Vec<Shard>>, StreamError> {
        self.travel().await;
        if self.strikes("no child filter", 0.3) {
            return Ok(None);
        }
        if self.strikes("stream unavailable", 0.05) || self.world().is_throttled(Limit::Listing) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        self.check_stream(stream)?;
        let mut children = self.listed();
        children.retain(|shard| shard.parent.as_ref() == Some(parent));
        Ok(Some(children))
    }

    async fn shard_iterator(
        &self,
        stream: &str,
        shard: &ShardId,
        position: &Position,
    ) -> Result<ShardIterator, StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.03) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        self.check_stream(stream)?;
        let after = match position {
            Position::TrimHorizon => self.world().trimmed(shard),
            Position::At(number) => number.0.parse::<u64>().expect("a number made here") - 1,
            Position::After(number) => number.0.parse().expect("a number made here"),
        };
        let trimmed = self.world().trimmed(shard);
        if after < trimmed && !self.ignores_gap() {
            return Err(self.trimmed());
        }
        let after = after.max(trimmed);
        // A reader that has not read a record of the shard knows of no gap.
        let unread = if *position == Position::TrimHorizon {
            UNREAD
        } else {
            ""
        };
        Ok(ShardIterator(format!("{shard}|{after}{unread}")))
    }

    async fn read(&self, iterator: &ShardIterator) -> Result<Page, StreamError> {
        self.travel().await;
        if self.strikes("stream unavailable", 0.03) {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        if self.strikes("expired iterator", 0.01) {
            return Err(StreamError::Expired);
        }
        let position = iterator.0.strip_suffix(UNREAD);
        let is_unread = position.is_some();
        let (shard, after) = position
            .unwrap_or(&iterator.0)
            .split_once('|')
            .expect("an iterator of this simulation");
        let after: u64 = after.parse().expect("an iterator of this simulation");
        if self.world().shard(&ShardId(shard.into())).is_none() {
            return Err(StreamError::NotFound("trimmed completely".to_owned()));
        }
        let id = ShardId(shard.into());
        let is_unreadable = self.world().unreadable.as_ref() == Some(&id);
        if is_unreadable {
            return Err(StreamError::Unavailable("simulated".to_owned()));
        }
        if self.world().is_throttled(Limit::Reads(id.clone())) {
            return Err(StreamError::Throttled("simulated".to_owned()));
        }
        let trimmed = self.world().trimmed(&id);
        if after < trimmed && (is_unread || !self.ignores_gap()) {
            return Err(if is_unread {
                StreamError::Trimmed
            } else {
                self.trimmed()
            });
        }
        self.world().check_parent(&id);
        self.world().check_reader(&self.name, &id);
        let empty = self.strikes("empty page", 0.02);
        let page = {
            let mut world = self.world();
            let most = world.random.usize(1..=PAGE);
            let model = world.shard(&id).expect("an iterator of this simulation");
            let now = Instant::now();
            let rest = model.records.iter().filter(|record| record.number > after);
            let left = rest.clone().count();
            let visible = rest.take_while(|record| record.visible_at <= now);
            let lags = visible.clone().count() < left;
            let page = visible.take(if empty { 0 } else { most });
            let found: Vec<_> = page.cloned().collect();
            let ended = model.closed && found.len() == left;
            let last = found.last().map_or(after, |record| record.number);
            let keys = found
                .iter()
                .filter_map(|record| record.event.clone())
                .collect();
            if found.len() < PAGE / 2 {
                world.check_pacing(&self.name, &id);
            }
            let records = found.iter().map(|record| world.record(record)).collect();
            world.read(&self.name, &id, keys);
            if lags {
                world.faults.note("stream lag");
            }
            Page {
                records,
                served_at: Some(Timestamp::from_millis(clock().as_seconds() * 1_000)),
                // A page counts as nearly full from half of its limit on.
                bytes: found.len() * (1_000_000 / PAGE),
                next: (!ended).then(|| {
                    let unread = if is_unread && last == after {
                        UNREAD
                    } else {
                        ""
                    };
                    ShardIterator(format!("{shard}|{last}{unread}"))
                }),
            }
        };
        self.travel().await;
        Ok(page)
    }
}

impl View {
    /// Returns `true` if a trimmed position is no error, because of a disabled rule.
    fn ignores_gap(&self) -> bool {
        let ignores = self.lacks(Mutation::SilentGap);
        if ignores {
            self.world().saw_gap.insert(self.name.clone());
        }
        ignores
    }

    /// Returns the error for a trimmed position. The engine must count a gap.
    fn trimmed(&self) -> StreamError {
        self.world().saw_gap.insert(self.name.clone());
        StreamError::Trimmed
    }
}
