//! One incarnation of a supervised process, from its start to its end.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::ChildStderr;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::child_process::Process;

/// Time after the grace period until a process is killed: it abandons unfinished work 2 s after the
/// grace period, and flushes telemetry for at most 5 s.
const PAST_GRACE: Duration = Duration::from_secs(8);

/// An event in the life of a supervised process.
#[derive(Debug)]
pub enum Event {
    Started(Started),
    StartFailed(io::Error),
    /// The process was paused by SIGSTOP from `since` until `until`, when it continued or ended.
    Paused {
        since: Instant,
        until: Instant,
    },
    /// The process did not end within its grace period, and is killed.
    GraceExceeded,
    /// The incarnation has ended.
    Exited {
        /// An error if the process could not be signalled or waited for; it is then killed.
        status: io::Result<ExitStatus>,
        /// Time and kind of the signal by which the supervisor requested the end (SIGTERM or
        /// SIGKILL); `None` if the process ended by itself.
        signalled: Option<(Instant, Signal)>,
    },
}

/// The start of an incarnation.
#[derive(Debug)]
pub struct Started {
    /// Number of the incarnation, starting at 1. A failed start has a number as well.
    pub incarnation: u32,
    /// Time just before the start.
    pub at: Instant,
    pub pid: u32,
    /// Log, if it is read by this process.
    pub log: Option<ChildStderr>,
}

/// One incarnation while it runs.
pub(super) struct Incarnation<'a> {
    pub(super) process: Process,
    pub(super) events: &'a mpsc::UnboundedSender<Event>,
    pub(super) paused: Option<Paused>,
    /// Time and signal of the requested end.
    pub(super) signalled: Option<(Instant, Signal)>,
    /// Time at which a process that was terminated is killed.
    pub(super) deadline: Option<Instant>,
    /// Delay after its end, if a command specifies it.
    pub(super) delay: Option<Duration>,
}

/// A pause by SIGSTOP.
pub(super) struct Paused {
    pub(super) since: Instant,
    pub(super) until: Instant,
}

impl Incarnation<'_> {
    /// Sends SIGTERM and sets the deadline.
    pub(super) fn terminate(&mut self, grace: Duration) -> io::Result<()> {
        let now = Instant::now();
        self.signalled.get_or_insert((now, Signal::SIGTERM));
        // A paused process receives the signal when it continues.
        let from = self.paused.as_ref().map_or(now, |paused| paused.until);
        self.deadline = Some(from + grace + PAST_GRACE);
        self.process.signal(Signal::SIGTERM)
    }

    /// Sends SIGCONT if the process is paused.
    pub(super) fn resume(&mut self) -> io::Result<()> {
        if self.paused.is_some() {
            self.end_pause();
            self.process.signal(Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// Emits the pause that has ended by SIGCONT or by the end of the process.
    pub(super) fn end_pause(&mut self) {
        if let Some(Paused { since, .. }) = self.paused.take() {
            let until = Instant::now();
            emit(self.events, Event::Paused { since, until });
        }
    }
}

pub(super) fn emit(events: &mpsc::UnboundedSender<Event>, event: Event) {
    // The owner may have dropped the receiver.
    let _ = events.send(event);
}
