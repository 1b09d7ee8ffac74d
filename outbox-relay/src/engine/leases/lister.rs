//! Lister: lists the stream's shards, and creates and deletes their leases (the "shard discovery"
//! rule).
//!
//! Of all instances of the group only the holder of the maintenance lease lists the stream, because
//! all readers of a stream share its low limit of DescribeStream calls. The others learn of shards
//! from the lease items.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::join_all;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::lease_creation::{MAX_LEASE_REQUESTS, create_leases};
use crate::engine::context::ShardContext;
use crate::policy::backoff;
use crate::policy::lease_assignment::is_deletable;
use crate::policy::lineage::Lineage;
use crate::ports::{Lease, LeaseError, Leases, Shard, ShardId, StreamError};

/// Interval of regular listings. A shorter one would use up the few DescribeStream calls of a busy
/// stream. A listing that takes longer continues: it is started again only if the stream no longer
/// exists.
const LISTING_INTERVAL: Duration = Duration::from_secs(60);

/// Pause between two DescribeStream calls, of which a stream allows 10 a second.
const PAGE_PAUSE: Duration = Duration::from_millis(200);

/// Time for which the lease of a consumed shard is kept after the shard was last listed: longer
/// than an instance of an older release can take to process a listing that still contains it. It
/// would create the lease again.
const KEPT: Duration = LISTING_INTERVAL.saturating_mul(2);

/// Number of listings after which the leases of a stream that the group read before are deleted.
/// By then every instance has looked the stream up and released them.
const LISTINGS_BEFORE_DELETION: u32 = 3;

pub(super) struct Lister {
    ctx: ShardContext,
    random: fastrand::Rng,
    in_progress: Option<Listing>,
    /// Number of regular listings so far.
    regular: u32,
}

/// Listing in progress.
#[derive(Debug)]
struct Listing {
    /// Leases before the first page was requested.
    leases: Leases,
    shards: Vec<Shard>,
    /// Last shard of the last page; `None` before the first page.
    after: Option<ShardId>,
    is_complete: bool,
}

/// Reason for which a listing could not be continued.
#[derive(Debug, thiserror::Error)]
enum ListingError {
    #[error(transparent)]
    Stream(#[from] StreamError),
    #[error(transparent)]
    Leases(#[from] LeaseError),
}

impl Lister {
    pub(super) fn new(ctx: ShardContext, random: fastrand::Rng) -> Self {
        Self {
            ctx,
            random,
            in_progress: None,
            regular: 0,
        }
    }

    /// Lists the stream at every interval and on request, until dropped.
    pub(super) async fn run(mut self, requested: &Notify) {
        let mut failures = 0;
        let mut next_regular = Instant::now();
        loop {
            let is_regular = Instant::now() >= next_regular;
            match self.list().await {
                Ok(()) => {
                    failures = 0;
                    self.ctx.status.record_stream(Ok(()));
                    if is_regular {
                        self.regular = self.regular.saturating_add(1);
                        next_regular = Instant::now() + LISTING_INTERVAL;
                    }
                    self.pause().await;
                    tokio::select! {
                        biased;
                        () = tokio::time::sleep_until(next_regular) => {}
                        () = requested.notified() => {}
                    }
                }
                Err(error) => {
                    failures += 1;
                    tracing::warn!(%error, "shards of the stream could not be listed; retrying");
                    if let ListingError::Stream(error) = error {
                        self.ctx.status.record_stream(Err(error.to_string()));
                        if let StreamError::NotFound(_) = error {
                            // The table may have another stream now.
                            self.in_progress = None;
                            self.ctx.directory.request_listing();
                        }
                    }
                    let delay = backoff::delay(failures, self.random.f64());
                    tokio::time::sleep(delay).await;
                    self.pause().await;
                }
            }
        }
    }

    async fn pause(&mut self) {
        tokio::time::sleep(PAGE_PAUSE.mul_f64(1.0 + self.random.f64() / 8.0)).await;
    }

    /// Starts a listing or continues the one in progress, and updates the leases once it is
    /// complete. After an error the next call continues: thousands of shards take many requests.
    async fn list(&mut self) -> Result<(), ListingError> {
        let mut listing = match self.in_progress.take() {
            Some(listing) => listing,
            None => Listing {
                leases: self.ctx.ports.leases.list(&self.ctx.stream, None).await?,
                shards: Vec::new(),
                after: None,
                is_complete: false,
            },
        };
        let outcome = self.advance(&mut listing).await;
        if outcome.is_err() {
            self.in_progress = Some(listing);
        }
        outcome
    }

    async fn advance(&mut self, listing: &mut Listing) -> Result<(), ListingError> {
        while !listing.is_complete {
            let source = &self.ctx.ports.stream;
            let after = listing.after.as_ref();
            let (shards, next) = source.shards(&self.ctx.stream, after).await?;
            listing.shards.extend(shards);
            match next {
                Some(next) => {
                    listing.after = Some(next);
                    self.pause().await;
                }
                None => listing.is_complete = true,
            }
        }
        self.update_leases(listing).await?;
        if self.regular >= LISTINGS_BEFORE_DELETION
            && let Err(error) = self.delete_previous_stream().await
        {
            tracing::warn!(%error, "leases of the previous stream could not be deleted; retrying with the next listing");
        }
        Ok(())
    }

    /// Creates the leases of new shards, marks those of shards that are not listed any more, and
    /// deletes those of consumed ones.
    async fn update_leases(&self, listing: &Listing) -> Result<(), LeaseError> {
        self.create_new(listing).await?;
        let (table, stream) = (&self.ctx.ports.leases, &self.ctx.stream);
        let leases = &listing.leases;
        let listed: BTreeSet<_> = listing.shards.iter().map(|shard| &shard.id).collect();
        let now = (self.ctx.config.clock)();
        let of_shards = leases.leases.iter().filter(|lease| lease.shard.is_shard());
        let changed: Vec<_> = of_shards
            .filter(|lease| listed.contains(&lease.shard) == lease.unlisted_at.is_some())
            .map(|lease| (&lease.shard, lease.unlisted_at.is_none().then_some(now)))
            .collect();
        for changed in changed.chunks(MAX_LEASE_REQUESTS) {
            let marks = changed
                .iter()
                .map(|(shard, at)| table.mark_unlisted(stream, shard, *at));
            for outcome in join_all(marks).await {
                ignore_lost(outcome)?;
            }
        }
        let unlisted = leases.leases.iter();
        let unlisted = unlisted.filter(|lease| !listed.contains(&lease.shard));
        let deletable: Vec<_> = unlisted
            .filter(|lease| is_deletable(lease, now, KEPT))
            .collect();
        self.delete(stream, &deletable).await
    }

    /// Creates the leases of new shards. Those that an earlier attempt created are not written
    /// again: a refused write takes as much of the table's capacity.
    async fn create_new(&self, listing: &Listing) -> Result<(), LeaseError> {
        if without_lease(&listing.shards, &listing.leases).is_empty() {
            return Ok(());
        }
        let leases = self.ctx.ports.leases.list(&self.ctx.stream, None).await?;
        let lineage = Lineage::new(&listing.shards, &leases.leases);
        let new = without_lease(&listing.shards, &leases)
            .into_iter()
            .map(|shard| Lease {
                start: lineage.start_of(shard),
                ..Lease::unread(shard.id.clone(), shard.parent.clone())
            });
        create_leases(&self.ctx, new.collect()).await
    }

    async fn delete(&self, stream: &str, leases: &[&Lease]) -> Result<(), LeaseError> {
        let table = &self.ctx.ports.leases;
        for leases in leases.chunks(MAX_LEASE_REQUESTS) {
            let deletions = leases.iter().map(|lease| table.remove(stream, lease));
            for outcome in join_all(deletions).await {
                ignore_lost(outcome)?;
            }
        }
        Ok(())
    }

    /// Deletes the leases of the stream that the group read before this one.
    async fn delete_previous_stream(&self) -> Result<(), LeaseError> {
        let table = &self.ctx.ports.leases;
        let Some(previous) = table.previous_stream().await? else {
            return Ok(());
        };
        if *previous != *self.ctx.stream {
            let shards = table.list(&previous, None).await?.leases;
            let others = table.list_maintenance(&previous).await?.leases;
            let leases: Vec<_> = shards.iter().chain(&others).collect();
            tracing::info!(
                stream = previous,
                count = leases.len(),
                "deleting the leases of a stream that the table had before"
            );
            self.delete(&previous, &leases).await?;
        }
        table.forget_previous_stream(&previous).await
    }
}

/// Returns those of `shards` that have no lease item.
fn without_lease<'a>(shards: &'a [Shard], leases: &Leases) -> Vec<&'a Shard> {
    let existing = leases.leases.iter().map(|lease| &lease.shard);
    let existing: BTreeSet<_> = existing.chain(&leases.unreadable).collect();
    let is_new = |shard: &&Shard| !existing.contains(&shard.id);
    shards.iter().filter(is_new).collect()
}

/// Ignores that the item has changed since it was read: the next listing reads it again.
fn ignore_lost(outcome: Result<(), LeaseError>) -> Result<(), LeaseError> {
    match outcome {
        Err(LeaseError::Lost(_)) => Ok(()),
        outcome => outcome,
    }
}
