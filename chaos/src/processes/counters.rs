//! Polls the numbers of stream gaps and of deferred events that a relay has counted: the counters
//! are lost when the relay is killed.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::history::{Deferral, GapCount};
use crate::logs::Ready;
use crate::recorder::Recorder;

const INTERVAL: Duration = Duration::from_secs(1);

/// Names of the counters in `/metrics`.
const GAPS: &str = "outbox_stream_gaps_total";
const DEFERRED: &str = "outbox_events_deferred_total";

/// The counters of one incarnation of a relay.
pub(super) struct RelayCounters<'a> {
    pub(super) http: &'a reqwest::Client,
    pub(super) recorder: &'a Recorder,
    pub(super) relay: &'a str,
    pub(super) incarnation: u32,
}

impl RelayCounters<'_> {
    /// Polls the counters once the relay is ready; never returns.
    pub(super) async fn follow(&self, mut ready: watch::Receiver<Option<Ready>>) {
        if let Ok(ready) = ready.wait_for(Option::is_some).await.map(|it| it.clone())
            && let Some(address) = ready.and_then(|ready| ready.address)
        {
            self.poll(&format!("http://{address}/metrics")).await;
        }
        std::future::pending().await
    }

    async fn poll(&self, url: &str) {
        let mut due = tokio::time::interval(INTERVAL);
        due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut deferred = BTreeMap::new();
        loop {
            due.tick().await;
            let at = self.recorder.now();
            // A paused relay does not respond.
            if let Ok(text) = self.metrics(url).await {
                self.note_gaps(at, series(&text, GAPS).map(|(_, value)| value).sum());
                for (labels, value) in series(&text, DEFERRED) {
                    if let Some(queue) = label(labels, "queue") {
                        let before = deferred.insert(queue.to_owned(), value).unwrap_or(0);
                        self.note_deferral(at, queue, value.saturating_sub(before));
                    }
                }
            }
        }
    }

    async fn metrics(&self, url: &str) -> reqwest::Result<String> {
        let answer = self.http.get(url).send().await?;
        answer.error_for_status()?.text().await
    }

    fn note_deferral(&self, at: u64, queue: &str, events: u64) {
        if events > 0 {
            let deferral = Deferral {
                at,
                relay: self.relay.to_owned(),
                incarnation: self.incarnation,
                queue: queue.to_owned(),
                events,
            };
            self.recorder
                .write(|history| history.deferrals.push(deferral));
        }
    }

    fn note_gaps(&self, at: u64, counted: u64) {
        let count = GapCount {
            at,
            relay: self.relay.to_owned(),
            incarnation: self.incarnation,
            counted,
        };
        self.recorder.write(|history| {
            let counts = &mut history.gap_counts;
            counts.retain(|one| (&one.relay, one.incarnation) != (&count.relay, count.incarnation));
            counts.push(count);
        });
    }
}

/// Returns the labels and the value of each series of a counter in the Prometheus text format.
fn series<'a>(text: &'a str, counter: &str) -> impl Iterator<Item = (&'a str, u64)> {
    text.lines().filter_map(move |line| {
        let (series, value) = line.rsplit_once(' ')?;
        let (name, labels) = series.split_once('{').unwrap_or((series, ""));
        Some((labels, value.parse().ok()?)).filter(|_| name == counter)
    })
}

/// Returns the value of a label without escaped characters.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let start = format!("{name}=\"");
    let mut labels = labels.trim_end_matches('}').split(',');
    labels.find_map(|label| label.strip_prefix(&start)?.strip_suffix('"'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_counter_is_found_among_other_series() {
        let gaps = |text| -> u64 { series(text, GAPS).map(|(_, value)| value).sum() };
        let text = "# TYPE outbox_stream_gaps_total counter\n\
                    outbox_stream_gaps_total_other 9\n\
                    outbox_stream_gaps_total{otel_scope_name=\"outbox relay\"} 2\n";
        assert_eq!(gaps(text), 2);
        assert_eq!(gaps("outbox_stream_gaps_total 3\n"), 3);
        assert_eq!(gaps("# HELP outbox_stream_gaps_total 3\n"), 0);
    }

    #[test]
    fn a_counter_has_a_series_for_each_queue() {
        let text = "outbox_events_deferred_total{otel_scope_name=\"relay\",queue=\"a.fifo\"} 4\n\
                    outbox_events_deferred_total{queue=\"b\",otel_scope_name=\"relay\"} 5\n";
        let queues: Vec<_> = series(text, DEFERRED)
            .map(|(labels, value)| (label(labels, "queue"), value))
            .collect();
        assert_eq!(queues, [(Some("a.fifo"), 4), (Some("b"), 5)]);
    }
}
