//! Keeps one process running through its incarnations.

use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::child_process::Process;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

use super::gaps::GapCounter;
use super::{Command, Request, SupervisorConfig};
use crate::error::ChaosError;
use crate::history::{EndSignal, Ending, Fault, FaultKind, Life, MemorySample, Program};
use crate::kill_switch::KillRequest;
use crate::logs::{Log, Ready};

/// Delay before a process that ended by itself is started again.
const PAUSE: Duration = Duration::from_millis(500);

/// Time after the grace period until a process is killed: it abandons unfinished work 2 s after the
/// grace period, and flushes telemetry for 5 s.
const PAST_GRACE: Duration = Duration::from_secs(8);

/// Interval between two memory samples.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct ProcessSupervisor {
    pub(super) config: SupervisorConfig,
    pub(super) name: String,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) stop: CancellationToken,
    pub(super) first_ready: watch::Sender<Option<u64>>,
}

/// A process that is paused by SIGSTOP.
struct Paused {
    since: u64,
    until: Instant,
}

/// One incarnation.
struct Incarnation {
    process: Process,
    incarnation: u32,
    paused: Option<Paused>,
    /// Time and signal of the requested end.
    signalled: Option<(u64, EndSignal)>,
    /// Time at which a process that was signalled is killed.
    deadline: Option<Instant>,
    /// Delay after its end.
    pause: Duration,
}

impl ProcessSupervisor {
    pub(super) async fn keep_running(mut self) {
        let mut incarnation = 0;
        while !self.stop.is_cancelled() {
            incarnation += 1;
            let pause = match self.run_incarnation(incarnation).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(process = self.name, %error, "the process could not be started; retrying");
                    PAUSE
                }
            };
            self.rest(pause).await;
        }
    }

    /// Runs one incarnation from its start to its end; returns the delay before the next one.
    async fn run_incarnation(&mut self, incarnation: u32) -> io::Result<Duration> {
        let recorder = Arc::clone(&self.config.recorder);
        self.config.proxy.set_incarnation(incarnation);
        let mut spec = self.config.spec.clone();
        if self.config.program == Program::OutboxRelay {
            // Each incarnation has another name, as on a new machine: its leases have to expire
            // before another relay, or the next incarnation, can acquire them.
            let name = format!("{}-{incarnation}", self.name);
            spec.environment.push(("RELAY_INSTANCE_ID", name));
        }
        let started = recorder.now();
        let mut process = spec.spawn()?;
        let pid = process.pid();
        let log = process.take_log();
        let ready: watch::Sender<Option<Ready>> = watch::Sender::new(None);
        let mut alive = Incarnation {
            process,
            incarnation,
            paused: None,
            signalled: None,
            deadline: None,
            pause: PAUSE,
        };
        let name = self.name.clone();
        let log_file = self.config.log_file.clone();
        let following = async {
            let log_of = Log {
                recorder: &recorder,
                process: &name,
                ready: &ready,
                file: log_file.as_deref(),
            };
            match log {
                Some(log) => log_of.follow(log).await,
                None => Ok(()),
            }
        };
        // The log ends with the process.
        let first_ready = self.first_ready.clone();
        let pass_on = async {
            let mut ready = ready.subscribe();
            if let Ok(at) = ready.wait_for(Option::is_some).await.map(|it| at_of(&it)) {
                first_ready.send_replace(at);
            }
            std::future::pending().await
        };
        let http = self.config.http.clone();
        let counts_gaps = self.config.program == Program::OutboxRelay;
        let gap_counting = async {
            let gaps = GapCounter {
                http: &http,
                recorder: &recorder,
                relay: &name,
                incarnation,
            };
            gaps.follow(ready.subscribe()).await;
        };
        let (status, followed) = tokio::select! {
            both = async { tokio::join!(self.until_ended(&mut alive), following) } => both,
            never = pass_on => never,
            () = gap_counting, if counts_gaps => unreachable!("it never returns"),
        };
        if let Err(source) = followed {
            let process = name.clone();
            recorder.fail(ChaosError::Log { process, source });
        }
        let ended = recorder.now();
        self.record_pause_end(&mut alive);
        let how = ending(status?);
        if alive.signalled.is_none() {
            tracing::warn!(
                process = name,
                ?how,
                "the process ended unexpectedly; restarting it"
            );
        }
        recorder.write(|history| {
            history.lives.push(Life {
                program: self.config.program,
                process: name,
                incarnation,
                pid,
                started,
                ready: at_of(&ready.borrow()),
                ended: Some(ended),
                how: Some(how),
                told_to_end: alive.signalled.map(|(at, _)| at),
                told_by: alive.signalled.map(|(_, by)| by),
            });
        });
        Ok(alive.pause)
    }

    async fn until_ended(&mut self, alive: &mut Incarnation) -> io::Result<ExitStatus> {
        let mut memory = tokio::time::interval(MEMORY_INTERVAL);
        memory.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (heal, stop, force) = (
            self.config.heal.clone(),
            self.stop.clone(),
            self.config.force.clone(),
        );
        loop {
            let resume_at = alive.paused.as_ref().map(|paused| paused.until);
            let deadline = alive.deadline;
            tokio::select! {
                status = alive.process.ended() => return status,
                Some(request) = self.requests.recv() => self.execute(alive, request)?,
                Some(kill) = self.config.kills.recv() => self.execute(alive, kill.into())?,
                _ = memory.tick() => self.sample_memory(alive),
                () = at(resume_at) => self.resume(alive)?,
                () = heal.cancelled(), if resume_at.is_some() => self.resume(alive)?,
                () = stop.cancelled(), if alive.deadline.is_none() => {
                    self.resume(alive)?;
                    self.terminate(alive)?;
                }
                () = at(deadline) => {
                    tracing::warn!(process = self.name, "the process did not stop in time; killing it");
                    alive.deadline = None;
                    alive.process.signal(Signal::SIGKILL)?;
                    return alive.process.ended().await;
                }
                () = force.cancelled(), if stop.is_cancelled() => {
                    alive.process.signal(Signal::SIGKILL)?;
                    return alive.process.ended().await;
                }
            }
        }
    }

    fn execute(&self, alive: &mut Incarnation, request: Request) -> io::Result<()> {
        let now = self.config.recorder.now();
        let hit = match request.command {
            Command::Revive => true,
            // A process is ended once per incarnation; after the faults have ended, it is left
            // running.
            _ if alive.signalled.is_some() || self.config.heal.is_cancelled() => false,
            Command::Stop { .. } => alive.paused.is_none(),
            Command::Kill { .. } | Command::Term { .. } => true,
        };
        if hit {
            match request.command {
                Command::Kill { kind, pause } => {
                    alive.process.signal(Signal::SIGKILL)?;
                    alive.signalled = Some((now, EndSignal::Kill));
                    alive.pause = pause;
                    if let Some(kind) = kind {
                        self.note(kind, now, None);
                    }
                }
                Command::Term { pause } => {
                    alive.pause = pause;
                    self.terminate(alive)?;
                    self.note(FaultKind::Term, now, None);
                }
                Command::Stop { lasting } => {
                    alive.process.signal(Signal::SIGSTOP)?;
                    alive.paused = Some(Paused {
                        since: now,
                        until: Instant::now() + lasting,
                    });
                }
                Command::Revive => {
                    alive.pause = Duration::ZERO;
                    self.resume(alive)?;
                }
            }
        }
        // The sender may not wait for the result.
        let _ = request.done.send(hit);
        Ok(())
    }

    fn terminate(&self, alive: &mut Incarnation) -> io::Result<()> {
        alive
            .signalled
            .get_or_insert((self.config.recorder.now(), EndSignal::Term));
        // A paused process receives the signal when it continues.
        let paused_until = alive.paused.as_ref().map(|paused| paused.until);
        let from = paused_until.unwrap_or_else(Instant::now);
        alive.deadline = Some(from + self.config.grace + PAST_GRACE);
        alive.process.signal(Signal::SIGTERM)
    }

    fn resume(&self, alive: &mut Incarnation) -> io::Result<()> {
        self.record_pause_end(alive);
        alive.process.signal(Signal::SIGCONT)
    }

    /// Records the end of a pause, by SIGCONT or by the end of the process.
    fn record_pause_end(&self, alive: &mut Incarnation) {
        if let Some(paused) = alive.paused.take() {
            let now = self.config.recorder.now();
            self.note(FaultKind::Stop, paused.since, Some(now));
        }
    }

    fn note(&self, kind: FaultKind, at: u64, until: Option<u64>) {
        self.config.recorder.fault(Fault {
            at,
            until,
            kind,
            process: Some(self.name.clone()),
            service: None,
            operation: None,
        });
    }

    fn sample_memory(&self, alive: &Incarnation) {
        // The file does not exist if the process has ended.
        let status = std::fs::read_to_string(format!("/proc/{}/status", alive.process.pid()));
        let Some(rss_bytes) = status.ok().as_deref().and_then(resident) else {
            return;
        };
        let sample = MemorySample {
            at: self.config.recorder.now(),
            process: self.name.clone(),
            incarnation: alive.incarnation,
            rss_bytes,
        };
        self.config
            .recorder
            .write(|history| history.memory.push(sample));
    }

    /// Waits between two incarnations; commands other than a restart have no effect meanwhile.
    async fn rest(&mut self, pause: Duration) {
        let until = Instant::now() + pause;
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.config.heal.cancelled() => return,
                () = self.stop.cancelled() => return,
                Some(kill) = self.config.kills.recv() => {
                    let _ = kill.done.send(false);
                }
                Some(request) = self.requests.recv() => {
                    let _ = request.done.send(false);
                    if matches!(request.command, Command::Revive) {
                        return;
                    }
                }
            }
        }
    }
}

impl From<KillRequest> for Request {
    fn from(KillRequest { pause, done }: KillRequest) -> Self {
        let kind = Some(FaultKind::KillAfterSend);
        Self {
            command: Command::Kill { kind, pause },
            done,
        }
    }
}

fn at_of(ready: &Option<Ready>) -> Option<u64> {
    ready.as_ref().map(|ready| ready.at)
}

/// Waits until `instant`, or indefinitely if it is `None`.
async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant).await,
        None => std::future::pending().await,
    }
}

fn ending(status: ExitStatus) -> Ending {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => Ending::Exited(code),
        (None, signal) => Ending::Signalled(signal.unwrap_or_default()),
    }
}

/// Returns `VmRSS` of a `/proc/<pid>/status`, in bytes.
fn resident(status: &str) -> Option<u64> {
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_read_as_linux_writes_it() {
        let status = "Name:\tx\nVmPeak:\t  99 kB\nVmRSS:\t    2048 kB\nThreads:\t1\n";
        assert_eq!(resident(status), Some(2048 * 1024));
        assert_eq!(resident("Name:\tzombie\n"), None);
    }
}
