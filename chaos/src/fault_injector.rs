//! Injects the faults of the schedule into processes and services.

use std::sync::Arc;

use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::{Fault, FaultKind, History};
use super::proxy::ActiveFaults;
use super::recorder::Recorder;
use super::remote::Remote;
use super::schedule::{Incident, Schedule, Victim};

#[derive(Debug)]
pub(super) struct FaultInjector {
    /// Start of the run.
    pub(super) began: Instant,
    pub(super) recorder: Arc<Recorder>,
    pub(super) active_faults: Arc<ActiveFaults>,
    /// In the order API, relays, workers.
    pub(super) processes: Vec<Remote>,
}

impl FaultInjector {
    /// Executes the schedule. Returns at its end, or at `stop`, once every outage is over.
    pub(super) async fn run(self, schedule: Schedule, stop: CancellationToken) {
        let mut outages = JoinSet::new();
        for action in schedule.actions {
            tokio::select! {
                () = tokio::time::sleep_until(self.began + action.at) => {}
                () = stop.cancelled() => break,
            }
            self.inject(action.what, &mut outages).await;
        }
        stop.cancelled().await;
        self.active_faults.end_faults();
        while outages.join_next().await.is_some() {}
    }

    async fn inject(&self, what: Incident, outages: &mut JoinSet<()>) {
        match what {
            Incident::Kill { victim, pause } => {
                for process in self.from(victim) {
                    if process.kill(Some(FaultKind::Kill), pause).await {
                        break;
                    }
                }
            }
            Incident::Term { victim, pause } => {
                for process in self.from(victim) {
                    if process.terminate(pause).await {
                        break;
                    }
                }
            }
            Incident::Stop { victim, lasting } => {
                for process in self.from(victim) {
                    if process.stop(lasting).await {
                        break;
                    }
                }
            }
            Incident::KillAll { pauses } => {
                let at = self.recorder.now();
                let kills = self.processes.iter().zip(pauses);
                join_all(kills.map(|(process, pause)| process.kill(None, pause))).await;
                self.recorder.fault(Fault {
                    at,
                    until: None,
                    kind: FaultKind::KillAll,
                    process: None,
                    service: None,
                    operation: None,
                });
            }
            Incident::QuietPhaseBegins => {
                self.active_faults.begin_quiet_phase();
                join_all(self.processes.iter().map(Remote::revive)).await;
            }
            Incident::QuietPhaseEnds => self.active_faults.begin_fault_phase(),
            Incident::KillAfterSend { pause } => self.active_faults.arm_kill(pause),
            Incident::Trim => self.active_faults.arm_trim(),
            Incident::Outage {
                service,
                manner,
                lasting,
            } => {
                let active_faults = Arc::clone(&self.active_faults);
                outages.spawn(async move {
                    active_faults.outage_of(service, manner, lasting).await;
                });
            }
        }
    }

    /// Returns the victim, followed by the other processes in case it is not running.
    fn from(&self, victim: Victim) -> impl Iterator<Item = &Remote> {
        let first = match victim {
            Victim::Process(number) => number,
            Victim::LeaseHolder => self.lease_holder(),
        };
        let all = self.processes.iter();
        all.cycle().skip(first).take(self.processes.len())
    }

    /// Returns the index of the process that reads the stream, or of the first relay if none does.
    fn lease_holder(&self) -> usize {
        let last = |history: &History| Some(history.readers.last()?.relay.clone());
        let name = self.recorder.read(last);
        let named = |process: &Remote| Some(&process.name) == name.as_ref();
        self.processes.iter().position(named).unwrap_or(1)
    }
}
