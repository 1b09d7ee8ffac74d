//! Polls the number of stream gaps that a relay has counted: the counter is lost when the relay is
//! killed.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::history::GapCount;
use crate::logs::Ready;
use crate::recorder::Recorder;

const INTERVAL: Duration = Duration::from_secs(1);

/// Name of the counter in `/metrics`.
const COUNTER: &str = "outbox_stream_gaps_total";

/// One incarnation of a relay.
pub(super) struct GapCounter<'a> {
    pub(super) http: &'a reqwest::Client,
    pub(super) recorder: &'a Recorder,
    pub(super) relay: &'a str,
    pub(super) incarnation: u32,
}

impl GapCounter<'_> {
    /// Polls the counter once the relay is ready; never returns.
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
        loop {
            due.tick().await;
            let at = self.recorder.now();
            // A paused relay does not respond.
            if let Ok(text) = self.metrics(url).await {
                self.note(at, counted(&text));
            }
        }
    }

    async fn metrics(&self, url: &str) -> reqwest::Result<String> {
        let answer = self.http.get(url).send().await?;
        answer.error_for_status()?.text().await
    }

    fn note(&self, at: u64, counted: u64) {
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

/// Returns the value of the counter in the Prometheus text format, with or without labels, or 0 if
/// it is absent.
fn counted(text: &str) -> u64 {
    let value = text.lines().find_map(|line| {
        let (series, value) = line.rsplit_once(' ')?;
        let name = series.split('{').next()?;
        (name == COUNTER).then_some(value)
    });
    value.and_then(|value| value.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_is_found_among_other_series() {
        let text = "# TYPE outbox_stream_gaps_total counter\n\
                    outbox_stream_gaps_total_other 9\n\
                    outbox_stream_gaps_total{otel_scope_name=\"outbox relay\"} 2\n";
        assert_eq!(counted(text), 2);
        assert_eq!(counted("outbox_stream_gaps_total 3\n"), 3);
        assert_eq!(counted("# HELP outbox_stream_gaps_total 3\n"), 0);
    }
}
