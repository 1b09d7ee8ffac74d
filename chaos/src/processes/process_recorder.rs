//! Records the incarnations of one process from the events of its supervisor, its log and its
//! metrics.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::signal::Signal;
use test_support::supervisor::{Event, Started};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};

use super::counters::RelayCounters;
use crate::error::ChaosError;
use crate::history::{EndSignal, Ending, Fault, FaultKind, Life, MemorySample, Program};
use crate::logs::{Log, Ready};
use crate::recorder::Recorder;

/// Interval between two memory samples.
const MEMORY_INTERVAL: Duration = Duration::from_secs(1);

/// Exit status of a process, and time and kind of the signal that requested its end.
type Exited = (io::Result<ExitStatus>, Option<(Instant, Signal)>);

pub(super) struct ProcessRecorder {
    pub(super) program: Program,
    pub(super) name: String,
    pub(super) recorder: Arc<Recorder>,
    /// Client for the metrics of the process.
    pub(super) http: reqwest::Client,
    /// File for a copy of the log.
    pub(super) log_file: Option<PathBuf>,
    /// Notified when the first incarnation that becomes ready is ready.
    pub(super) first_ready: watch::Sender<Option<u64>>,
}

impl ProcessRecorder {
    /// Records until the supervisor ends.
    pub(super) async fn record(self, mut events: mpsc::UnboundedReceiver<Event>) {
        while let Some(event) = events.recv().await {
            match event {
                Event::Started(started) => self.record_incarnation(started, &mut events).await,
                Event::StartFailed(error) => {
                    let process = &self.name;
                    tracing::error!(process, %error, "the process could not be started; retrying");
                }
                // These occur only within an incarnation.
                Event::Paused { .. } | Event::GraceExceeded | Event::Exited { .. } => {}
            }
        }
    }

    /// Records one incarnation from its start to its end.
    async fn record_incarnation(
        &self,
        started: Started,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) {
        let Started {
            incarnation,
            at,
            pid,
            log,
        } = started;
        let process = &self.name;
        let ready: watch::Sender<Option<Ready>> = watch::Sender::new(None);
        // The log ends with the process.
        let following = async {
            let log_of = Log {
                recorder: &self.recorder,
                process,
                ready: &ready,
                file: self.log_file.as_deref(),
            };
            match log {
                Some(log) => log_of.follow(log).await,
                None => Ok(()),
            }
        };
        let pass_on = async {
            let mut ready = ready.subscribe();
            if let Ok(at) = ready.wait_for(Option::is_some).await.map(|it| at_of(&it)) {
                self.first_ready.send_replace(at);
            }
            std::future::pending().await
        };
        let is_relay = self.program == Program::OutboxRelay;
        let counting = async {
            let counters = RelayCounters {
                http: &self.http,
                recorder: &self.recorder,
                relay: process,
                incarnation,
            };
            counters.follow(ready.subscribe()).await;
        };
        let (exited, followed) = tokio::select! {
            both = async { tokio::join!(self.until_exited(pid, incarnation, events), following) } => both,
            never = pass_on => never,
            () = counting, if is_relay => unreachable!("it never returns"),
        };
        if let Err(source) = followed {
            let process = process.clone();
            self.recorder.fail(ChaosError::Log { process, source });
        }
        let ended = self.recorder.now();
        let Some((status, signalled)) = exited else {
            return;
        };
        let how = match status {
            Ok(status) => ending(status),
            Err(error) => {
                tracing::error!(process, %error, "the process could not be supervised; restarting it");
                return;
            }
        };
        if signalled.is_none() {
            tracing::warn!(
                process,
                ?how,
                "the process ended unexpectedly; restarting it"
            );
        }
        self.recorder.write(|history| {
            history.lives.push(Life {
                program: self.program,
                process: process.clone(),
                incarnation,
                pid,
                started: self.recorder.at(at.into_std()),
                ready: at_of(&ready.borrow()),
                ended: Some(ended),
                how: Some(how),
                told_to_end: signalled.map(|(at, _)| self.recorder.at(at.into_std())),
                told_by: signalled.map(|(_, signal)| end_signal(signal)),
            });
        });
    }

    /// Samples the memory and records the pauses of an incarnation until its end. Returns `None`
    /// if its supervisor ended first.
    async fn until_exited(
        &self,
        pid: u32,
        incarnation: u32,
        events: &mut mpsc::UnboundedReceiver<Event>,
    ) -> Option<Exited> {
        let mut memory = tokio::time::interval(MEMORY_INTERVAL);
        memory.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                event = events.recv() => event?,
                _ = memory.tick() => {
                    self.sample_memory(pid, incarnation);
                    continue;
                }
            };
            match event {
                Event::Exited { status, signalled } => return Some((status, signalled)),
                Event::Paused { since, until } => self.record_pause(since, until),
                Event::GraceExceeded => tracing::warn!(
                    process = self.name,
                    "the process did not stop in time; killing it"
                ),
                // The next incarnation starts after the end of this one.
                Event::Started(_) | Event::StartFailed(_) => {}
            }
        }
    }

    fn record_pause(&self, since: Instant, until: Instant) {
        self.recorder.fault(Fault {
            at: self.recorder.at(since.into_std()),
            until: Some(self.recorder.at(until.into_std())),
            kind: FaultKind::Stop,
            process: Some(self.name.clone()),
            service: None,
            operation: None,
            queue: None,
        });
    }

    fn sample_memory(&self, pid: u32, incarnation: u32) {
        // The file does not exist if the process has ended.
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"));
        let Some(rss_bytes) = status.ok().as_deref().and_then(resident) else {
            return;
        };
        let sample = MemorySample {
            at: self.recorder.now(),
            process: self.name.clone(),
            incarnation,
            rss_bytes,
        };
        self.recorder.write(|history| history.memory.push(sample));
    }
}

fn at_of(ready: &Option<Ready>) -> Option<u64> {
    ready.as_ref().map(|ready| ready.at)
}

fn end_signal(signal: Signal) -> EndSignal {
    match signal {
        Signal::SIGKILL => EndSignal::Kill,
        _ => EndSignal::Term,
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
