//! Runs a service in this process: the counterpart of `test_support::child_process`.

use std::io;
use std::os::fd::AsFd;
use std::process::ExitCode;
use std::time::Duration;

use shared::runtime::service::{Context, ProcessOptions, RunError};
use test_support::child_process::LIFELINE;
use tokio::net::unix::pipe;

/// Time for which a service continues without its parent. The embedded cloud ended with the parent,
/// so no work can be completed.
const ORPHAN_GRACE: Duration = Duration::from_secs(1);

/// Runs `service` as its own program would. In addition, it stops when the parent process has
/// ended.
pub(crate) fn run<F>(
    name: &'static str,
    options: &ProcessOptions,
    service: impl FnOnce(Context) -> F,
) -> ExitCode
where
    F: Future<Output = Result<(), RunError>>,
{
    shared::runtime::service::run(name, options, |context| async {
        if std::env::var_os(LIFELINE).is_none() {
            return service(context).await;
        }
        let stop = context.stop.clone();
        let orphaned = async {
            parent_ended().await.map_err(|error| {
                RunError::Failed(format!(
                    "standard input is not the pipe to all-in-one: {error}"
                ))
            })?;
            tracing::warn!("the all-in-one process has ended; stopping");
            stop.cancel();
            tokio::time::sleep(ORPHAN_GRACE).await;
            Err(RunError::Failed(
                "the all-in-one process has ended, and the embedded cloud with it".to_owned(),
            ))
        };
        tokio::select! {
            outcome = service(context) => outcome,
            outcome = orphaned => outcome,
        }
    })
}

/// Waits until the other end of standard input, a pipe, is closed.
async fn parent_ended() -> io::Result<()> {
    let input = io::stdin().as_fd().try_clone_to_owned()?;
    let lifeline = pipe::Receiver::from_owned_fd(input)?;
    let mut nothing = [0; 16];
    loop {
        lifeline.readable().await?;
        match lifeline.try_read(&mut nothing) {
            Ok(0) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}
