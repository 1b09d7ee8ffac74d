//! Retry, discard and replay, one event at a time.

use outbox_store::dynamodb::EventChange;
use outbox_store::{EventKey, LeaseTable};

use super::{OperateError, Operator};

/// Upper bound on a reason in bytes. It is stored within the event's 400 KB.
pub const MAX_REASON: usize = 1_024;

impl Operator {
    /// Makes a failed event pending again; the sweeper publishes it with its stored trace context,
    /// soon after [`Operator::request_sweep`]. An event in any other state is left unchanged.
    pub async fn retry(&self, key: &EventKey) -> Result<EventChange, OperateError> {
        Ok(self.outbox.retry(key).await?)
    }

    /// Discards a failed or pending event: it stays in the table with `reason`, at most
    /// [`MAX_REASON`] bytes, and is not sent any more. A message of a pending event that a relay is
    /// sending at this moment may still arrive.
    pub async fn discard(&self, key: &EventKey, reason: &str) -> Result<EventChange, OperateError> {
        if reason.trim().is_empty() || reason.len() > MAX_REASON {
            return Err(OperateError::Invalid(format!(
                "a reason has 1 to {MAX_REASON} bytes"
            )));
        }
        Ok(self.outbox.discard(key, reason).await?)
    }

    /// Makes a published event pending again, to be sent once more on purpose. Its message carries
    /// the number of the replay: see [`outbox::message::REPLAY_ATTRIBUTE`].
    pub async fn replay(&self, key: &EventKey) -> Result<EventChange, OperateError> {
        Ok(self.outbox.replay(key).await?)
    }

    /// Requests a sweep now instead of at the next interval. The sweeper sees the request when it
    /// renews its lease. If no relay of the group has read this stream yet, nothing is written: the
    /// first one begins with a sweep.
    pub async fn request_sweep(&self) -> Result<(), OperateError> {
        let stream = self.stream_arn().await?;
        let requested = self.leases.request_sweep(&stream).await;
        requested.map_err(|error| OperateError::Unavailable(error.to_string()))
    }
}
