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

use super::gaps::Counting;
use super::{Command, Order, SupervisorConfig};
use crate::error::ChaosError;
use crate::history::{EndSignal, Ending, Fault, FaultKind, Life, MemorySample, Program};
use crate::kill_switch::KillRequest;
use crate::logs::{Log, Ready};

/// Before a process that ended by itself is started again.
const PAUSE: Duration = Duration::from_millis(500);

/// How long after SIGTERM a process is killed, past its own grace period: it
/// gives unfinished work up 2 s after that, and flushes telemetry for 5 s.
const PAST_GRACE: Duration = Duration::from_secs(8);

/// Between two looks at a process's memory.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct ProcessSupervisor {
    pub(super) config: SupervisorConfig,
    pub(super) name: String,
    pub(super) orders: mpsc::Receiver<Order>,
    pub(super) stop: CancellationToken,
    pub(super) first_ready: watch::Sender<Option<u64>>,
}

/// A process while it is stopped by SIGSTOP.
struct Frozen {
    since: u64,
    until: Instant,
}

/// One incarnation.
struct Alive {
    process: Process,
    incarnation: u32,
    frozen: Option<Frozen>,
    /// Since when it was told to end, and by which signal.
    told: Option<(u64, EndSignal)>,
    /// When a process that was told is killed.
    deadline: Option<Instant>,
    /// After its end.
    pause: Duration,
}

impl ProcessSupervisor {
    pub(super) async fn keep_running(mut self) {
        let mut incarnation = 0;
        while !self.stop.is_cancelled() {
            incarnation += 1;
            let pause = match self.live(incarnation).await {
                Ok(pause) => pause,
                Err(error) => {
                    tracing::error!(process = self.name, %error, "a process could not be started");
                    PAUSE
                }
            };
            self.rest(pause).await;
        }
    }

    /// One incarnation, from its start to its end; returns the pause after it.
    async fn live(&mut self, incarnation: u32) -> io::Result<Duration> {
        let recorder = Arc::clone(&self.config.recorder);
        self.config.proxy.set_incarnation(incarnation);
        let mut spec = self.config.spec.clone();
        if self.config.program == Program::OutboxRelay {
            // Another name each time, as on a new machine: its leases have to
            // run out before another relay, or its successor, has them.
            let name = format!("{}-{incarnation}", self.name);
            spec.environment.push(("RELAY_INSTANCE_ID", name));
        }
        let started = recorder.now();
        let mut process = spec.spawn()?;
        let pid = process.pid();
        let log = process.take_log();
        let ready: watch::Sender<Option<Ready>> = watch::Sender::new(None);
        let mut alive = Alive {
            process,
            incarnation,
            frozen: None,
            told: None,
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
        // The log ends when the process does.
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
        let counting = async {
            let gaps = Counting {
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
            () = counting, if counts_gaps => unreachable!("it never returns"),
        };
        if let Err(source) = followed {
            let process = name.clone();
            recorder.fail(ChaosError::Log { process, source });
        }
        let ended = recorder.now();
        self.thawed(&mut alive);
        let how = ending(status?);
        if alive.told.is_none() {
            tracing::warn!(process = name, ?how, "a process ended by itself");
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
                told_to_end: alive.told.map(|(at, _)| at),
                told_by: alive.told.map(|(_, by)| by),
            });
        });
        Ok(alive.pause)
    }

    async fn until_ended(&mut self, alive: &mut Alive) -> io::Result<ExitStatus> {
        let mut memory = tokio::time::interval(MEMORY_INTERVAL);
        memory.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (heal, stop, force) = (
            self.config.heal.clone(),
            self.stop.clone(),
            self.config.force.clone(),
        );
        loop {
            let thaw = alive.frozen.as_ref().map(|frozen| frozen.until);
            let deadline = alive.deadline;
            tokio::select! {
                status = alive.process.ended() => return status,
                Some(order) = self.orders.recv() => self.obey(alive, order)?,
                Some(kill) = self.config.kills.recv() => self.obey(alive, kill.into())?,
                _ = memory.tick() => self.sample_memory(alive),
                () = at(thaw) => self.thaw(alive)?,
                () = heal.cancelled(), if thaw.is_some() => self.thaw(alive)?,
                () = stop.cancelled(), if alive.deadline.is_none() => {
                    self.thaw(alive)?;
                    self.terminate(alive)?;
                }
                () = at(deadline) => {
                    tracing::warn!(process = self.name, "a process did not end, and is killed");
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

    fn obey(&self, alive: &mut Alive, order: Order) -> io::Result<()> {
        let now = self.config.recorder.now();
        let hit = match order.what {
            Command::Revive => true,
            // One end is enough for one life; and what is healed is left alone.
            _ if alive.told.is_some() || self.config.heal.is_cancelled() => false,
            Command::Stop { .. } => alive.frozen.is_none(),
            Command::Kill { .. } | Command::Term { .. } => true,
        };
        if hit {
            match order.what {
                Command::Kill { kind, pause } => {
                    alive.process.signal(Signal::SIGKILL)?;
                    alive.told = Some((now, EndSignal::Kill));
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
                    alive.frozen = Some(Frozen {
                        since: now,
                        until: Instant::now() + lasting,
                    });
                }
                Command::Revive => {
                    alive.pause = Duration::ZERO;
                    self.thaw(alive)?;
                }
            }
        }
        // Nobody needs to wait for it.
        let _ = order.done.send(hit);
        Ok(())
    }

    fn terminate(&self, alive: &mut Alive) -> io::Result<()> {
        alive
            .told
            .get_or_insert((self.config.recorder.now(), EndSignal::Term));
        // One that is frozen gets the signal when it goes on.
        let frozen_until = alive.frozen.as_ref().map(|frozen| frozen.until);
        let from = frozen_until.unwrap_or_else(Instant::now);
        alive.deadline = Some(from + self.config.grace + PAST_GRACE);
        alive.process.signal(Signal::SIGTERM)
    }

    fn thaw(&self, alive: &mut Alive) -> io::Result<()> {
        self.thawed(alive);
        alive.process.signal(Signal::SIGCONT)
    }

    /// A pause is over, by SIGCONT or by death.
    fn thawed(&self, alive: &mut Alive) {
        if let Some(frozen) = alive.frozen.take() {
            let now = self.config.recorder.now();
            self.note(FaultKind::Stop, frozen.since, Some(now));
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

    fn sample_memory(&self, alive: &Alive) {
        // It may be gone: then there is nothing to measure.
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

    /// Between two incarnations nothing can be done to the process but to
    /// start it.
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
                Some(order) = self.orders.recv() => {
                    let _ = order.done.send(false);
                    if matches!(order.what, Command::Revive) {
                        return;
                    }
                }
            }
        }
    }
}

impl From<KillRequest> for Order {
    fn from(KillRequest { pause, done }: KillRequest) -> Self {
        let kind = Some(FaultKind::KillAfterSend);
        Self {
            what: Command::Kill { kind, pause },
            done,
        }
    }
}

fn at_of(ready: &Option<Ready>) -> Option<u64> {
    ready.as_ref().map(|ready| ready.at)
}

/// Never, when there is no such instant.
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

/// `VmRSS` of a `/proc/<pid>/status`, in bytes.
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
