//! What all processes meet alike: outages, faults that wait for their moment,
//! and what was trimmed from the stream or handed out by the queue.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::protocol::Answer;
use super::redelivery::HandedOut;
use super::sampling::FaultSampler;
use super::streams::Trims;
use super::upstream::Upstream;
use super::{Cut, refusals};
use crate::history::{CloudService, Fault, FaultKind};
use crate::recorder::Recorder;
use crate::schedule::Manner;

/// Shared by the proxies of a run.
#[derive(Debug)]
pub(crate) struct ActiveFaults {
    pub(super) recorder: Arc<Recorder>,
    pub(super) upstream: Upstream,
    pub(super) trims: Trims,
    pub(super) handed_out: HandedOut,
    seed: u64,
    kinds: Vec<FaultKind>,
    sky: watch::Sender<Sky>,
    outages: Mutex<Vec<Outage>>,
    /// Relays to be killed after a send: how long each stays dead.
    kills: Mutex<VecDeque<Duration>>,
    /// Pages to be trimmed.
    pages: AtomicU32,
    tasks: TaskTracker,
    stop: CancellationToken,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sky {
    Storm,
    Lull,
    /// Until the end.
    Clear,
}

/// A service that is away.
#[derive(Clone, Debug)]
pub(super) struct Outage {
    service: Option<CloudService>,
    manner: Manner,
    over: CancellationToken,
}

impl ActiveFaults {
    pub(crate) fn new(
        recorder: Arc<Recorder>,
        upstream: Upstream,
        seed: u64,
        kinds: &[FaultKind],
    ) -> Self {
        Self {
            recorder,
            upstream,
            seed,
            kinds: kinds.to_vec(),
            trims: Trims::default(),
            handed_out: HandedOut::default(),
            sky: watch::Sender::new(Sky::Storm),
            outages: Mutex::default(),
            kills: Mutex::default(),
            pages: AtomicU32::new(0),
            tasks: TaskTracker::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Makes a service, or all of them, be away for a while.
    pub(crate) async fn outage_of(
        &self,
        service: Option<CloudService>,
        manner: Manner,
        lasting: Duration,
    ) {
        let at = self.recorder.now();
        let over = CancellationToken::new();
        // It ends with this future, too.
        let _ends = over.clone().drop_guard();
        // No outage outlives the storm it is part of.
        let mut sky = self.sky.subscribe();
        if *sky.borrow() == Sky::Clear {
            return;
        }
        lock(&self.outages).push(Outage {
            service,
            manner,
            over: over.clone(),
        });
        tokio::select! {
            () = tokio::time::sleep(lasting) => {}
            _ = sky.changed() => {}
        }
        over.cancel();
        lock(&self.outages).retain(|outage| !outage.over.is_cancelled());
        self.recorder.fault(Fault {
            at,
            until: Some(self.recorder.now()),
            kind: FaultKind::Outage,
            process: None,
            service,
            operation: None,
        });
    }

    /// The next relay whose send is answered is killed, and stays dead for
    /// `pause`.
    pub(crate) fn arm_kill(&self, pause: Duration) {
        lock(&self.kills).push_back(pause);
    }

    /// Records of the next page that is read are trimmed.
    pub(crate) fn arm_trim(&self) {
        self.pages.fetch_add(1, Ordering::Relaxed);
    }

    /// Nothing goes wrong by itself for a while.
    pub(crate) fn lull(&self) {
        self.sky.send_replace(Sky::Lull);
    }

    /// Requests meet their faults again.
    pub(crate) fn storm(&self) {
        self.sky.send_replace(Sky::Storm);
    }

    /// Ends what goes wrong, for good. What was trimmed stays so.
    pub(crate) fn clear(&self) {
        self.sky.send_replace(Sky::Clear);
    }

    /// Closes all proxies; their connections are cut.
    pub(crate) async fn close(&self) {
        self.stop.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    pub(super) fn is_stormy(&self) -> bool {
        *self.sky.borrow() == Sky::Storm
    }

    pub(super) fn sampler(&self, process: &str) -> FaultSampler {
        FaultSampler::new(self.seed, process, &self.kinds)
    }

    /// The outage that a request to `service` meets.
    pub(super) fn outage(&self, service: CloudService) -> Option<Outage> {
        let outages = lock(&self.outages);
        let hits = |outage: &&Outage| {
            !outage.over.is_cancelled() && outage.service.is_none_or(|away| away == service)
        };
        outages.iter().find(hits).cloned()
    }

    pub(super) fn take_kill(&self) -> Option<Duration> {
        if !self.is_stormy() {
            return None;
        }
        lock(&self.kills).pop_front()
    }

    pub(super) fn wants_trim(&self) -> bool {
        self.is_stormy() && self.pages.load(Ordering::Relaxed) > 0
    }

    pub(super) fn trim_is_done(&self) {
        // Two readers may have found a page at once: then it was one too many.
        let less = |pages: u32| pages.checked_sub(1);
        let _ = self
            .pages
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// Runs until it is done or the proxies close: then there is no outcome.
    pub(super) fn spawn<F>(&self, work: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let stop = self.stop.clone();
        self.tasks.spawn(stop.run_until_cancelled_owned(work))
    }
}

impl Outage {
    /// What a request gets from a service that is away.
    pub(super) async fn answer(&self, service: CloudService) -> Result<Answer, Cut> {
        match self.manner {
            Manner::Refuses => Ok(refusals::unavailable().answer(service)),
            Manner::Cuts => Err(Cut),
            Manner::Silent => {
                self.over.cancelled().await;
                Err(Cut)
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Settings;

    const LONG: Duration = Duration::from_secs(3600);

    fn active_faults() -> Arc<ActiveFaults> {
        let nobody = http::Uri::from_static("http://127.0.0.1:9");
        let upstream = Upstream::new(nobody.clone(), nobody.clone(), nobody);
        let recorder = Arc::new(Recorder::new(Settings::default()));
        Arc::new(ActiveFaults::new(recorder, upstream, 1, &[]))
    }

    async fn silence(active_faults: &ActiveFaults) {
        active_faults.outage_of(None, Manner::Silent, LONG).await;
    }

    #[tokio::test]
    async fn an_outage_that_nobody_waits_for_is_over_and_so_is_what_it_holds_up() {
        let active_faults = active_faults();
        let held_up = {
            let outage = silence(&active_faults);
            tokio::select! {
                biased;
                () = outage => unreachable!("it lasts"),
                () = tokio::task::yield_now() => {}
            }
            // Another process asked while it lasted.
            lock(&active_faults.outages)[0].clone()
        };
        assert!(active_faults.outage(CloudService::Sqs).is_none());
        assert!(held_up.answer(CloudService::Sqs).await.is_err());
    }

    #[tokio::test]
    async fn clear_weather_ends_outages_and_lets_none_begin() {
        let active_faults = active_faults();
        let lasting = tokio::spawn({
            let active_faults = Arc::clone(&active_faults);
            async move { silence(&active_faults).await }
        });
        while active_faults.outage(CloudService::Sqs).is_none() {
            tokio::task::yield_now().await;
        }
        active_faults.clear();
        lasting.await.unwrap();
        silence(&active_faults).await;
        assert!(active_faults.outage(CloudService::Sqs).is_none());
        assert_eq!(active_faults.recorder.take().faults.len(), 1);
    }
}
