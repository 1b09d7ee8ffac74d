//! The shards of the stream, as they are listed: rule 1.

use std::collections::BTreeSet;
use std::sync::PoisonError;
use std::time::Duration;

use tokio::time::Instant;

use crate::engine::leases::shard_consumer::Surroundings;
use crate::ports::{Shard, ShardId, StreamError};

/// The stream's shards are listed this often; more often would cost a busy
/// stream's few DescribeStream calls. A listing that takes longer, because it
/// fails again and again, is begun anew.
pub(crate) const LISTING_INTERVAL: Duration = Duration::from_secs(60);

/// A listing is asked for where children cannot be, and when a shard is not
/// found, but not more often than this, however many shards are concerned, plus
/// a bit for every shard there is: 100 of them are a request.
const LISTING_PAUSE: Duration = Duration::from_secs(2);
const LISTING_PAUSE_PER_SHARD: Duration = Duration::from_millis(5);

/// Shards whose children are asked for between two looks; of more, a listing
/// finds them with fewer requests.
const CHILD_REQUESTS: usize = 4;

/// The shards as they were last listed, and children found since.
#[derive(Debug, Default)]
pub(crate) struct Listed {
    shards: Vec<Shard>,
    /// When the listing began.
    at: Option<Instant>,
    /// A listing is wanted before its time.
    wanted: bool,
}

impl Surroundings {
    pub(crate) fn shards(&self) -> Vec<Shard> {
        self.listed().shards.clone()
    }

    /// Whether a listing begun after `since` does not have `shard`. Asks for
    /// such a listing when there is none yet.
    pub(crate) fn is_gone(&self, shard: &ShardId, since: Instant) -> bool {
        let mut listed = self.listed();
        if listed.at.is_none_or(|at| at <= since) {
            listed.wanted = true;
            return false;
        }
        !listed.shards.iter().any(|listed| listed.id == *shard)
    }

    /// Asks for a listing before its time.
    pub(crate) fn want_listing(&self) {
        self.listed().wanted = true;
    }

    fn listed(&self) -> std::sync::MutexGuard<'_, Listed> {
        self.listed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How the listing of one stream's shards goes on.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The shards found so far, and where to go on.
    under_way: Option<(Vec<Shard>, ShardId)>,
    /// When the one under way began.
    began: Instant,
    /// When the last complete one began.
    listed_at: Option<Instant>,
    /// Shards found that may have no row yet. Those of an old listing are
    /// forgotten once they have: their rows may be removed meanwhile.
    found: Vec<Shard>,
    /// Shards that were read to their end, and whose children are not known.
    childless: Vec<ShardId>,
}

/// What a look at the listing came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    NotDue,
    /// Begun at.
    Complete {
        at: Instant,
    },
    /// The table has another stream than this one.
    StreamChanged,
}

impl Listing {
    /// Nothing is known of the stream's shards.
    pub(crate) fn new(around: &Surroundings) -> Self {
        *around.listed() = Listed::default();
        Self {
            under_way: None,
            began: Instant::now(),
            listed_at: None,
            found: Vec::new(),
            childless: Vec::new(),
        }
    }

    /// When the last complete listing began.
    pub(crate) fn listed_at(&self) -> Option<Instant> {
        self.listed_at
    }

    /// Shards that may have no row yet.
    pub(crate) fn found(&self) -> &[Shard] {
        &self.found
    }

    /// Every shard that was found has a row.
    pub(crate) fn registered(&mut self) {
        self.found.clear();
    }

    /// Finds the children of shards that were read to their end, by asking for
    /// them, else by a listing soon.
    pub(crate) async fn find_children(&mut self, around: &Surroundings, parents: &[ShardId]) {
        {
            let mut listed = around.listed();
            // Children are listed all at once.
            let known: BTreeSet<_> = listed
                .shards
                .iter()
                .filter_map(|shard| shard.parent.as_ref())
                .collect();
            let childless = parents.iter().filter(|parent| !known.contains(parent));
            self.childless.extend(childless.cloned());
            listed.wanted |= self.childless.len() > CHILD_REQUESTS;
        }
        // The latest first: it is those that have just split.
        let rest = self.childless.len().saturating_sub(CHILD_REQUESTS);
        let source = &around.ports.stream;
        for parent in self.childless.split_off(rest) {
            let children = match source.children(&around.stream, &parent).await {
                Ok(children) => children.unwrap_or_default(),
                Err(error) => {
                    tracing::warn!(shard = %parent, %error, "a shard's children could not be listed; all shards are");
                    Vec::new()
                }
            };
            let mut listed = around.listed();
            // A closed shard may have no children yet that are listed.
            listed.wanted |= children.is_empty();
            for child in children {
                if !listed.shards.contains(&child) {
                    listed.shards.push(child.clone());
                    self.found.push(child);
                }
            }
        }
    }

    /// Goes on with the listing, or begins one when it is due.
    pub(crate) async fn go_on(&mut self, around: &Surroundings) -> Result<Turn, StreamError> {
        let source = &around.ports.stream;
        let stream = &around.stream;
        if self.began.elapsed() >= LISTING_INTERVAL {
            self.under_way = None;
        }
        if self.under_way.is_none() {
            let (wanted, count) = {
                let listed = around.listed();
                (listed.wanted, listed.shards.len())
            };
            let pause =
                LISTING_PAUSE + LISTING_PAUSE_PER_SHARD * u32::try_from(count).unwrap_or(u32::MAX);
            let due = self.listed_at.is_none_or(|at| {
                let age = at.elapsed();
                age >= LISTING_INTERVAL || (wanted && age >= pause)
            });
            if !due {
                return Ok(Turn::NotDue);
            }
            self.began = Instant::now();
            around.listed().wanted = false;
            if source.locate().await? != *stream {
                return Ok(Turn::StreamChanged);
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
                            self.found.clone_from(&shards);
                            self.childless.clear();
                            self.listed_at = Some(self.began);
                            let mut listed = around.listed();
                            listed.shards = shards;
                            listed.at = Some(self.began);
                            around.status.stream(Ok(()));
                            return Ok(Turn::Complete { at: self.began });
                        }
                    }
                }
                Err(error) => {
                    // Thousands of shards are many pages: the next round goes
                    // on where this one failed, unless the stream is gone:
                    // then there may be another.
                    if !matches!(error, StreamError::NotFound(_)) {
                        self.under_way = after.map(|after| (shards, after));
                    }
                    return Err(error);
                }
            }
        }
    }
}
