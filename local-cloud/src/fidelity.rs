//! How closely the embedded DynamoDB follows AWS where that costs time.

use std::time::Duration;

/// Behavior of DynamoDB that can be switched off, because it makes requests slower or fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fidelity {
    /// Time for which a transaction holds its items before it is executed, in addition to the
    /// execution itself. Meanwhile every other write of these items fails with a transaction
    /// conflict, and a request with the same `ClientRequestToken` with
    /// `TransactionInProgressException`. `None`: neither happens.
    pub transaction_time: Option<Duration>,
}

/// What costs nothing: transactions conflict while they are executed.
impl Default for Fidelity {
    fn default() -> Self {
        Self {
            transaction_time: Some(Duration::ZERO),
        }
    }
}
