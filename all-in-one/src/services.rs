//! The supervisors of all services: starts them, reports their events, and stops them in order.

use std::time::Duration;

use futures::future::try_join_all;
use test_support::child_process::Spec;
use test_support::supervisor::{Commands, Event, RestartPolicy, Started, Supervisor};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::readiness::Probe;

/// Time limit for the first readiness of a service.
const READY_WITHIN: Duration = Duration::from_secs(60);

/// Restarts a service at once, unless it ends again and again.
const RESTART: RestartPolicy = RestartPolicy::Backoff {
    min: Duration::from_millis(100),
    max: Duration::from_secs(5),
    stable_uptime: Duration::from_secs(10),
};

/// All services, in the order in which they are stopped.
#[derive(Debug)]
pub(crate) struct Services {
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

impl Services {
    /// Starts `specs`, each with the URL of its admin port. `grace` is the grace period
    /// of the services; `force` kills them instead.
    pub(crate) fn start(
        specs: Vec<(Spec, String)>,
        grace: Duration,
        force: &CancellationToken,
    ) -> Self {
        let start = |(spec, url): (Spec, String)| {
            let stop = CancellationToken::new();
            let (report, state) = watch::channel(State::Starting);
            let supervisor = Supervisor {
                restart: RESTART,
                grace,
                // Services receive no commands.
                requests: Commands::new().1,
                stop: stop.clone(),
                force: force.clone(),
                heal: CancellationToken::new(),
            };
            let (events, received) = mpsc::unbounded_channel();
            let name = spec.name;
            let of_incarnation = {
                let spec = spec.clone();
                move |_| spec.clone()
            };
            let task = async move {
                tokio::join!(
                    supervisor.run(of_incarnation, events),
                    report_events(name, received, report),
                );
            };
            Service {
                spec,
                url,
                state,
                stop,
                task: tokio::spawn(task),
            }
        };
        Self {
            services: specs.into_iter().map(start).collect(),
        }
    }

    /// Waits until every service is ready.
    ///
    /// # Errors
    /// If a service ends first or exceeds the time limit.
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

/// Logs the events of `service` and keeps its state, until its supervisor ends.
async fn report_events(
    service: &'static str,
    mut events: mpsc::UnboundedReceiver<Event>,
    state: watch::Sender<State>,
) {
    let mut pid = 0;
    while let Some(event) = events.recv().await {
        match event {
            Event::Started(Started { pid: started, .. }) => {
                pid = started;
                tracing::info!(service, pid, "service started");
                state.send_replace(State::Running { pid });
            }
            Event::StartFailed(error) => {
                let how = format!("it could not be started: {error}");
                state.send_replace(State::Ended { how });
            }
            Event::Exited {
                status,
                signalled: None,
            } => {
                let how = status.map_or_else(|error| error.to_string(), |it| it.to_string());
                tracing::warn!(
                    service,
                    pid,
                    how,
                    "service ended unexpectedly; restarting it"
                );
                state.send_replace(State::Ended { how });
            }
            Event::Exited { status, .. } => match status {
                Ok(status) if status.success() => tracing::info!(service, pid, "service stopped"),
                Ok(status) => {
                    tracing::warn!(service, pid, %status, "service stopped with an error");
                }
                Err(error) => {
                    tracing::error!(service, pid, %error, "service could not be stopped");
                }
            },
            // A service is not paused, and its exit status shows that it was killed.
            Event::Paused { .. } | Event::GraceExceeded => {}
        }
    }
}
