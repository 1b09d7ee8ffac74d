//! Session: joins the group for the table's stream, coordinates the leases until the table has
//! another stream or the engine stops, and leaves the group.

use std::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;

use super::coordinator::{LeaseCoordinator, StopReason};
use super::group_claim;
use super::membership::{self, Membership};
use crate::engine::EngineError;
use crate::engine::context::ShardContext;
use crate::engine::publish::sweep_requests;
use crate::policy::backoff;

/// Coordinates the leases until the engine stops and every lease is released. Stops the engine
/// itself if it returns an error.
pub(crate) async fn run(
    mut ctx: ShardContext,
    mut random: fastrand::Rng,
) -> Result<(), EngineError> {
    let mut outcome = Ok(());
    while let Some(stream) = locate(&ctx, &mut random).await {
        ctx.stream = stream;
        let entered = tokio::select! {
            biased;
            () = ctx.stop.cancelled() => break,
            entered = enter(&ctx, &mut random) => entered,
        };
        let mut membership = match entered {
            Ok(membership) => membership,
            Err(error) => {
                ctx.stop.cancel();
                outcome = Err(error);
                break;
            }
        };
        let mut coordinator = LeaseCoordinator::new(&ctx, &mut random);
        let reason = tokio::select! {
            biased;
            reason = coordinator.coordinate() => reason,
            error = until_replaced(&mut membership, &ctx) => {
                ctx.stop.cancel();
                outcome = Err(error);
                StopReason::Stopping
            }
            never = sweep_requests::run(&ctx) => match never {},
        };
        if let StopReason::Stopping = reason {
            {
                let mut released = pin!(coordinator.until_released());
                tokio::select! {
                    biased;
                    () = &mut released => {}
                    // The id belongs to another process now.
                    _ = membership.keep() => released.await,
                }
            }
            membership.leave().await;
            // Other instances acquire the children of shards that ended meanwhile.
            coordinator.find_children().await;
            break;
        }
        // The shards of the old stream no longer exist; the sweeper of the new one publishes what
        // was not read of them.
        coordinator.abort().await;
        membership.leave().await;
    }
    ctx.release.cancelled().await;
    outcome
}

/// Writes heartbeats of this instance until another process has taken its id, or another group its
/// table.
async fn until_replaced(membership: &mut Membership, ctx: &ShardContext) -> EngineError {
    tokio::select! {
        error = membership.keep() => error,
        error = group_claim::until_replaced(ctx) => error,
    }
}

/// Waits until the table has a stream, and returns its ARN, or `None` if the engine stops before.
async fn locate(ctx: &ShardContext, random: &mut fastrand::Rng) -> Option<Arc<str>> {
    let mut failures = 0;
    loop {
        tokio::select! {
            biased;
            () = ctx.stop.cancelled() => return None,
            located = ctx.ports.stream.locate() => match located {
                Ok(stream) => {
                    ctx.status.record_stream(Ok(()));
                    tracing::info!(%stream, "stream found");
                    return Some(stream);
                }
                Err(error) => {
                    let reason = error.to_string();
                    ctx.status.record_stream(Err(reason.clone()));
                    ctx.status.record_coordination(Err(reason), Instant::now());
                    failures += 1;
                    tracing::warn!(%error, "outbox stream is not available; retrying");
                }
            }
        }
        tokio::select! {
            biased;
            () = ctx.stop.cancelled() => return None,
            () = tokio::time::sleep(backoff::delay(failures, random.f64())) => {}
        }
    }
}

/// Enters the stream: claims the table for the consumer group, joins the group, and records which
/// stream the group reads.
async fn enter(ctx: &ShardContext, random: &mut fastrand::Rng) -> Result<Membership, EngineError> {
    group_claim::claim(ctx, random).await?;
    let membership = membership::join(ctx, random).await?;
    register_stream(ctx, random).await;
    Ok(membership)
}

/// Records that the consumer group reads this stream. If it read another stream before, the unread
/// part of that is a gap (the "gap" rule), which only one instance reports.
async fn register_stream(ctx: &ShardContext, random: &mut fastrand::Rng) {
    let mut failures = 0;
    loop {
        match ctx.ports.leases.register_stream(&ctx.stream).await {
            Ok(None) => return,
            Ok(Some(old)) => {
                ctx.metrics.record_gap();
                tracing::error!(
                    old,
                    new = %ctx.stream,
                    "stream gap: the outbox table has another stream; pending events of the old one are published from the table"
                );
                return;
            }
            Err(error) => {
                let outcome = Err(error.to_string());
                ctx.status.record_coordination(outcome, Instant::now());
                failures += 1;
                tracing::warn!(%error, "lease table could not be written; retrying");
                tokio::time::sleep(backoff::delay(failures, random.f64())).await;
            }
        }
    }
}
