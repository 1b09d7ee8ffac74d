//! Pages of events, bounded in number and in bytes.

use outbox_store::{EventFilter, PageToken};

use crate::service::{Listing, OperateError, Operator};

/// Events of a page by default.
pub(super) const PAGE_SIZE: usize = 50;

/// Maximum bytes of JSON in one response or live update: enough for 500 usual events, but for few
/// whose keys are long or consist of control characters, which JSON escapes.
const MAX_BYTES: usize = 512 * 1024;

/// Lists up to `limit` events, or as many as fit into [`MAX_BYTES`]. The next page starts with the
/// ones that are left out.
pub(super) async fn list_page(
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
