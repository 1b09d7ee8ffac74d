//! What tests of services, the chaos tester and `all-in-one` need: child
//! processes, reserved ports, signals, a proxy that goes wrong on demand, and
//! waiting for a condition.

pub mod child_process;
pub mod fault_proxy;
pub mod reserved_port;
mod service;
pub mod signals;

use std::time::Duration;

pub use fault_proxy::{Call, Count, Fault, Proxy};
pub use service::{Service, ServiceError};

/// How long a service may take to start or to stop before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Asks `condition` until it holds, at most `deadline`; what it last said is
/// the error.
pub async fn eventually<T, E, F>(
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let end = tokio::time::Instant::now() + deadline;
    let mut turns = tokio::time::interval(Duration::from_millis(20));
    loop {
        turns.tick().await;
        match condition().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() >= end => return Err(error),
            Err(_) => {}
        }
    }
}
