//! Shard consumer: runs one acquired lease. It reads the shard, or sweeps, beside the lease
//! renewer.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::lease_renewer::{LeaseEnd, LeaseRenewer, ShardSignals};
use super::maintenance;
use crate::engine::context::ShardContext;
use crate::engine::publish_command::PublishCommand;
use crate::engine::shard::record_pipeline;
use crate::engine::shard::shard_reader::StartPosition;
use crate::engine::shard_state::ShardState;
use crate::engine::sweeper::Sweeper;
use crate::policy::checkpoint_tracker::CheckpointTracker;
use crate::policy::sweep_policy::{MAX_MARGIN, SweepPartition, is_past};
use crate::ports::{Lease, MAINTENANCE, SWEEPERS};

/// Interval at which the events of a shard that was read to its end are deferred. A queue may fail
/// after the first request for deferral.
const DEFER_INTERVAL: Duration = Duration::from_millis(200);

/// Closes the fence of a shard however its consumer ends, so that nothing more of it is sent, and
/// its waiting events are removed from the buffer.
struct CloseOnDrop {
    shard: Arc<ShardState>,
    ctx: ShardContext,
}

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.shard.close();
        let _ = self.ctx.commands.send(PublishCommand::ForgetClosed);
        self.ctx.status.remove_shard(&self.shard.id);
    }
}

/// Consumes the shard of `lease`, which was acquired by a request that started at `acquired_at`
/// of the lease clock, and renews the lease until it ends.
pub(super) async fn run_shard(
    lease: Lease,
    acquired_at: Instant,
    ctx: ShardContext,
    signals: Arc<ShardSignals>,
    random: fastrand::Rng,
) -> LeaseEnd {
    // Only a previous owner whose clock was wrong can have passed a time in the future.
    let now = ctx.clock.now();
    let low_watermark = lease
        .low_watermark
        .filter(|mark| !is_past(*mark, now, MAX_MARGIN));
    let shard = Arc::new(ShardState::new(
        lease.shard.clone(),
        CheckpointTracker::resume(lease.checkpoint.clone(), low_watermark),
        acquired_at + ctx.config.lease_duration,
        ctx.config.suspended,
    ));
    let _close = CloseOnDrop {
        shard: Arc::clone(&shard),
        ctx: ctx.clone(),
    };
    tracing::info!(
        shard = %shard.id,
        epoch = lease.epoch,
        checkpoint = lease.checkpoint.as_ref().map(ToString::to_string),
        "lease acquired"
    );
    let position = StartPosition {
        checkpoint: lease.checkpoint.clone(),
        start: lease.start.clone(),
    };
    let id = lease.shard.clone();
    let renewer = LeaseRenewer::new(
        ctx.clone(),
        Arc::clone(&shard),
        Arc::clone(&signals),
        lease,
        acquired_at,
    );
    let consumer = async {
        let work = async {
            if let Some(index) = id.sweeper_index() {
                let partition = SweepPartition {
                    index,
                    count: SWEEPERS,
                };
                let sweeper = Sweeper::new(ctx.clone(), Arc::clone(&shard), partition, random);
                sweeper.run(&signals.sweep).await;
            } else if *id.0 == *MAINTENANCE {
                maintenance::run(&ctx, &signals, random).await;
            } else {
                ctx.status.add_shard(&shard.id, Instant::now());
                record_pipeline::run(ctx.clone(), Arc::clone(&shard), position, random).await;
            }
        };
        tokio::select! {
            biased;
            () = ctx.stop.cancelled() => {}
            () = signals.draining.cancelled() => {}
            () = work => {
                signals.fully_read.cancel();
                defer_impaired(&ctx, &shard).await;
            }
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

/// Requests, until dropped, that events of a shard that was read to its end are deferred if their
/// queue is impaired. The children of the shard are read only when it has no event in flight, and
/// contain events of other queues.
async fn defer_impaired(ctx: &ShardContext, shard: &ShardState) {
    loop {
        let shard = shard.id.clone();
        let _ = ctx.commands.send(PublishCommand::DeferImpaired { shard });
        tokio::time::sleep(DEFER_INTERVAL).await;
    }
}
