//! Keeps one child process running: starts it, restarts it when it ends, executes commands that
//! signal it, and stops it. Each start is a new incarnation. The owner learns from [`Event`]s what
//! happened and logs or records it.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::process::ChildStderr;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::child_process::{Process, Spec};

/// Time after the grace period until a process is killed: it abandons unfinished work 2 s after the
/// grace period, and flushes telemetry for at most 5 s.
const PAST_GRACE: Duration = Duration::from_secs(8);

/// A supervisor that is not running yet.
#[derive(Debug)]
pub struct Supervisor {
    pub restart: RestartPolicy,
    /// Grace period of the process after SIGTERM.
    pub grace: Duration,
    /// Receiver of the commands; see [`Commands::new`].
    pub requests: Requests,
    /// Cancelled to stop the process and the supervisor.
    pub stop: CancellationToken,
    /// Cancelled when the process must be killed instead of stopped; has no effect before `stop`.
    pub force: CancellationToken,
    /// Cancelled to keep the process running from now on: a paused process continues, one that is
    /// not running is started, and further commands have no effect.
    pub heal: CancellationToken,
}

/// Delay between the end of an incarnation and the start of the next one, unless a command
/// specifies it.
#[derive(Clone, Copy, Debug)]
pub enum RestartPolicy {
    Fixed(Duration),
    /// `min` after the first early end, doubled after every further one, at most `max`. An end is
    /// early if the uptime was less than `stable_uptime`.
    Backoff {
        min: Duration,
        max: Duration,
        stable_uptime: Duration,
    },
}

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

/// A command for a supervised process.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Sends SIGKILL; the process is started again after `delay`.
    Kill { delay: Duration },
    /// Sends SIGTERM; the process is started again `delay` after its end.
    Terminate { delay: Duration },
    /// Sends SIGSTOP, and SIGCONT after `lasting`.
    Pause { lasting: Duration },
    /// Sends SIGCONT to a paused process, and starts one that is not running.
    Revive,
}

/// Sends commands to one supervisor.
#[derive(Clone, Debug)]
pub struct Commands(mpsc::Sender<Request>);

/// Receiver of the commands of one supervisor.
#[derive(Debug)]
pub struct Requests(mpsc::Receiver<Request>);

#[derive(Debug)]
struct Request {
    command: Command,
    done: oneshot::Sender<Option<Instant>>,
}

impl Commands {
    /// Creates the sender and the receiver for the supervisor.
    pub fn new() -> (Self, Requests) {
        // Commands are executed one at a time, and the sender waits for the result.
        let (commands, received) = mpsc::channel(8);
        (Self(commands), Requests(received))
    }

    /// Executes `command`. Returns the time of the signal, or `None` if there was no process to
    /// apply it to: it is not running, it is already ending, or the supervisor has ended.
    pub async fn send(&self, command: Command) -> Option<Instant> {
        let (done, executed) = oneshot::channel();
        self.0.send(Request { command, done }).await.ok()?;
        executed.await.ok().flatten()
    }
}

/// One incarnation while it runs.
struct Incarnation<'a> {
    process: Process,
    events: &'a mpsc::UnboundedSender<Event>,
    paused: Option<Paused>,
    /// Time and signal of the requested end.
    signalled: Option<(Instant, Signal)>,
    /// Time at which a process that was terminated is killed.
    deadline: Option<Instant>,
    /// Delay after its end, if a command specifies it.
    delay: Option<Duration>,
}

/// A pause by SIGSTOP.
struct Paused {
    since: Instant,
    until: Instant,
}

impl Supervisor {
    /// Keeps the process running until [`Supervisor::stop`] is cancelled, then waits for its end.
    /// `spec` returns the command of each incarnation.
    pub async fn run(
        mut self,
        mut spec: impl FnMut(u32) -> Spec,
        events: mpsc::UnboundedSender<Event>,
    ) {
        let mut incarnation = 0;
        let mut early_ends = 0;
        while !self.stop.is_cancelled() {
            incarnation += 1;
            let at = Instant::now();
            let delay = match spec(incarnation).spawn() {
                Ok(process) => {
                    self.run_incarnation(process, incarnation, at, &events)
                        .await
                }
                Err(error) => {
                    emit(&events, Event::StartFailed(error));
                    None
                }
            };
            early_ends = self.restart.early_ends(early_ends, at.elapsed());
            let delay = delay.unwrap_or_else(|| self.restart.delay(early_ends));
            self.rest(delay).await;
        }
    }

    /// Supervises `process` until it has ended. Returns the delay that a command specified.
    async fn run_incarnation(
        &mut self,
        mut process: Process,
        incarnation: u32,
        at: Instant,
        events: &mpsc::UnboundedSender<Event>,
    ) -> Option<Duration> {
        let started = Started {
            incarnation,
            at,
            pid: process.pid().unwrap_or_default(),
            log: process.take_log(),
        };
        emit(events, Event::Started(started));
        let mut alive = Incarnation {
            process,
            events,
            paused: None,
            signalled: None,
            deadline: None,
            delay: None,
        };
        let status = self.until_ended(&mut alive).await;
        alive.end_pause();
        let signalled = alive.signalled;
        emit(events, Event::Exited { status, signalled });
        alive.delay
    }

    async fn until_ended(&mut self, alive: &mut Incarnation<'_>) -> io::Result<ExitStatus> {
        loop {
            let resume_at = alive.paused.as_ref().map(|paused| paused.until);
            let deadline = alive.deadline;
            tokio::select! {
                status = alive.process.ended() => return status,
                Some(request) = self.requests.0.recv() => {
                    let signalled_at = self.execute(alive, request.command)?;
                    // The sender may not wait for the result.
                    let _ = request.done.send(signalled_at);
                }
                () = at(resume_at) => alive.resume()?,
                () = self.heal.cancelled(), if resume_at.is_some() => alive.resume()?,
                () = self.stop.cancelled(), if deadline.is_none() => {
                    alive.resume()?;
                    alive.terminate(self.grace)?;
                }
                () = at(deadline) => {
                    emit(alive.events, Event::GraceExceeded);
                    break;
                }
                () = forced(&self.stop, &self.force), if deadline.is_some() => break,
            }
        }
        alive.process.signal(Signal::SIGKILL)?;
        alive.process.ended().await
    }

    /// Returns the time of the signal, or `None` if the command does not apply.
    fn execute(
        &self,
        alive: &mut Incarnation<'_>,
        command: Command,
    ) -> io::Result<Option<Instant>> {
        let now = Instant::now();
        let applies = match command {
            Command::Revive => true,
            // A process is ended once per incarnation; after healing, it is left running.
            _ if alive.signalled.is_some() || self.heal.is_cancelled() => false,
            Command::Pause { .. } => alive.paused.is_none(),
            Command::Kill { .. } | Command::Terminate { .. } => true,
        };
        if !applies {
            return Ok(None);
        }
        match command {
            Command::Kill { delay } => {
                alive.process.signal(Signal::SIGKILL)?;
                alive.signalled = Some((now, Signal::SIGKILL));
                alive.delay = Some(delay);
            }
            Command::Terminate { delay } => {
                alive.delay = Some(delay);
                alive.terminate(self.grace)?;
            }
            Command::Pause { lasting } => {
                alive.process.signal(Signal::SIGSTOP)?;
                alive.paused = Some(Paused {
                    since: now,
                    until: now + lasting,
                });
            }
            Command::Revive => {
                alive.delay = Some(Duration::ZERO);
                alive.resume()?;
            }
        }
        Ok(Some(now))
    }

    /// Waits between two incarnations; commands other than a restart have no effect meanwhile.
    async fn rest(&mut self, delay: Duration) {
        let until = Instant::now() + delay;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.heal.cancelled() => return,
                () = self.stop.cancelled() => return,
                Some(request) = self.requests.0.recv() => {
                    let _ = request.done.send(None);
                    if matches!(request.command, Command::Revive) {
                        return;
                    }
                }
            }
        }
    }
}

impl Incarnation<'_> {
    /// Sends SIGTERM and sets the deadline.
    fn terminate(&mut self, grace: Duration) -> io::Result<()> {
        let now = Instant::now();
        self.signalled.get_or_insert((now, Signal::SIGTERM));
        // A paused process receives the signal when it continues.
        let from = self.paused.as_ref().map_or(now, |paused| paused.until);
        self.deadline = Some(from + grace + PAST_GRACE);
        self.process.signal(Signal::SIGTERM)
    }

    /// Sends SIGCONT if the process is paused.
    fn resume(&mut self) -> io::Result<()> {
        if self.paused.is_some() {
            self.end_pause();
            self.process.signal(Signal::SIGCONT)?;
        }
        Ok(())
    }

    /// Emits the pause that has ended by SIGCONT or by the end of the process.
    fn end_pause(&mut self) {
        if let Some(Paused { since, .. }) = self.paused.take() {
            let until = Instant::now();
            emit(self.events, Event::Paused { since, until });
        }
    }
}

impl RestartPolicy {
    /// Returns the number of consecutive early ends after one more end.
    fn early_ends(self, before: u32, uptime: Duration) -> u32 {
        match self {
            Self::Backoff { stable_uptime, .. } if uptime < stable_uptime => before + 1,
            Self::Backoff { .. } | Self::Fixed(_) => 0,
        }
    }

    /// Returns the delay before the next start, after this many early ends.
    fn delay(self, early_ends: u32) -> Duration {
        match self {
            Self::Fixed(delay) => delay,
            Self::Backoff { min, max, .. } => {
                let doublings = early_ends.saturating_sub(1).min(16);
                (min * 2_u32.pow(doublings)).min(max)
            }
        }
    }
}

fn emit(events: &mpsc::UnboundedSender<Event>, event: Event) {
    // The owner may have dropped the receiver.
    let _ = events.send(event);
}

/// Waits until `instant`, or indefinitely if it is `None`.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

/// Waits until the process must be killed: `force` has no effect before `stop`.
async fn forced(stop: &CancellationToken, force: &CancellationToken) {
    stop.cancelled().await;
    force.cancelled().await;
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    #[tokio::test]
    async fn a_forced_stop_kills_a_process_that_a_command_terminated() {
        let folder = tempfile::tempdir().unwrap();
        let script = folder.path().join("ignores-sigterm");
        let text = "trap '' TERM\necho ready >&2\nwhile :; do sleep 1; done\n";
        std::fs::write(&script, text).unwrap();
        let name: &'static str = Box::leak(script.to_str().unwrap().into());
        let (commands, requests) = Commands::new();
        let [stop, force, heal] = std::array::from_fn(|_| CancellationToken::new());
        let supervisor = Supervisor {
            restart: RestartPolicy::Fixed(Duration::ZERO),
            grace: Duration::from_secs(600),
            requests,
            stop: stop.clone(),
            force: force.clone(),
            heal,
        };
        let spec = move |_| Spec {
            name,
            program: "/bin/sh".into(),
            environment: Vec::new(),
            log_is_read: true,
        };
        let (events, mut received) = mpsc::unbounded_channel();
        let run = tokio::spawn(supervisor.run(spec, events));
        let Some(Event::Started(mut started)) = received.recv().await else {
            panic!("the script did not start");
        };
        let mut ready = [0; 5];
        let log = started.log.as_mut().unwrap();
        log.read_exact(&mut ready).await.unwrap();

        let delay = Duration::ZERO;
        commands.send(Command::Terminate { delay }).await.unwrap();
        stop.cancel();
        force.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(30), run).await;
        ended.expect("the process was not killed").unwrap();
    }

    #[test]
    fn restart_delay_doubles_up_to_its_limit() {
        let min = Duration::from_millis(100);
        let max = Duration::from_secs(5);
        let policy = RestartPolicy::Backoff {
            min,
            max,
            stable_uptime: Duration::from_secs(10),
        };
        assert_eq!(policy.delay(0), min);
        assert_eq!(policy.delay(1), min);
        assert_eq!(policy.delay(2), min * 2);
        assert_eq!(policy.delay(7), max);
        assert_eq!(policy.delay(u32::MAX), max);
    }
}
