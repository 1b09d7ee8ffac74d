//! Support for the tests of services, the chaos tester and `all-in-one`: child processes and
//! their supervisor, reserved ports, signals, a fault-injecting proxy, and waiting for a condition.

pub mod child_process;
pub mod fault_proxy;
pub mod reserved_port;
mod service;
pub mod signals;
pub mod supervisor;

use std::time::Duration;

pub use fault_proxy::{Call, Count, Fault, Proxy};
pub use service::{Service, ServiceError};

/// Time limit for the start or stop of a service in a test.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Polls `condition` until it holds, at most `deadline`.
///
/// # Errors
/// The last error of `condition`.
pub async fn eventually<T, E, F>(
    deadline: Duration,
    mut condition: impl FnMut() -> F,
) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let end = tokio::time::Instant::now() + deadline;
    let mut ticks = tokio::time::interval(Duration::from_millis(20));
    loop {
        ticks.tick().await;
        match condition().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() >= end => return Err(error),
            Err(_) => {}
        }
    }
}
