//! Meter that counts the gaps an engine reports and ignores other instruments.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use opentelemetry::KeyValue;
use opentelemetry::metrics::{
    Counter, InstrumentBuilder, InstrumentProvider, Meter, SyncInstrument,
};

/// Number of reported gaps.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gaps(Arc<AtomicU64>);

impl Gaps {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Returns a meter whose gap counter adds to this.
    pub(crate) fn meter(&self) -> Meter {
        Meter::new(Arc::new(self.clone()))
    }
}

impl InstrumentProvider for Gaps {
    fn u64_counter(&self, builder: InstrumentBuilder<'_, Counter<u64>>) -> Counter<u64> {
        let counted = if builder.name == "outbox.stream.gaps" {
            self.clone()
        } else {
            Self::default()
        };
        Counter::new(Arc::new(counted))
    }
}

impl SyncInstrument<u64> for Gaps {
    fn measure(&self, measurement: u64, _attributes: &[KeyValue]) {
        self.0.fetch_add(measurement, Ordering::Relaxed);
    }
}
