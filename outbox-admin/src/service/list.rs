//! Lists events, a page at a time.

use outbox_store::{EventFilter, PageToken};
use serde::Serialize;

use super::event::EventView;
use super::{OperateError, Operator};

/// One page of a list of events.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Listing {
    /// May be fewer than the limit, even none, although more follow.
    pub events: Vec<EventView>,
    /// Token of the next page; `None` at the end of the list.
    pub next: Option<PageToken>,
}

impl Operator {
    /// Returns up to `limit` events (at least 1) that match `filter`, after the page of which
    /// `after` is the token. Long texts are truncated.
    pub async fn list(
        &self,
        filter: &EventFilter,
        limit: usize,
        after: Option<&PageToken>,
    ) -> Result<Listing, OperateError> {
        let page = self.outbox.list(filter, limit, after).await?;
        let events = page.events.into_iter().map(|stored| {
            let mut event = EventView::new(stored, self.jaeger_ui_url.as_deref());
            event.shorten();
            event
        });
        Ok(Listing {
            events: events.collect(),
            next: page.next,
        })
    }
}
