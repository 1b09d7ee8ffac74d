//! Latency from a request to its 201, and from an order to PROCESSED.

use hdrhistogram::Histogram;
use serde::Serialize;

use super::super::history::History;
use super::fault_windows::{Span, Spans, disturbed_times};

/// Latency of the requests that no fault can have affected, and of the others.
#[derive(Debug, Serialize)]
pub(crate) struct Latency {
    /// In quiet phases.
    pub calm: Percentiles,
    pub with_faults: Percentiles,
}

/// Percentiles in milliseconds.
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

/// Returns the latency from a request to its 201, of the requests that received one.
pub(crate) fn confirmations(history: &History) -> Latency {
    let confirmed = history.posts.iter().filter(|post| post.status == Some(201));
    split(
        &disturbed_times(history, |_| true),
        confirmed.map(|post| Span::new(post.at, post.at + post.took_ms)),
    )
}

/// Returns the latency from the creation of an order to PROCESSED, by the timestamps of the order.
pub(crate) fn processing(history: &History) -> Latency {
    let orders = history.end.orders.iter();
    let processed = orders.filter(|order| order.status == "PROCESSED");
    split(
        &disturbed_times(history, |_| true),
        processed.map(|order| Span::new(order.created_at, order.updated_at.max(order.created_at))),
    )
}

fn split(disturbed: &Spans, spans: impl Iterator<Item = Span>) -> Latency {
    let (affected, quiet): (Vec<Span>, Vec<Span>) = spans.partition(|&span| disturbed.touch(span));
    let percentiles =
        |spans: Vec<Span>| Percentiles::of(spans.into_iter().map(|span| span.to - span.from));
    Latency {
        calm: percentiles(quiet),
        with_faults: percentiles(affected),
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
        // The largest value is exact even where three digits are not.
        assert_eq!(Percentiles::of([123_457]).p99, 123_457);
    }

    #[test]
    fn requests_that_a_fault_may_have_affected_are_separate() {
        let mut history = fixture::valid();
        // The faults are at 1.0, 3.0 and 10.0 s. The relay is ready again at 15.2 s; its effects
        // last for a lease and 3 s more.
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
