//! Shard consumer: runs one acquired lease. It reads the shard, or sweeps, beside the lease
//! renewer.

use std::sync::Arc;

use tokio::time::Instant;

use super::lease_renewer::{LeaseEnd, LeaseRenewer, ShardSignals};
use crate::engine::context::ShardContext;
use crate::engine::health::status::EngineStatus;
use crate::engine::shard::record_pipeline;
use crate::engine::shard::shard_reader::StartPosition;
use crate::engine::shard_state::ShardState;
use crate::engine::sweeper::Sweeper;
use crate::policy::checkpoint_tracker::CheckpointTracker;
use crate::ports::{Lease, SWEEPER};

/// Closes the fence of a shard however its consumer ends, so that nothing more of it is sent.
struct CloseOnDrop {
    shard: Arc<ShardState>,
    status: EngineStatus,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.shard.close();
        self.status.remove_shard(&self.shard.id);
    }
}

/// Consumes the shard of `lease`, which was acquired by a request that started at `acquired_at`,
/// and renews the lease until it ends.
pub(super) async fn run_shard(
    lease: Lease,
    acquired_at: Instant,
    ctx: ShardContext,
    random: fastrand::Rng,
) -> LeaseEnd {
    let shard = Arc::new(ShardState::new(
        lease.shard.clone(),
        CheckpointTracker::resume(lease.checkpoint.clone(), lease.low_watermark),
        acquired_at + ctx.config.lease_duration,
    ));
    let _close = CloseOnDrop {
        shard: Arc::clone(&shard),
        status: ctx.status.clone(),
    };
    tracing::info!(
        shard = %shard.id,
        epoch = lease.epoch,
        checkpoint = lease.checkpoint.as_ref().map(ToString::to_string),
        "lease acquired"
    );
    let position = StartPosition {
        checkpoint: lease.checkpoint.clone(),
        start: None,
    };
    let is_sweeper = *lease.shard.0 == *SWEEPER;
    let signals = ShardSignals::default();
    let renewer = LeaseRenewer::new(
        ctx.clone(),
        Arc::clone(&shard),
        &signals,
        lease,
        acquired_at,
    );
    let consumer = async {
        let work = async {
            if is_sweeper {
                let sweeper = Sweeper::new(ctx.clone(), Arc::clone(&shard), random);
                sweeper.run(&signals.sweep).await;
            } else {
                ctx.status.add_shard(&shard.id, Instant::now());
                record_pipeline::run(ctx.clone(), Arc::clone(&shard), position, random).await;
            }
        };
        tokio::select! {
            biased;
            () = ctx.stop.cancelled() => {}
            () = signals.transfer.cancelled() => {}
            () = work => signals.fully_read.cancel(),
        }
        // The renewer decides when the lease ends.
        std::future::pending::<()>().await;
    };
    let end = tokio::select! {
        biased;
        () = consumer => LeaseEnd::Released,
        end = renewer.run() => end,
    };
    tracing::info!(shard = %shard.id, reason = ?end, "lease released");
    end
}
