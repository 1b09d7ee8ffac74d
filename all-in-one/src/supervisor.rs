//! Keeps the services running: starts them, restarts the ones that die, stops
//! them in order.

use std::time::Duration;

use futures::future::try_join_all;
use test_support::child_process::{Process, Spec};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::readiness::Probe;

/// How long a service may take to become ready at first.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// The pause before a restart: the first after a long life, doubled at every
/// death soon after the start, never longer than the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// A service that lived this long did not die of its start.
const LONG_LIFE: Duration = Duration::from_secs(10);

/// How long past its own grace period a service may take to end: it gives up
/// unfinished work 2 s after that, and flushes telemetry for at most 5 s.
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
    /// And why: an exit status, a signal, or no start at all.
    Ended {
        how: String,
    },
}

/// A service did not come up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotReady {
    #[error("{service} ended before it was ready ({how}); its last lines above say why")]
    Ended { service: &'static str, how: String },
    #[error("{service} was not ready within {} s: {reason}", READY_WITHIN.as_secs())]
    Silent {
        service: &'static str,
        reason: String,
    },
}

impl Supervisor {
    /// Starts `specs`, each with the URL where it is asked whether it is ready.
    /// `grace` is what the services have for finishing their work; `force` kills
    /// them instead.
    pub(crate) fn start(
        specs: Vec<(Spec, String)>,
        grace: Duration,
        force: &CancellationToken,
    ) -> Self {
        let start = |(spec, url): (Spec, String)| {
            let stop = CancellationToken::new();
            let (report, state) = watch::channel(State::Starting);
            let keeper = Keeper {
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
                task: tokio::spawn(keeper.keep_running()),
            }
        };
        Self {
            services: specs.into_iter().map(start).collect(),
        }
    }

    /// Waits until every service says that it is ready.
    ///
    /// # Errors
    /// When one of them ends first, or takes too long.
    pub(crate) async fn ready(&self, probe: &Probe) -> Result<(), NotReady> {
        try_join_all(self.services.iter().map(|service| service.ready(probe))).await?;
        Ok(())
    }

    /// The services' pids, in the order of their specs; none between a death
    /// and a restart.
    pub(crate) fn pids(&self) -> Vec<Option<u32>> {
        let pid = |service: &Service| match *service.state.borrow() {
            State::Running { pid } => Some(pid),
            State::Starting | State::Ended { .. } => None,
        };
        self.services.iter().map(pid).collect()
    }

    /// Stops the services one after the other, so that each can hand its work
    /// to the next. None is left when this returns.
    pub(crate) async fn stop(self) {
        for service in self.services {
            service.stop.cancel();
            if let Err(error) = service.task.await {
                tracing::error!(service = service.spec.name, %error, "a supervisor failed");
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

/// The task behind one service.
struct Keeper {
    spec: Spec,
    report: watch::Sender<State>,
    patience: Duration,
    stop: CancellationToken,
    force: CancellationToken,
}

impl Keeper {
    async fn keep_running(self) {
        let service = self.spec.name;
        let mut early_deaths = 0;
        while !self.stop.is_cancelled() {
            let started = Instant::now();
            let how = match self.spec.spawn() {
                Ok(process) => {
                    let pid = process.pid();
                    tracing::info!(service, pid, "service started");
                    self.report.send_replace(State::Running { pid });
                    let Some(how) = self.until_dead(process).await else {
                        return;
                    };
                    how
                }
                Err(error) => format!("it could not be started: {error}"),
            };
            early_deaths = if started.elapsed() >= LONG_LIFE {
                0
            } else {
                early_deaths + 1
            };
            let pause = pause(early_deaths);
            self.report.send_replace(State::Ended { how });
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.stop.cancelled() => {}
            }
        }
    }

    /// How it died by itself; nothing when it was stopped.
    async fn until_dead(&self, mut process: Process) -> Option<String> {
        let service = self.spec.name;
        let pid = process.pid();
        let status = tokio::select! {
            status = process.ended() => status,
            () = self.stop.cancelled() => {
                match process.stop(self.patience, &self.force).await {
                    Ok(status) if status.success() => {
                        tracing::info!(service, pid, "service stopped");
                    }
                    Ok(status) => tracing::warn!(service, pid, %status, "service did not stop well"),
                    Err(error) => tracing::error!(service, pid, %error, "service could not be stopped"),
                }
                return None;
            }
        };
        let how = match status {
            Ok(status) => status.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(service, pid, how, "service died; starting it again");
        Some(how)
    }
}

/// The pause before the next start, after this many deaths soon after a start.
fn pause(early_deaths: u32) -> Duration {
    let doublings = early_deaths.saturating_sub(1).min(16);
    (FIRST_PAUSE * 2_u32.pow(doublings)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_that_keeps_dying_is_restarted_ever_more_slowly() {
        assert_eq!(pause(0), FIRST_PAUSE);
        assert_eq!(pause(1), FIRST_PAUSE);
        assert_eq!(pause(2), FIRST_PAUSE * 2);
        assert_eq!(pause(7), LONGEST_PAUSE);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
