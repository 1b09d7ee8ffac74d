//! One service as a child process.
//!
//! A child is in a process group of its own, so that the terminal's Ctrl-C
//! reaches only the parent, which stops the children in order. It has one end
//! of a pipe as its standard input and ends when the other end, held here,
//! closes: so it ends with its parent, even if that is killed.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};
use tokio_util::sync::CancellationToken;

/// Tells a service that its standard input is the pipe described above.
pub const LIFELINE: &str = "ALL_IN_ONE_LIFELINE";

/// Variables of the caller that would lead a child elsewhere than to the
/// embedded cloud, or give all three the same name.
const NOT_PASSED_ON: [&str; 6] = [
    "OTEL_SERVICE_NAME",
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
];

/// How a service is started; the same at every restart.
#[derive(Clone, Debug)]
pub struct Spec {
    /// The sub-command, which is also the service's name.
    pub name: &'static str,
    /// This executable.
    pub program: PathBuf,
    /// On top of this process's own environment.
    pub environment: Vec<(&'static str, String)>,
    /// Whether what it logs is for this process, and not for the terminal.
    pub log_is_read: bool,
}

/// A running service; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: u32,
    log: Option<ChildStderr>,
    _lifeline: Option<ChildStdin>,
}

impl Spec {
    pub fn spawn(&self) -> io::Result<Process> {
        let mut command = Command::new(&self.program);
        for name in NOT_PASSED_ON {
            command.env_remove(name);
        }
        let mut child = command
            .arg(self.name)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(LIFELINE, "1")
            .stdin(Stdio::piped())
            .stderr(if self.log_is_read {
                Stdio::piped()
            } else {
                Stdio::inherit()
            })
            .process_group(0)
            .kill_on_drop(true)
            .spawn()?;
        Ok(Process {
            pid: child.id().unwrap_or_default(),
            log: child.stderr.take(),
            // Waiting for a child closes the input it still owns.
            _lifeline: child.stdin.take(),
            child,
        })
    }
}

impl Process {
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// What it logs, when [`Spec::log_is_read`]; once.
    pub fn take_log(&mut self) -> Option<ChildStderr> {
        self.log.take()
    }

    /// Nothing happens to one that has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // No id once its end was seen: its pid may be another's by now.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), signal)?;
        }
        Ok(())
    }

    /// Waits for its end.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// SIGTERM; SIGKILL after `patience`, or at once when `force` is cancelled.
    pub async fn stop(
        mut self,
        patience: Duration,
        force: &CancellationToken,
    ) -> io::Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        tokio::select! {
            status = self.child.wait() => return status,
            () = tokio::time::sleep(patience) => {}
            () = force.cancelled() => {}
        }
        self.child.start_kill()?;
        self.child.wait().await
    }
}
