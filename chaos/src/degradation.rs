//! Degradations of the embedded cloud: for a while it is as slow, as contended or as short of
//! throughput as AWS can be.

use std::num::NonZeroU32;
use std::time::Duration;

use local_cloud::Fidelity;

use super::history::{CloudService, FaultKind};

/// Interval at which the embedded cloud deletes expired items. Each deletion reads both tables with
/// a time to live.
const TTL_INTERVAL: Duration = Duration::from_secs(30);

/// Fidelity of the embedded cloud while no degradation is active. The delays can be changed only if
/// there are any at the start.
pub(super) const NOT_DEGRADED: Fidelity = Fidelity {
    transaction_time: Some(Duration::ZERO),
    partition_write_units: None,
    index_delay: Some(Duration::ZERO),
    stream_delay: Some(Duration::ZERO),
    ttl_interval: Some(TTL_INTERVAL),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Degradation {
    /// Transactions hold their items for this time.
    SlowTransactions(Duration),
    /// Each partition key has this many write units per second.
    HotPartitions(NonZeroU32),
    /// Indexes receive changes after this time.
    IndexDelay(Duration),
    /// Streams have records after this time.
    StreamDelay(Duration),
}

impl Degradation {
    pub(super) fn kind(self) -> FaultKind {
        match self {
            Self::SlowTransactions(_) => FaultKind::SlowTransactions,
            Self::HotPartitions(_) => FaultKind::HotPartitions,
            Self::IndexDelay(_) => FaultKind::IndexDelay,
            Self::StreamDelay(_) => FaultKind::StreamDelay,
        }
    }

    pub(super) fn service(self) -> CloudService {
        match self {
            Self::StreamDelay(_) => CloudService::Streams,
            _ => CloudService::Dynamodb,
        }
    }

    pub(super) fn begin(self, fidelity: &mut Fidelity) {
        match self {
            Self::SlowTransactions(time) => fidelity.transaction_time = Some(time),
            Self::HotPartitions(units) => fidelity.partition_write_units = Some(units),
            Self::IndexDelay(delay) => fidelity.index_delay = Some(delay),
            Self::StreamDelay(delay) => fidelity.stream_delay = Some(delay),
        }
    }

    pub(super) fn end(self, fidelity: &mut Fidelity) {
        let Fidelity {
            transaction_time,
            partition_write_units,
            index_delay,
            stream_delay,
            ..
        } = NOT_DEGRADED;
        match self {
            Self::SlowTransactions(_) => fidelity.transaction_time = transaction_time,
            Self::HotPartitions(_) => fidelity.partition_write_units = partition_write_units,
            Self::IndexDelay(_) => fidelity.index_delay = index_delay,
            Self::StreamDelay(_) => fidelity.stream_delay = stream_delay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn degradation_ends_what_it_began() {
        let time = Duration::from_millis(12);
        for degradation in [
            Degradation::SlowTransactions(time),
            Degradation::HotPartitions(NonZeroU32::MIN),
            Degradation::IndexDelay(time),
            Degradation::StreamDelay(time),
        ] {
            let mut fidelity = NOT_DEGRADED;
            degradation.begin(&mut fidelity);
            assert_ne!(fidelity, NOT_DEGRADED, "{degradation:?}");
            degradation.end(&mut fidelity);
            assert_eq!(fidelity, NOT_DEGRADED, "{degradation:?}");
        }
    }
}
