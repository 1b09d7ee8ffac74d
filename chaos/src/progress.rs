//! The progress line: rewritten in place on a terminal, a new line every few seconds elsewhere.

use std::collections::HashSet;
use std::fmt;
use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::history::{FaultKind, History};
use super::recorder::Recorder;

const ON_TERMINAL: Duration = Duration::from_millis(500);
const ELSEWHERE: Duration = Duration::from_secs(5);

/// Content of a progress line. Counts are updated incrementally instead of from the whole history.
#[derive(Debug, Default)]
struct Progress {
    at: Duration,
    duration: Duration,
    posts_seen: usize,
    publishes_seen: usize,
    orders: usize,
    steps: usize,
    published: HashSet<String>,
    kills: usize,
    faults: usize,
}

/// Shows the progress until `stop`.
pub(super) async fn show(recorder: Arc<Recorder>, duration: Duration, stop: CancellationToken) {
    let terminal = std::io::stderr().is_terminal();
    let _line = terminal.then(|| Line);
    let mut due = tokio::time::interval(if terminal { ON_TERMINAL } else { ELSEWHERE });
    let mut progress = Progress {
        duration,
        ..Progress::default()
    };
    // The first tick is immediate, when there is nothing to report.
    due.tick().await;
    loop {
        tokio::select! {
            _ = due.tick() => {}
            () = stop.cancelled() => break,
        }
        progress.at = Duration::from_millis(recorder.now());
        recorder.read(|history| progress.update(history));
        let mut out = std::io::stderr().lock();
        // A closed terminal is not an error.
        let _ = if terminal {
            write!(out, "\r\x1b[2K{progress}").and_then(|()| out.flush())
        } else {
            writeln!(out, "{progress}")
        };
    }
}

/// The line on a terminal. Cleared when dropped, so that the next output starts on an empty line.
struct Line;

impl Drop for Line {
    fn drop(&mut self) {
        let _ = write!(std::io::stderr().lock(), "\r\x1b[2K");
    }
}

impl Progress {
    fn update(&mut self, history: &History) {
        let posts = &history.posts[self.posts_seen..];
        self.orders += posts
            .iter()
            .filter(|post| post.status == Some(201) && !post.replayed)
            .count();
        self.posts_seen = history.posts.len();
        let publishes = &history.publishes[self.publishes_seen..];
        let ids = publishes.iter().map(|publish| publish.event_id.clone());
        self.published.extend(ids);
        self.publishes_seen = history.publishes.len();
        self.steps = history.steps.len();
        self.faults = history.faults.len();
        self.kills = history
            .faults
            .iter()
            .filter(|fault| matches!(fault.kind, FaultKind::Kill | FaultKind::KillAfterSend))
            .count();
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let events = self.orders + self.steps;
        let waiting = events.saturating_sub(self.published.len());
        let minutes = |time: Duration| {
            let seconds = time.as_secs();
            format!("{}:{:02}", seconds / 60, seconds % 60)
        };
        write!(
            f,
            "{} of {}  orders {}  events {events}, {waiting} not published  kills {}  faults {}",
            minutes(self.at),
            minutes(self.duration),
            self.orders,
            self.kills,
            self.faults
        )?;
        if self.at > self.duration {
            write!(f, "  draining")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Post, Publish};

    #[test]
    fn repeats_and_replays_count_once() {
        let post = |replayed| Post {
            status: Some(201),
            replayed,
            ..Post::default()
        };
        let publish = |event_id: &str| Publish {
            event_id: event_id.to_owned(),
            ..Publish::default()
        };
        let mut history = History {
            posts: vec![post(false), post(true), post(false)],
            publishes: vec![publish("a"), publish("a")],
            ..History::default()
        };
        let mut progress = Progress {
            duration: Duration::from_secs(60),
            ..Progress::default()
        };
        progress.update(&history);
        let line = progress.to_string();
        assert!(
            line.contains("orders 2  events 2, 1 not published"),
            "{line}"
        );
        history.publishes.push(publish("b"));
        progress.update(&history);
        let line = progress.to_string();
        assert!(line.contains("events 2, 0 not published"), "{line}");
    }
}
