//! Events a page at a time, and never more bytes of them than a page can use.

use outbox_store::{EventFilter, PageToken};

use crate::service::{Listing, OperateError, Operator};

/// Events of a list that are sent; the page asks for the following ones.
pub(super) const PAGE: usize = 50;

/// Bytes of JSON in one answer or live message: 500 usual events, but few whose
/// keys are long or all of control characters.
const MAX_BYTES: usize = 512 * 1024;

/// Up to `limit` events, or as many as fit: those left out come next.
pub(super) async fn page(
    operator: &Operator,
    filter: &EventFilter,
    mut limit: usize,
    after: Option<&PageToken>,
) -> Result<Listing, OperateError> {
    loop {
        let listing = operator.list(filter, limit, after).await?;
        if limit <= 1 || fits(&listing) {
            return Ok(listing);
        }
        limit = listing.events.len() / 2;
    }
}

fn fits(listing: &Listing) -> bool {
    serde_json::to_vec(listing).is_ok_and(|json| json.len() <= MAX_BYTES)
}
