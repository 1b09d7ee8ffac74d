//! Keeps one child process running: starts it, restarts it when it ends, executes commands that
//! signal it, and stops it. Each start is a new incarnation. The owner learns from [`Event`]s what
//! happened and logs or records it.

mod command;
mod incarnation;
mod restart_policy;

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

pub use command::{Command, Commands, Requests};
pub use incarnation::{Event, Started};
use incarnation::{Incarnation, Paused, emit};
use nix::sys::signal::Signal;
pub use restart_policy::RestartPolicy;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::child_process::{Process, Spec};

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
                Some(request) = self.requests.recv() => {
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
                Some(request) = self.requests.recv() => {
                    let _ = request.done.send(None);
                    if matches!(request.command, Command::Revive) {
                        return;
                    }
                }
            }
        }
    }
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
}
