//! Circuit breaker for DynamoDB. Receiving pauses while it is open.
//!
//! Every receive counts towards the dead-letter queue, so a worker that continued to receive during
//! an outage would send healthy messages there (5 receives, each a visibility timeout long).
//!
//! The failure of one order proves nothing about the others: its item may be on a failing
//! partition. So the first failure of an order only makes DynamoDB *suspected*, and is followed by
//! a probe at once; receiving waits for its result. The breaker opens if the probe fails, or if
//! several orders in a row failed for the first time. Repeated failures of the same orders are not
//! counted. The breaker closes when an order or a probe succeeds. Probes are repeated every few
//! seconds, whatever is in flight.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use opentelemetry::metrics::Meter;
use shared::runtime::health::Check;
use tokio::sync::watch;

use crate::inventory_store::InventoryStore;
use crate::progress::Progress;

/// Failures in a row, of different orders, that open the breaker although probes succeed.
const FAILURES: u32 = 3;

/// Longest pause between two probes, and the time for which failing orders keep the breaker open.
const PROBE_INTERVAL: Duration = Duration::from_secs(3);

/// Pauses between failing probes.
const PROBE: ExponentialBuilder = ExponentialBuilder::new()
    .with_jitter()
    .with_min_delay(Duration::from_millis(100))
    .with_max_delay(PROBE_INTERVAL)
    .without_max_times();

/// State of the breaker, shared by everything that sends requests to DynamoDB.
#[derive(Debug)]
pub(crate) struct CircuitBreaker {
    state: watch::Sender<State>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct State {
    position: Position,
    /// Orders that failed for the first time since the last success of an order.
    failures: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Position {
    Closed,
    /// A probe decides.
    Suspected,
    Open {
        reason: String,
        /// Orders opened it, although a probe may have succeeded.
        by_orders: bool,
    },
}

impl CircuitBreaker {
    /// Creates an open breaker. It closes with the first successful probe, so that a worker that is
    /// restarted during an outage receives no messages either.
    pub(crate) fn new() -> Self {
        Self {
            state: watch::Sender::new(State {
                position: Position::Open {
                    reason: "no response since the start".to_owned(),
                    by_orders: false,
                },
                failures: 0,
            }),
        }
    }

    /// Creates the gauge of the breaker.
    pub(crate) fn register_gauge(&self, meter: &Meter) {
        let state = self.state.subscribe();
        meter
            .u64_observable_gauge("worker.circuit.open")
            .with_description("1 while no messages are received because DynamoDB is unavailable.")
            .with_callback(move |gauge| {
                let is_open = matches!(state.borrow().position, Position::Open { .. });
                gauge.observe(u64::from(is_open), &[]);
            })
            .build();
    }

    /// Records that DynamoDB responded to an order, with success or an error of its own.
    pub(crate) fn record_success(&self) {
        self.change(State::record_success);
    }

    /// Records a failure. It `is_first` if the orders of the request have not failed before.
    pub(crate) fn record_failure(&self, reason: &str, is_first: bool) {
        self.change(|state| state.record_failure(reason, is_first));
    }

    /// Returns the check for `/readyz`, which fails while the breaker is open.
    pub(crate) fn check(&self) -> Check {
        match &self.state.borrow().position {
            Position::Closed | Position::Suspected => Check::pass("receiving"),
            Position::Open { reason, .. } => {
                Check::fail("receiving", format!("DynamoDB is unavailable: {reason}"))
            }
        }
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.state.borrow().position == Position::Closed
    }

    /// Waits until the breaker is closed.
    pub(crate) async fn wait_until_closed(&self) {
        let mut state = self.state.subscribe();
        // The sender lives as long as `self`.
        let _ = state
            .wait_for(|state| state.position == Position::Closed)
            .await;
    }

    /// Probes DynamoDB while the breaker is not closed; runs until dropped.
    pub(crate) async fn run(&self, store: &InventoryStore, progress: &Progress) {
        let mut state = self.state.subscribe();
        loop {
            let not_closed = state.wait_for(|state| state.position != Position::Closed);
            if not_closed.await.is_err() {
                return;
            }
            let mut pauses = PROBE.build();
            loop {
                // Not longer than a pause between failing probes: receiving is tried again then.
                if self.is_open_by_orders() && self.closes_within(PROBE_INTERVAL).await {
                    break;
                }
                match store.probe().await {
                    Ok(()) => self.change(State::record_passed_probe),
                    Err(reason) => self.change(|state| state.record_failed_probe(&reason)),
                }
                progress.record();
                let pause = pauses.next().unwrap_or(PROBE_INTERVAL);
                if self.is_closed() || self.closes_within(pause).await {
                    break;
                }
            }
        }
    }

    fn is_open_by_orders(&self) -> bool {
        let state = self.state.borrow();
        matches!(
            state.position,
            Position::Open {
                by_orders: true,
                ..
            }
        )
    }

    async fn closes_within(&self, pause: Duration) -> bool {
        tokio::time::timeout(pause, self.wait_until_closed())
            .await
            .is_ok()
    }

    /// Changes the state and logs what an operator should know.
    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_if_modified(|state| {
            let before = state.clone();
            change(state);
            match (&before.position, &state.position) {
                (Position::Open { .. }, Position::Closed) => {
                    tracing::info!("DynamoDB is available; receiving messages");
                }
                (_, Position::Open { reason, .. }) if before.position != state.position => {
                    tracing::warn!(
                        reason,
                        "DynamoDB is unavailable; not receiving messages until it recovers"
                    );
                }
                _ => {}
            }
            before != *state
        });
    }
}

impl State {
    fn record_success(&mut self) {
        self.position = Position::Closed;
        self.failures = 0;
    }

    fn record_failure(&mut self, reason: &str, is_first: bool) {
        if !is_first {
            return;
        }
        self.failures += 1;
        if matches!(self.position, Position::Open { .. }) {
            return;
        }
        self.position = if self.failures >= FAILURES {
            Position::Open {
                reason: reason.to_owned(),
                by_orders: true,
            }
        } else {
            Position::Suspected
        };
    }

    fn record_passed_probe(&mut self) {
        // The failures that opened the breaker do not open it again.
        if matches!(self.position, Position::Open { .. }) {
            self.failures = 0;
        }
        self.position = Position::Closed;
    }

    fn record_failed_probe(&mut self, reason: &str) {
        // An order may have succeeded meanwhile: it is the better evidence.
        if self.position != Position::Closed {
            self.position = Position::Open {
                reason: reason.to_owned(),
                by_orders: false,
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn closed() -> State {
        State {
            position: Position::Closed,
            failures: 0,
        }
    }

    fn is_open(state: &State) -> bool {
        matches!(state.position, Position::Open { .. })
    }

    #[test]
    fn the_failure_of_one_order_is_followed_by_a_probe_that_decides() {
        let mut state = closed();
        state.record_failure("500", true);
        assert_eq!(state.position, Position::Suspected);
        state.record_failed_probe("refused");
        assert!(is_open(&state));
        state.record_passed_probe();
        assert_eq!(state, closed());

        state.record_failure("500", true);
        state.record_passed_probe();
        assert_eq!(state.position, Position::Closed);
    }

    #[test]
    fn an_order_that_fails_again_and_again_never_opens_the_breaker() {
        let mut state = closed();
        state.record_failure("500", true);
        state.record_passed_probe();
        for _ in 0..1_000 {
            state.record_failure("500", false);
            assert_eq!(state.position, Position::Closed);
        }
    }

    #[test]
    fn several_orders_that_fail_in_a_row_open_it_and_those_do_not_open_it_again() {
        let mut state = closed();
        for _ in 1..FAILURES {
            state.record_failure("denied", true);
            state.record_passed_probe();
            assert_eq!(state.position, Position::Closed);
        }
        state.record_failure("denied", true);
        assert!(is_open(&state));
        state.record_passed_probe();
        state.record_failure("denied", false);
        assert_eq!(state, closed());
    }

    #[test]
    fn a_success_closes_it_and_starts_the_count_again() {
        let mut state = closed();
        for _ in 0..FAILURES {
            state.record_failure("denied", true);
        }
        state.record_success();
        assert_eq!(state, closed());
        state.record_failure("denied", true);
        state.record_success();
        for _ in 1..FAILURES {
            state.record_failure("denied", true);
            assert!(!is_open(&state));
        }
        // A probe that was sent before the success.
        state.record_success();
        state.record_failed_probe("late");
        assert_eq!(state, closed());
    }
}
