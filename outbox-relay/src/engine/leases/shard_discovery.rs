//! Discovers the shards of the stream (the "lineage" and "shard discovery" rules).
//!
//! Of all instances of the group only the holder of the maintenance lease lists the stream
//! regularly, because all readers of a stream share its low limit of DescribeStream calls. The
//! others learn of shards from the lease items that the lister creates.

use std::time::Duration;

use tokio::time::Instant;

use crate::engine::context::ShardContext;
use crate::ports::{Shard, ShardId, StreamError};

/// Interval of regular listings. A shorter one would use up the few DescribeStream calls of a busy
/// stream. A listing that takes longer continues: it is started again only if the stream is gone.
pub(super) const LISTING_INTERVAL: Duration = Duration::from_secs(60);

/// Pause between two pages of a listing. DescribeStream allows 10 calls a second for a stream.
const PAGE_PAUSE: Duration = Duration::from_millis(200);

/// Maximum number of pages between two polls of the leases.
const MAX_PAGES: usize = 5;

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
    /// Time at which the stream was last looked up.
    located_at: Instant,
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
            located_at: Instant::now(),
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

    /// Continues the listing in progress, or starts one if it is due. An instance that is not the
    /// lister lists the stream only if that is requested.
    pub(super) async fn poll(
        &mut self,
        ctx: &ShardContext,
        is_lister: bool,
        random: &mut fastrand::Rng,
    ) -> Result<DiscoveryOutcome, StreamError> {
        let source = &ctx.ports.stream;
        let stream = &ctx.stream;
        if self.in_progress.is_none() {
            let is_due = self.is_due(ctx, is_lister);
            if !is_due && self.located_at.elapsed() < LISTING_INTERVAL {
                return Ok(DiscoveryOutcome::NotDue);
            }
            if source.locate().await? != *stream {
                return Ok(DiscoveryOutcome::StreamChanged);
            }
            self.located_at = Instant::now();
            if !is_due {
                // Ends a failure after which this instance no longer lists the stream.
                ctx.status.record_stream(Ok(()));
                return Ok(DiscoveryOutcome::NotDue);
            }
            self.started_at = Instant::now();
            ctx.directory.clear_request();
        }
        for _ in 0..MAX_PAGES {
            let (mut shards, after) = match self.in_progress.take() {
                Some((shards, after)) => (shards, Some(after)),
                None => (Vec::new(), None),
            };
            match source.shards(stream, after.as_ref()).await {
                Ok((more, next)) => {
                    shards.extend(more);
                    match next {
                        Some(next) => {
                            self.in_progress = Some((shards, next));
                            tokio::time::sleep(PAGE_PAUSE.mul_f64(1.0 + random.f64() / 2.0)).await;
                        }
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
        Ok(DiscoveryOutcome::NotDue)
    }

    /// Returns `true` if a listing must start: in the lister, if none is complete or the last one
    /// is old; in any instance, if one was requested.
    fn is_due(&self, ctx: &ShardContext, is_lister: bool) -> bool {
        let count = u32::try_from(ctx.directory.len()).unwrap_or(u32::MAX);
        let pause = REQUESTED_LISTING_PAUSE + REQUESTED_LISTING_PAUSE_PER_SHARD * count;
        let age = self.listed_at.map(|at| at.elapsed());
        let is_requested = ctx.directory.is_listing_requested();
        (is_lister && age.is_none_or(|age| age >= LISTING_INTERVAL))
            || (is_requested && age.is_none_or(|age| age >= pause))
    }
}
