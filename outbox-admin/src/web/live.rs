//! Live updates for viewers, as server-sent events.
//!
//! Each viewer receives a `heartbeat` every second, made from this process's memory, and `status`,
//! `failed` and `pending` whenever a poll of the tables returns another state. All viewers share
//! those polls; there are none while no viewer is connected.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Shared;
use axum::http::StatusCode;
use axum::response::Sse;
use axum::response::sse::Event;
use axum::routing::get;
use axum::{Extension, Router};
use futures::stream::{self, Stream};
use outbox::timestamp::Timestamp;
use outbox_store::{EventFilter, EventState};
use serde::Serialize;
use serde_json::json;
use shared::runtime::health::Report;
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};

use super::access::Actor;
use super::bounded_page::{PAGE_SIZE, list_page};
use super::problem::Problem;
use super::relay_view::{ActivitySlot, PublishedEvent, RelayView, RelayViewSource, ViewedUpTo};
use crate::service::{LeaseObserver, Limits, Listing, OperateError, Operator};

/// Maximum number of connected viewers. Each costs a connection and little more.
const MAX_VIEWERS: usize = 64;

/// Interval of heartbeats. The page reports a relay as not responding after a few missing ones.
const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Minimum pause between two polls of the tables.
const POLL_INTERVAL: Duration = Duration::from_secs(2);

/// Minimum ratio of a pause to the duration of the poll before it. A poll takes long while many
/// events are pending or failed; polling then uses little of the capacity that publishing them
/// needs.
const PAUSE_FACTOR: u32 = 9;

/// Length of the past that the page shows.
const WINDOW_SECONDS: i64 = 15 * 60;

/// Identity of the relay that serves the console.
#[derive(Debug, Serialize)]
pub(super) struct About {
    pub(super) instance: String,
    pub(super) consumer_group: String,
    pub(super) outbox_table: String,
    pub(super) version: &'static str,
}

/// Identity of the relay, and what the viewer's token permits.
#[derive(Serialize)]
struct AboutForViewer<'a> {
    #[serde(flatten)]
    about: &'a About,
    read_only: bool,
}

/// State that all viewers share.
#[derive(Debug)]
pub(super) struct Live {
    about: About,
    pub(super) operator: Operator,
    relay: RelayViewSource,
    viewers: watch::Sender<usize>,
    snapshots: watch::Sender<Snapshots>,
    /// Notifies the polls that an operator changed an event.
    changed: watch::Sender<()>,
}

/// Results of the latest polls, as JSON. An unchanged result keeps its [`Arc`].
#[derive(Clone, Debug, Default)]
struct Snapshots {
    status: Option<Arc<str>>,
    failed: Option<Arc<str>>,
    pending: Option<Arc<str>>,
}

/// Field of [`Snapshots`].
type SnapshotField = fn(&mut Snapshots) -> &mut Option<Arc<str>>;

/// Fields of [`Snapshots`], each with the name of its server-sent event.
const SNAPSHOT_FIELDS: [(&str, SnapshotField); 3] = [
    ("status", |snapshots| &mut snapshots.status),
    ("failed", |snapshots| &mut snapshots.failed),
    ("pending", |snapshots| &mut snapshots.pending),
];

pub(super) fn router() -> Router<Arc<Live>> {
    Router::new().route("/live", get(stream_updates))
}

impl Live {
    pub(super) fn new(about: About, operator: Operator, relay: RelayViewSource) -> Self {
        Self {
            about,
            operator,
            relay,
            viewers: watch::Sender::default(),
            snapshots: watch::Sender::default(),
            changed: watch::Sender::default(),
        }
    }

    /// Polls the tables without a pause, after a change that viewers should see soon.
    pub(super) fn poll_soon(&self) {
        self.changed.send_replace(());
    }

    /// Polls the tables while viewers are connected. Never returns.
    pub(super) async fn poll_tables(&self) {
        tokio::join!(self.poll_status(), self.poll_lists());
    }

    /// Polls the status apart from the lists: its duration grows with the number of events that are
    /// counted.
    async fn poll_status(&self) {
        // Failed events are not a problem here: the page has a figure of its own for them.
        let limits = Limits {
            max_failed: u64::MAX,
            ..Limits::default()
        };
        let mut observer = LeaseObserver::default();
        let mut schedule = PollSchedule::new(self);
        while schedule.next().await {
            let report = self.operator.status(&mut observer, limits).await;
            self.store_snapshot(|snapshots| &mut snapshots.status, report);
        }
    }

    async fn poll_lists(&self) {
        let mut schedule = PollSchedule::new(self);
        while schedule.next().await {
            tokio::join!(
                self.poll_list(EventState::Failed, |snapshots| &mut snapshots.failed),
                self.poll_list(EventState::Pending, |snapshots| &mut snapshots.pending),
            );
        }
    }

    async fn poll_list(&self, state: EventState, field: SnapshotField) {
        self.store_snapshot(field, first_page(&self.operator, state).await);
    }

    /// Stores the result of a poll, and notifies viewers if it differs from the one before.
    fn store_snapshot<T: Serialize>(&self, field: SnapshotField, result: Result<T, OperateError>) {
        let json = match &result {
            Ok(value) => serde_json::to_string(value),
            Err(error) => serde_json::to_string(&json!({ "problem": error.to_string() })),
        };
        let Ok(json) = json else { return };
        self.snapshots.send_if_modified(|snapshots| {
            let snapshot = field(snapshots);
            let is_new = snapshot.as_deref() != Some(&json);
            if is_new {
                *snapshot = Some(json.into());
            }
            is_new
        });
    }
}

/// Lists the first page of failed or pending events: the latest failures, which show the current
/// cause, or the oldest pending events, which are the ones that do not progress.
async fn first_page(operator: &Operator, state: EventState) -> Result<Listing, OperateError> {
    let filter = EventFilter {
        state: Some(state),
        newest_first: state == EventState::Failed,
        ..EventFilter::default()
    };
    list_page(operator, &filter, PAGE_SIZE, None).await
}

/// Schedule of polls: every [`POLL_INTERVAL`], less often if a poll takes long, at once after a
/// change, and only while viewers are connected.
struct PollSchedule {
    viewers: watch::Receiver<usize>,
    changed: watch::Receiver<()>,
    last_start: Option<Instant>,
}

impl PollSchedule {
    fn new(live: &Live) -> Self {
        Self {
            viewers: live.viewers.subscribe(),
            changed: live.changed.subscribe(),
            last_start: None,
        }
    }

    /// Waits until the next poll is due. Returns `false` if there will be none.
    async fn next(&mut self) -> bool {
        if let Some(last_start) = self.last_start {
            let pause = POLL_INTERVAL.max(last_start.elapsed() * PAUSE_FACTOR);
            tokio::select! {
                () = sleep(pause) => {}
                Ok(()) = self.changed.changed() => {}
            }
        }
        let has_viewers = self.viewers.wait_for(|count| *count > 0).await.is_ok();
        self.last_start = Some(Instant::now());
        has_viewers
    }
}

/// Registration of a viewer, which ends when this is dropped.
#[derive(Debug)]
struct ViewerGuard(Arc<Live>);

impl ViewerGuard {
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

impl Drop for ViewerGuard {
    fn drop(&mut self) {
        let live = &self.0;
        live.viewers.send_modify(|count| {
            *count -= 1;
            if *count == 0 {
                // The next viewer may connect much later and must not receive old snapshots.
                live.snapshots.send_replace(Snapshots::default());
            }
        });
    }
}

/// One viewer's connection.
struct Viewer {
    guard: ViewerGuard,
    snapshots: watch::Receiver<Snapshots>,
    heartbeats: Interval,
    /// Snapshots that were sent.
    sent: Snapshots,
    /// Number of the last published event that was sent.
    sent_published: u64,
    slots_from: i64,
    /// Events to send, in this order.
    queue: VecDeque<Event>,
}

/// Opens a stream of live updates for a viewer.
async fn stream_updates(
    Shared(live): Shared<Arc<Live>>,
    Extension(actor): Extension<Actor>,
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Problem> {
    let about = AboutForViewer {
        about: &live.about,
        read_only: actor.is_read_only,
    };
    let about = sse_event("about", &about);
    let snapshots = live.snapshots.subscribe();
    let guard = ViewerGuard::new(live).ok_or_else(|| {
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            format!(
                "this relay has reached its limit of {MAX_VIEWERS} connected viewers; close another console, or use another instance"
            ),
        )
    })?;
    let mut heartbeats = interval(HEARTBEAT_INTERVAL);
    heartbeats.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut viewer = Viewer {
        guard,
        snapshots,
        heartbeats,
        sent: Snapshots::default(),
        sent_published: 0,
        slots_from: Timestamp::now().as_seconds() - WINDOW_SECONDS,
        queue: about.into_iter().collect(),
    };
    viewer.queue_snapshots();
    Ok(Sse::new(stream::unfold(viewer, async |mut viewer| {
        let event = viewer.next().await;
        Some((Ok(event), viewer))
    })))
}

impl Viewer {
    /// Returns the next event to send.
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return event;
            }
            tokio::select! {
                _ = self.heartbeats.tick() => {
                    let heartbeat = self.heartbeat();
                    self.queue.extend(heartbeat);
                }
                Ok(()) = self.snapshots.changed() => self.queue_snapshots(),
            }
        }
    }

    /// Queues the snapshots that differ from those that were sent.
    fn queue_snapshots(&mut self) {
        let mut snapshots = self.snapshots.borrow_and_update().clone();
        for (name, field) in SNAPSHOT_FIELDS {
            let (current, sent) = (field(&mut snapshots), field(&mut self.sent));
            if current != sent
                && let Some(json) = current
            {
                self.queue
                    .push_back(Event::default().event(name).data(&**json));
                sent.clone_from(current);
            }
        }
    }

    /// Returns a heartbeat with the state of this process, without any request to AWS.
    fn heartbeat(&mut self) -> Option<Event> {
        #[derive(Serialize)]
        struct Heartbeat {
            /// Epoch milliseconds.
            now: i64,
            slot_seconds: i64,
            live: Report,
            ready: Report,
            /// Events published since the last heartbeat, the oldest first.
            published: Vec<PublishedEvent>,
            /// Slots that may have changed since the last heartbeat.
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
        } = self.guard.0.relay.view(ViewedUpTo {
            published: self.sent_published,
            slots_from: self.slots_from,
        });
        self.sent_published = last_published;
        // The previous slot may still change: an event counts in the slot of its own time.
        self.slots_from = now.as_seconds() - slot_seconds;
        sse_event(
            "heartbeat",
            &Heartbeat {
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

/// Returns a server-sent event, or `None` if `data` cannot be serialised.
fn sse_event(name: &str, data: &impl Serialize) -> Option<Event> {
    match serde_json::to_string(data) {
        Ok(text) => Some(Event::default().event(name).data(text)),
        Err(error) => {
            tracing::error!(%error, name, "cannot serialise a live update; it is not sent");
            None
        }
    }
}
