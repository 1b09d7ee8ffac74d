//! Injects the faults of the schedule into processes and services.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use futures::future::join_all;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::history::{Fault, FaultKind, History};
use super::proxy::{ActiveFaults, Scope};
use super::recorder::Recorder;
use super::remote::Remote;
use super::schedule::{Incident, Manner, QUEUES, Schedule, Victim};

#[derive(Debug)]
pub(super) struct FaultInjector {
    /// Start of the run.
    pub(super) began: Instant,
    pub(super) recorder: Arc<Recorder>,
    pub(super) active_faults: Arc<ActiveFaults>,
    /// In the order API, relays, workers.
    pub(super) processes: Vec<Remote>,
    pub(super) queues: [String; QUEUES],
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
                    queue: None,
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
                    let scope = Scope::Service(service);
                    active_faults.outage_of(scope, manner, lasting).await;
                });
            }
            Incident::Degradation {
                degradation,
                lasting,
            } => {
                let active_faults = Arc::clone(&self.active_faults);
                outages.spawn(async move { active_faults.degrade(degradation, lasting).await });
            }
            Incident::QueueOutage { queue, lasting } => {
                let active_faults = Arc::clone(&self.active_faults);
                let scope = Scope::Queue(self.queues[queue].clone());
                outages.spawn(async move {
                    let manner = Manner::Refuses;
                    active_faults.outage_of(scope, manner, lasting).await;
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

    /// Returns the index of the relay that reads the most open shards, or of the first relay if
    /// none reads any.
    fn lease_holder(&self) -> usize {
        let name = self.recorder.read(reader_of_most_shards);
        let named = |process: &Remote| Some(&process.name) == name.as_ref();
        self.processes.iter().position(named).unwrap_or(1)
    }
}

/// Returns the name of the relay that reads the most open shards.
fn reader_of_most_shards(history: &History) -> Option<String> {
    // Later entries replace earlier ones.
    let mut relays: HashMap<&str, &str> = HashMap::new();
    for reader in &history.readers {
        relays.insert(&reader.shard, &reader.relay);
    }
    let mut shards: BTreeMap<&str, usize> = BTreeMap::new();
    for (shard, relay) in relays {
        if !history.closed_shards.contains(shard) {
            *shards.entry(relay).or_default() += 1;
        }
    }
    let most = shards.into_iter().max_by_key(|(_, count)| *count);
    most.map(|(relay, _)| relay.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::fixture;
    use crate::history::ShardReader;

    #[test]
    fn the_lease_holder_reads_the_most_open_shards() {
        let mut history = History::default();
        assert_eq!(reader_of_most_shards(&history), None);
        for (shard, relay) in [("a", 1), ("b", 1), ("c", 2), ("d", 2), ("d", 1)] {
            history.readers.push(ShardReader {
                shard: shard.to_owned(),
                ..fixture::reader(0, &format!("relay-{relay}"))
            });
        }
        assert_eq!(reader_of_most_shards(&history).unwrap(), "relay-1");
        history.closed_shards = ["a", "b", "d"].map(str::to_owned).into();
        assert_eq!(reader_of_most_shards(&history).unwrap(), "relay-2");
    }
}
