//! Discovers the shards of the stream (the "lineage" rule).

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::context::ShardContext;
use crate::ports::{Shard, ShardId, StreamError};

/// Interval of regular listings. A shorter one would use up the few DescribeStream calls of a busy
/// stream. A listing that takes longer, because it fails repeatedly, is started again.
pub(super) const LISTING_INTERVAL: Duration = Duration::from_secs(60);

/// Minimum pause before a requested listing, however many shards request one, plus a pause for
/// every shard: 100 of them are one request.
const REQUESTED_LISTING_PAUSE: Duration = Duration::from_secs(2);
const REQUESTED_LISTING_PAUSE_PER_SHARD: Duration = Duration::from_millis(5);

/// Maximum number of shards whose children are requested individually between two polls. A listing
/// finds the children of more shards with fewer requests.
const MAX_CHILD_REQUESTS: usize = 4;

/// Progress of the discovery in one stream.
#[derive(Debug)]
pub(super) struct ShardDiscovery {
    /// Shards found so far by the listing in progress, and the last of them.
    in_progress: Option<(Vec<Shard>, ShardId)>,
    /// Start of the listing in progress.
    started_at: Instant,
    /// Start of the last complete listing.
    listed_at: Option<Instant>,
    /// Shards that were found and may have no lease yet. Once they have one they are forgotten,
    /// since it may be deleted before the next listing.
    found: Vec<Shard>,
    /// Fully consumed shards whose children are not known.
    childless: Vec<ShardId>,
}

/// Outcome of a poll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DiscoveryOutcome {
    NotDue,
    /// A listing that started at `listed_at` is complete.
    Complete {
        listed_at: Instant,
    },
    /// The table has another stream now.
    StreamChanged,
}

impl ShardDiscovery {
    /// Starts the discovery in a stream whose shards are unknown.
    pub(super) fn new(ctx: &ShardContext) -> Self {
        ctx.directory.clear();
        Self {
            in_progress: None,
            started_at: Instant::now(),
            listed_at: None,
            found: Vec::new(),
            childless: Vec::new(),
        }
    }

    /// Returns the start of the last complete listing.
    pub(super) const fn listed_at(&self) -> Option<Instant> {
        self.listed_at
    }

    /// Returns the shards that may have no lease yet.
    pub(super) fn found(&self) -> &[Shard] {
        &self.found
    }

    /// Records that every shard that was found has a lease.
    pub(super) fn clear_found(&mut self) {
        self.found.clear();
    }

    /// Finds the children of fully consumed shards: by requests for them, or by an early listing.
    pub(super) async fn find_children(&mut self, ctx: &ShardContext, parents: &[ShardId]) {
        // The children of a shard are listed all at once.
        self.childless
            .extend(ctx.directory.without_children(parents));
        if self.childless.len() > MAX_CHILD_REQUESTS {
            ctx.directory.request_listing();
        }
        // The latest come first: they have just been split.
        let rest = self.childless.len().saturating_sub(MAX_CHILD_REQUESTS);
        let source = &ctx.ports.stream;
        for parent in self.childless.split_off(rest) {
            let children = match source.children(&ctx.stream, &parent).await {
                Ok(children) => children.unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(shard = %parent, %error, "children of a shard could not be listed; listing all shards instead");
                    Vec::new()
                }
            };
            // The children of a closed shard may not be listed yet.
            if children.is_empty() {
                ctx.directory.request_listing();
            }
            for child in children {
                if ctx.directory.insert(&child) {
                    self.found.push(child);
                }
            }
        }
    }

    /// Continues the listing in progress, or starts one if it is due.
    pub(super) async fn poll(
        &mut self,
        ctx: &ShardContext,
    ) -> Result<DiscoveryOutcome, StreamError> {
        let source = &ctx.ports.stream;
        let stream = &ctx.stream;
        if self.started_at.elapsed() >= LISTING_INTERVAL {
            self.in_progress = None;
        }
        if self.in_progress.is_none() {
            if !self.is_due(ctx) {
                return Ok(DiscoveryOutcome::NotDue);
            }
            self.started_at = Instant::now();
            ctx.directory.clear_request();
            if source.locate().await? != *stream {
                return Ok(DiscoveryOutcome::StreamChanged);
            }
        }
        loop {
            let (mut shards, after) = match self.in_progress.take() {
                Some((shards, after)) => (shards, Some(after)),
                None => (Vec::new(), None),
            };
            match source.shards(stream, after.as_ref()).await {
                Ok((more, next)) => {
                    shards.extend(more);
                    match next {
                        Some(next) => self.in_progress = Some((shards, next)),
                        None => {
                            self.found.clone_from(&shards);
                            self.childless.clear();
                            self.listed_at = Some(self.started_at);
                            ctx.directory.replace(shards, self.started_at);
                            ctx.status.record_stream(Ok(()));
                            let listed_at = self.started_at;
                            return Ok(DiscoveryOutcome::Complete { listed_at });
                        }
                    }
                }
                Err(error) => {
                    // Thousands of shards take many requests, so the next poll continues where this
                    // one failed, unless the stream no longer exists: then there may be another.
                    if !matches!(error, StreamError::NotFound(_)) {
                        self.in_progress = after.map(|after| (shards, after));
                    }
                    return Err(error);
                }
            }
        }
    }

    /// Returns `true` if a listing must start: none is complete, the last one is old, or another
    /// one was requested.
    fn is_due(&self, ctx: &ShardContext) -> bool {
        let count = u32::try_from(ctx.directory.len()).unwrap_or(u32::MAX);
        let pause = REQUESTED_LISTING_PAUSE + REQUESTED_LISTING_PAUSE_PER_SHARD * count;
        self.listed_at.is_none_or(|at| {
            let age = at.elapsed();
            age >= LISTING_INTERVAL || (ctx.directory.is_listing_requested() && age >= pause)
        })
    }
}
