//! Supervises the services: starts them, restarts those that end, and stops them in order.

use std::time::Duration;

use futures::future::try_join_all;
use test_support::child_process::{Process, Spec};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::readiness::Probe;

/// Time limit for the first readiness of a service.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Delay before a restart: the first value after a long uptime, doubled after every early end, at
/// most the second value.
const MIN_RESTART_DELAY: Duration = Duration::from_millis(100);
const MAX_RESTART_DELAY: Duration = Duration::from_secs(5);

/// Uptime after which an end is not attributed to the start.
const STABLE_UPTIME: Duration = Duration::from_secs(10);

/// Time after the grace period until a service is killed: it abandons unfinished work 2 s after the
/// grace period, and flushes telemetry for at most 5 s.
const PAST_GRACE: Duration = Duration::from_secs(8);

/// All services, in the order in which they are stopped.
#[derive(Debug)]
pub(crate) struct Supervisor {
    services: Vec<Service>,
}

#[derive(Debug)]
struct Service {
    spec: Spec,
    url: String,
    state: watch::Receiver<State>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

#[derive(Clone, Debug)]
enum State {
    Starting,
    Running {
        pid: u32,
    },
    /// With the exit status, the signal, or the error of the start.
    Ended {
        how: String,
    },
}

/// A service did not become ready.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("{service} ended before it was ready ({how}); see its last log lines above")]
    Ended { service: &'static str, how: String },
    #[error("{service} was not ready within {} s: {reason}", READY_WITHIN.as_secs())]
    Silent {
        service: &'static str,
        reason: String,
    },
}

impl Supervisor {
    /// Starts `specs`, each with the base URL of its readiness check. `grace` is the grace period
    /// of the services; `force` kills them instead.
    pub(crate) fn start(
        specs: Vec<(Spec, String)>,
        grace: Duration,
        force: &CancellationToken,
    ) -> Self {
        let start = |(spec, url): (Spec, String)| {
            let stop = CancellationToken::new();
            let (report, state) = watch::channel(State::Starting);
            let supervised = ServiceTask {
                spec: spec.clone(),
                report,
                patience: grace + PAST_GRACE,
                stop: stop.clone(),
                force: force.clone(),
            };
            Service {
                spec,
                url,
                state,
                stop,
                task: tokio::spawn(supervised.keep_running()),
            }
        };
        Self {
            services: specs.into_iter().map(start).collect(),
        }
    }

    /// Waits until every service is ready.
    ///
    /// # Errors
    /// When a service ends first or exceeds the time limit.
    pub(crate) async fn ready(&self, probe: &Probe) -> Result<(), NotReady> {
        try_join_all(self.services.iter().map(|service| service.ready(probe))).await?;
        Ok(())
    }

    /// Returns the pids of the services, in the order of their specs; `None` while a service is
    /// restarting.
    pub(crate) fn pids(&self) -> Vec<Option<u32>> {
        let pid = |service: &Service| match *service.state.borrow() {
            State::Running { pid } => Some(pid),
            State::Starting | State::Ended { .. } => None,
        };
        self.services.iter().map(pid).collect()
    }

    /// Stops the services one after the other, so that each can pass its work to the next, and
    /// waits for their end.
    pub(crate) async fn stop(self) {
        for service in self.services {
            service.stop.cancel();
            if let Err(error) = service.task.await {
                tracing::error!(service = service.spec.name, %error, "a supervisor panicked");
            }
        }
    }
}

impl Service {
    async fn ready(&self, probe: &Probe) -> Result<(), NotReady> {
        let service = self.spec.name;
        let mut state = self.state.clone();
        let url = format!("{}/readyz", self.url);
        tokio::select! {
            ready = probe.until_ready(&url, READY_WITHIN) => {
                ready.map_err(|reason| NotReady::Silent { service, reason })
            }
            ended = state.wait_for(|state| matches!(state, State::Ended { .. })) => {
                let how = match ended.as_deref() {
                    Ok(State::Ended { how }) => how.clone(),
                    _ => "it was stopped".to_owned(),
                };
                Err(NotReady::Ended { service, how })
            }
        }
    }
}

/// Task that supervises one service.
struct ServiceTask {
    spec: Spec,
    report: watch::Sender<State>,
    patience: Duration,
    stop: CancellationToken,
    force: CancellationToken,
}

impl ServiceTask {
    async fn keep_running(self) {
        let service = self.spec.name;
        let mut early_ends = 0;
        while !self.stop.is_cancelled() {
            let started = Instant::now();
            let how = match self.spec.spawn() {
                Ok(process) => {
                    let pid = process.pid();
                    tracing::info!(service, pid, "service started");
                    self.report.send_replace(State::Running { pid });
                    let Some(how) = self.until_ended(process).await else {
                        return;
                    };
                    how
                }
                Err(error) => format!("it could not be started: {error}"),
            };
            early_ends = if started.elapsed() >= STABLE_UPTIME {
                0
            } else {
                early_ends + 1
            };
            let pause = restart_delay(early_ends);
            self.report.send_replace(State::Ended { how });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// Waits for the end of `process`. Returns the reason, or `None` if it was stopped.
    async fn until_ended(&self, mut process: Process) -> Option<String> {
        let service = self.spec.name;
        let pid = process.pid();
        let status = tokio::select! {
            status = process.ended() => status,
            () = self.stop.cancelled() => {
                match process.stop(self.patience, &self.force).await {
                    Ok(status) if status.success() => {
                        tracing::info!(service, pid, "service stopped");
                    }
                    Ok(status) => tracing::warn!(service, pid, %status, "service stopped with an error"),
                    Err(error) => tracing::error!(service, pid, %error, "service could not be stopped"),
                }
                return None;
            }
        };
        let how = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(
            service,
            pid,
            how,
            "service ended unexpectedly; restarting it"
        );
        Some(how)
    }
}

/// Returns the delay before the next start, after this many early ends.
fn restart_delay(early_ends: u32) -> Duration {
    let doublings = early_ends.saturating_sub(1).min(16);
    (MIN_RESTART_DELAY * 2_u32.pow(doublings)).min(MAX_RESTART_DELAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_delay_doubles_up_to_its_limit() {
        assert_eq!(restart_delay(0), MIN_RESTART_DELAY);
        assert_eq!(restart_delay(1), MIN_RESTART_DELAY);
        assert_eq!(restart_delay(2), MIN_RESTART_DELAY * 2);
        assert_eq!(restart_delay(7), MAX_RESTART_DELAY);
        assert_eq!(restart_delay(u32::MAX), MAX_RESTART_DELAY);
    }
}
