//! Samples the fault of a request. The sample depends only on the seed, the process, the operation
//! and the number of its requests so far: neither other processes nor the scheduling of threads can
//! change it.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::history::FaultKind;

/// Samples the faults of one process's requests.
#[derive(Debug)]
pub(super) struct FaultSampler {
    seed: u64,
    kinds: Vec<FaultKind>,
    /// Number of requests so far, by operation.
    counts: Mutex<HashMap<String, u64>>,
}

impl FaultSampler {
    /// Creates the sampler of `process` for those of `kinds` that apply to requests.
    pub(super) fn new(seed: u64, process: &str, kinds: &[FaultKind]) -> Self {
        Self {
            seed: mix(seed, process.as_bytes()),
            kinds: kinds.to_vec(),
            counts: Mutex::default(),
        }
    }

    /// Returns the fault of the next request of `operation`, if any, and a generator for the
    /// details of the fault.
    pub(super) fn sample(&self, operation: &str) -> (Option<FaultKind>, fastrand::Rng) {
        let count = {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry(operation.to_owned()).or_default();
            *count += 1;
            *count
        };
        let seed = mix(mix(self.seed, operation.as_bytes()), &count.to_le_bytes());
        let mut random = fastrand::Rng::with_seed(seed);
        // A single number is compared with the sum of the probabilities, so that a request has at
        // most one fault.
        let mut number = random.f64();
        let mut hit = None;
        for &kind in &self.kinds {
            number -= probability(kind, operation);
            if number < 0.0 {
                hit = Some(kind);
                break;
            }
        }
        (hit, random)
    }
}

/// Returns the probability that a request of `operation` has a fault of this kind.
fn probability(kind: FaultKind, operation: &str) -> f64 {
    match (kind, operation) {
        (FaultKind::Throttle | FaultKind::ServerError | FaultKind::CutBefore, _) => 0.02,
        (FaultKind::CutAfter, _) => 0.015,
        (FaultKind::Latency, _) => 0.12,
        (FaultKind::PartialSend, "SendMessageBatch")
        | (FaultKind::PartialDelete, "DeleteMessageBatch")
        // Only requests with several entries can fail in part, and those are few at a low rate.
        | (FaultKind::PartialStatement, "BatchExecuteStatement") => 0.25,
        (FaultKind::TransactionConflict, "TransactWriteItems") => 0.05,
        (FaultKind::TransactionInProgress, "TransactWriteItems") => 0.03,
        (FaultKind::ExpiredIterator, "GetRecords") => 0.03,
        (FaultKind::DuplicateDelivery, "ReceiveMessage") => 0.15,
        (FaultKind::ReorderDelivery, "ReceiveMessage") => 0.2,
        _ => 0.0,
    }
}

/// Returns the delay of a request: mostly a short one, as in any network; one of fifty
/// exceeds the timeout of the clients.
pub(super) fn delay(random: &mut fastrand::Rng) -> Duration {
    Duration::from_millis(match random.u8(..50) {
        0 => 6_000,
        1..10 => random.u64(300..1_500),
        _ => random.u64(5..300),
    })
}

/// Returns the FNV-1a hash (64 bits), continued from `state`. fastrand spreads the result.
fn mix(state: u64, bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(state ^ 0xcbf2_9ce4_8422_2325, |hash, &byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        })
}

#[cfg(test)]
mod tests {
    use clap::ValueEnum;

    use super::*;

    fn samples(sampler: &FaultSampler, operation: &str, count: usize) -> Vec<Option<FaultKind>> {
        (0..count).map(|_| sampler.sample(operation).0).collect()
    }

    #[test]
    fn samples_depend_on_the_requests_of_one_process_only() {
        let kinds = FaultKind::value_variants();
        let alone = FaultSampler::new(1, "relay-1", kinds);
        let alone = samples(&alone, "SendMessageBatch", 500);
        let mixed = FaultSampler::new(1, "relay-1", kinds);
        let other = FaultSampler::new(1, "relay-2", kinds);
        let mixed: Vec<_> = (0..500)
            .map(|_| {
                other.sample("SendMessageBatch");
                mixed.sample("GetRecords");
                mixed.sample("SendMessageBatch").0
            })
            .collect();
        assert_eq!(alone, mixed);
        let other = FaultSampler::new(2, "relay-1", kinds);
        assert_ne!(alone, samples(&other, "SendMessageBatch", 500));
    }

    #[test]
    fn faults_have_their_probability_and_apply_to_their_operations_only() {
        let sampler = FaultSampler::new(1, "relay-1", FaultKind::value_variants());
        let met = samples(&sampler, "SendMessageBatch", 100_000);
        let share = |kind| {
            let count = met.iter().filter(|met| **met == Some(kind)).count();
            count as f64 / 100_000.0
        };
        assert!((share(FaultKind::PartialSend) - 0.25).abs() < 0.005);
        assert!((share(FaultKind::CutAfter) - 0.015).abs() < 0.002);
        assert!(share(FaultKind::PartialDelete) == 0.0);
        assert!(share(FaultKind::Kill) == 0.0, "the schedule's");
    }

    #[test]
    fn only_selected_kinds_are_sampled() {
        let sampler = FaultSampler::new(1, "relay-1", &[FaultKind::Throttle]);
        let met = samples(&sampler, "GetRecords", 10_000);
        assert!(met.contains(&Some(FaultKind::Throttle)));
        assert!(
            met.iter()
                .flatten()
                .all(|kind| *kind == FaultKind::Throttle)
        );
    }
}
