//! The shards of the stream, as they are listed: rule 1.

use std::time::Duration;

use tokio::time::Instant;

use super::shard::Surroundings;
use crate::ports::{Shard, ShardId, StreamError};

/// The stream's shards are listed this often; more often would cost a busy
/// stream's few DescribeStream calls.
const LISTING_INTERVAL: Duration = Duration::from_secs(60);

/// Where children cannot be asked for, the end of a shard asks for a listing,
/// but not more often than this, however many shards end at once.
const LISTING_PAUSE: Duration = Duration::from_secs(2);

/// When and how far the shards were listed; what came of it is with the
/// [`Surroundings`].
#[derive(Debug)]
pub(super) struct Listing {
    /// The shards found so far, and where to go on.
    under_way: Option<(Vec<Shard>, ShardId)>,
    /// When the one under way, or the last one, began.
    began: Instant,
    /// When the last complete one began.
    listed_at: Option<Instant>,
    /// Wanted before its time.
    relist: bool,
}

impl Listing {
    pub(super) fn new() -> Self {
        Self {
            under_way: None,
            began: Instant::now(),
            listed_at: None,
            relist: false,
        }
    }

    /// When the last complete listing began.
    pub(super) fn listed_at(&self) -> Option<Instant> {
        self.listed_at
    }

    /// Rule 1: by asking for them, else by a listing soon.
    pub(super) async fn find_children(&mut self, around: &Surroundings, parent: &ShardId) {
        let source = &around.ports.stream;
        match source.children(&around.stream, parent).await {
            Ok(Some(children)) => {
                let mut listed = around.shards();
                for child in children {
                    if !listed.contains(&child) {
                        listed.push(child);
                    }
                }
                around.set_shards(listed);
            }
            Ok(None) => self.relist = true,
            Err(error) => {
                tracing::warn!(shard = %parent, %error, "a shard's children could not be listed; all shards are");
                self.relist = true;
            }
        }
    }

    /// Goes on with the listing, or begins one when it is due; true when the
    /// table has another stream than this one.
    pub(super) async fn go_on(&mut self, around: &Surroundings) -> Result<bool, StreamError> {
        let source = &around.ports.stream;
        let stream = &around.stream;
        if self.under_way.is_none() {
            let due = self.listed_at.is_none_or(|at| {
                let age = at.elapsed();
                age >= LISTING_INTERVAL || (self.relist && age >= LISTING_PAUSE)
            });
            if !due {
                return Ok(false);
            }
            self.began = Instant::now();
            let current = source.locate().await?;
            if current != *stream {
                around.metrics.gap();
                tracing::error!(
                    old = %stream,
                    new = %current,
                    "stream gap: the outbox table has another stream; pending events of the old one are published from the table"
                );
                return Ok(true);
            }
        }
        loop {
            let (mut shards, after) = match self.under_way.take() {
                Some((shards, after)) => (shards, Some(after)),
                None => (Vec::new(), None),
            };
            match source.shards(stream, after.as_ref()).await {
                Ok((more, next)) => {
                    shards.extend(more);
                    match next {
                        Some(next) => self.under_way = Some((shards, next)),
                        None => {
                            around.set_shards(shards);
                            self.listed_at = Some(self.began);
                            self.relist = false;
                            around.status.stream(Ok(()));
                            return Ok(false);
                        }
                    }
                }
                Err(error) => {
                    // Thousands of shards are many pages: the next round goes
                    // on where this one failed.
                    // Unless the stream is gone: then there may be another.
                    if !matches!(error, StreamError::NotFound(_)) {
                        self.under_way = after.map(|after| (shards, after));
                    }
                    return Err(error);
                }
            }
        }
    }
}
