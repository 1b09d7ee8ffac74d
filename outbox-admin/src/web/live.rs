//! What viewers are told without asking, as server-sent events.
//!
//! Each viewer gets a `beat` every second, made of this process's memory, and
//! `status`, `failed` and `pending` whenever a look at the tables shows another
//! state. All viewers share those looks, and there are none without a viewer.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::get;
use futures::stream::{self, Stream};
use outbox::timestamp::Timestamp;
use outbox_store::{EventFilter, EventState};
use serde::Serialize;
use serde_json::json;
use shared::runtime::health::Report;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::bounded_page::{PAGE, page};
use super::problem::Problem;
use super::relay_view::{ActivitySlot, PublishedEvent, RelayView, RelayViewSource, ViewedUpTo};
use crate::service::{Limits, Listing, Observer, OperateError, Operator};

/// Each holds a connection and little more.
const MAX_VIEWERS: usize = 64;

/// Between two `beat`s; the page takes a few missing ones for a dead relay.
const BEAT: Duration = Duration::from_secs(1);

/// Between two looks at the tables.
const LOOK: Duration = Duration::from_secs(2);

/// A look that takes long, because much is pending or failed, is followed by a
/// pause this many times as long, so that watching a backlog costs little of
/// the capacity that is needed to work it off.
const PAUSE_PER_LOOK: u32 = 9;

/// What the page shows of the past.
const WINDOW_SECONDS: i64 = 15 * 60;

/// Which relay this is.
#[derive(Debug, Serialize)]
pub(super) struct About {
    pub(super) instance: String,
    pub(super) consumer_group: String,
    pub(super) outbox_table: String,
    pub(super) version: &'static str,
}

/// What all viewers share.
#[derive(Debug)]
pub(super) struct Live {
    about: About,
    pub(super) operator: Operator,
    relay: RelayViewSource,
    viewers: watch::Sender<usize>,
    tables: watch::Sender<Tables>,
    /// Says that something was changed.
    changed: watch::Sender<()>,
}

/// The last look at the tables, as JSON; a new [`Arc`] only when it is another.
#[derive(Clone, Debug, Default)]
struct Tables {
    status: Option<Arc<str>>,
    failed: Option<Arc<str>>,
    pending: Option<Arc<str>>,
}

/// One of [`Tables`].
type Section = fn(&mut Tables) -> &mut Option<Arc<str>>;

/// Each with the name of its event.
const SECTIONS: [(&str, Section); 3] = [
    ("status", |tables| &mut tables.status),
    ("failed", |tables| &mut tables.failed),
    ("pending", |tables| &mut tables.pending),
];

pub(super) fn router() -> Router<Arc<Live>> {
    Router::new().route("/live", get(follow))
}

impl Live {
    pub(super) fn new(about: About, operator: Operator, relay: RelayViewSource) -> Self {
        Self {
            about,
            operator,
            relay,
            viewers: watch::Sender::default(),
            tables: watch::Sender::default(),
            changed: watch::Sender::default(),
        }
    }

    /// Something was changed: viewers should see it soon.
    pub(super) fn look_soon(&self) {
        self.changed.send_replace(());
    }

    /// Looks at the tables while there are viewers; never returns.
    pub(super) async fn run(&self) {
        tokio::join!(self.look_at_status(), self.look_at_lists());
    }

    /// Counting takes as long as there is much to count.
    async fn look_at_status(&self) {
        // Failed events have a figure of their own, in red.
        let limits = Limits {
            max_failed: u64::MAX,
            ..Limits::default()
        };
        let mut observer = Observer::default();
        let mut turns = Turns::new(self);
        while turns.next().await {
            let report = self.operator.status(&mut observer, limits).await;
            self.show(|tables| &mut tables.status, report);
        }
    }

    async fn look_at_lists(&self) {
        let mut turns = Turns::new(self);
        while turns.next().await {
            tokio::join!(
                self.list(EventState::Failed, |tables| &mut tables.failed),
                self.list(EventState::Pending, |tables| &mut tables.pending),
            );
        }
    }

    async fn list(&self, state: EventState, section: Section) {
        self.show(section, first_page(&self.operator, state).await);
    }

    fn show<T: Serialize>(&self, section: Section, seen: Result<T, OperateError>) {
        let seen = match &seen {
            Ok(seen) => serde_json::to_string(seen),
            Err(error) => serde_json::to_string(&json!({ "problem": error.to_string() })),
        };
        let Ok(seen) = seen else { return };
        self.tables.send_if_modified(|tables| {
            let section = section(tables);
            let is_new = section.as_deref() != Some(&seen);
            if is_new {
                *section = Some(seen.into());
            }
            is_new
        });
    }
}

/// The first page of what is failed or pending. The latest failures say what
/// is wrong now; of what is pending, the oldest is what is stuck.
async fn first_page(operator: &Operator, state: EventState) -> Result<Listing, OperateError> {
    let filter = EventFilter {
        state: Some(state),
        newest_first: state == EventState::Failed,
        ..EventFilter::default()
    };
    page(operator, &filter, PAGE, None).await
}

/// When to look: every [`LOOK`], or less often if that takes long; at once after
/// a change; and only while there are viewers.
struct Turns {
    viewers: watch::Receiver<usize>,
    changed: watch::Receiver<()>,
    last: Option<Instant>,
}

impl Turns {
    fn new(live: &Live) -> Self {
        Self {
            viewers: live.viewers.subscribe(),
            changed: live.changed.subscribe(),
            last: None,
        }
    }

    /// Waits for the next one; false when there will be none.
    async fn next(&mut self) -> bool {
        if let Some(last) = self.last {
            let pause = LOOK.max(last.elapsed() * PAUSE_PER_LOOK);
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = self.changed.changed() => {}
            }
        }
        let is_wanted = self.viewers.wait_for(|count| *count > 0).await.is_ok();
        self.last = Some(Instant::now());
        is_wanted
    }
}

/// Counts as a viewer until dropped.
#[derive(Debug)]
struct Presence(Arc<Live>);

impl Presence {
    fn new(live: Arc<Live>) -> Option<Self> {
        let admitted = live.viewers.send_if_modified(|count| {
            let admitted = *count < MAX_VIEWERS;
            if admitted {
                *count += 1;
            }
            admitted
        });
        admitted.then(|| Self(live))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let live = &self.0;
        live.viewers.send_modify(|count| {
            *count -= 1;
            if *count == 0 {
                // The next viewer may come much later.
                live.tables.send_replace(Tables::default());
            }
        });
    }
}

/// One viewer's connection.
struct Viewer {
    presence: Presence,
    tables: watch::Receiver<Tables>,
    beats: Interval,
    /// What it was told.
    shown: Tables,
    seen: u64,
    slots_from: i64,
    /// What it is about to be told, in this order.
    next: VecDeque<Event>,
}

async fn follow(
    Shared(live): Shared<Arc<Live>>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let about = event("about", &live.about);
    let tables = live.tables.subscribe();
    let presence = Presence::new(live).ok_or_else(|| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!("{MAX_VIEWERS} viewers are looking at this relay already"),
        )
    })?;
    let mut beats = interval(BEAT);
    beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut viewer = Viewer {
        presence,
        tables,
        beats,
        shown: Tables::default(),
        seen: 0,
        slots_from: Timestamp::now().as_seconds() - WINDOW_SECONDS,
        next: about.into_iter().collect(),
    };
    viewer.take_tables();
    Ok(Sse::new(stream::unfold(viewer, async |mut viewer| {
        let event = viewer.next().await;
        Some((Ok(event), viewer))
    })))
}

impl Viewer {
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.next.pop_front() {
                return event;
            }
            tokio::select! {
                _ = self.beats.tick() => {
                    let beat = self.beat();
                    self.next.extend(beat);
                }
                Ok(()) = self.tables.changed() => self.take_tables(),
            }
        }
    }

    fn take_tables(&mut self) {
        let mut tables = self.tables.borrow_and_update().clone();
        for (name, section) in SECTIONS {
            let (now, shown) = (section(&mut tables), section(&mut self.shown));
            if now != shown
                && let Some(text) = now
            {
                self.next
                    .push_back(Event::default().event(name).data(&**text));
                shown.clone_from(now);
            }
        }
    }

    /// What this process knows without asking anyone.
    fn beat(&mut self) -> Option<Event> {
        #[derive(Serialize)]
        struct Beat {
            /// Epoch milliseconds.
            now: i64,
            slot_seconds: i64,
            live: Report,
            ready: Report,
            /// New ones, the oldest first.
            published: Vec<PublishedEvent>,
            /// Those that may have changed since the last beat.
            slots: Vec<ActivitySlot>,
        }
        let now = Timestamp::now();
        let RelayView {
            live,
            ready,
            published,
            last_published,
            slot_seconds,
            slots,
        } = self.presence.0.relay.view(ViewedUpTo {
            published: self.seen,
            slots_from: self.slots_from,
        });
        self.seen = last_published;
        // An event is counted in the slot of its time, which may just be over.
        self.slots_from = now.as_seconds() - slot_seconds;
        event(
            "beat",
            &Beat {
                now: now.as_millis(),
                slot_seconds,
                live,
                ready,
                published,
                slots,
            },
        )
    }
}

fn event(name: &str, data: &impl Serialize) -> Option<Event> {
    match serde_json::to_string(data) {
        Ok(text) => Some(Event::default().event(name).data(text)),
        Err(error) => {
            tracing::error!(%error, name, "a live message could not be written");
            None
        }
    }
}
