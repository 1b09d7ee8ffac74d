//! How long clients waited for a 201, and orders for being PROCESSED.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::super::history::History;
use super::fault_windows::{Span, Spans, disturbances};

/// How long after a fault its effects are still felt: retries back off by up
/// to two seconds.
const AFTER_REQUEST_MS: u64 = 3_000;
/// A lost relay is replaced after its lease, then the backlog is published.
const AFTER_PROCESS_MS: u64 = 3_000;

/// The same requests twice over: those that a fault may have touched, and
/// those that none can have.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    pub calm: Percentiles,
    pub with_faults: Percentiles,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Percentiles {
    pub count: u64,
    pub p50: u64,
    pub p99: u64,
    pub max: u64,
}

impl Percentiles {
    pub(crate) fn of(values: impl IntoIterator<Item = u64>) -> Self {
        // Three digits are exact up to 2 s and within 0.1 % after that.
        let mut histogram =
            Histogram::<u64>::new(3).expect("three significant digits are within its bounds");
        let mut max = 0;
        for value in values {
            histogram += value;
            max = max.max(value);
        }
        Self {
            count: histogram.len(),
            p50: histogram.value_at_quantile(0.5).min(max),
            p99: histogram.value_at_quantile(0.99).min(max),
            max,
        }
    }
}

/// When something was done to the system, or its effects were still felt.
pub(crate) fn troubled(history: &History) -> Spans {
    let lease = history.settings.lease_duration_ms;
    disturbances(history)
        .iter()
        .map(|one| {
            one.span.and_after(if one.kind.is_of_one_request() {
                AFTER_REQUEST_MS
            } else {
                lease + AFTER_PROCESS_MS
            })
        })
        .collect()
}

/// From a request to its 201, by each request that got one.
pub(crate) fn confirmations(history: &History) -> Latency {
    let confirmed = history.posts.iter().filter(|post| post.status == Some(201));
    split(
        &troubled(history),
        confirmed.map(|post| Span::new(post.at, post.at + post.took_ms)),
    )
}

/// From an order's commit to its being PROCESSED, by their own time stamps.
pub(crate) fn processing(history: &History) -> Latency {
    let orders = history.end.orders.iter();
    let processed = orders.filter(|order| order.status == "PROCESSED");
    split(
        &troubled(history),
        processed.map(|order| Span::new(order.created_at, order.updated_at.max(order.created_at))),
    )
}

fn split(troubled: &Spans, spans: impl Iterator<Item = Span>) -> Latency {
    let (touched, calm): (Vec<Span>, Vec<Span>) = spans.partition(|&span| troubled.touch(span));
    let percentiles =
        |spans: Vec<Span>| Percentiles::of(spans.into_iter().map(|span| span.to - span.from));
    Latency {
        calm: percentiles(calm),
        with_faults: percentiles(touched),
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::checkers::fixture;
    use super::*;

    #[test]
    fn percentiles_are_of_all_values() {
        let of = Percentiles::of(1..=1_000);
        let expected = Percentiles {
            count: 1_000,
            p50: 500,
            p99: 990,
            max: 1_000,
        };
        assert_eq!(of, expected);
        assert_eq!(Percentiles::of([]), Percentiles::default());
        // Past what three digits can tell, the largest is still itself.
        assert_eq!(Percentiles::of([123_457]).p99, 123_457);
    }

    #[test]
    fn what_a_fault_may_have_touched_is_kept_apart() {
        let mut history = fixture::valid();
        // The faults are at 1.0, 3.0 and 10.0 s; the relay is back at 15.2 s,
        // and a lease and more are allowed for what it left behind.
        for (at, calm) in [(1_100, 0), (7_000, 1), (9_990, 0), (21_000, 0), (22_000, 1)] {
            let post = &mut history.posts[2];
            post.at = at;
            for other in [1, 3, 4] {
                history.posts[other].status = None;
            }
            let latency = confirmations(&history);
            assert_eq!(latency.calm.count, calm, "{at}");
            assert_eq!(latency.with_faults.count, 1 - calm, "{at}");
        }
    }

    #[test]
    fn only_processed_orders_count_as_processed() {
        let processing = processing(&fixture::valid());
        assert_eq!(processing.calm.count + processing.with_faults.count, 2);
        assert_eq!(processing.with_faults.max, 80);
    }
}
