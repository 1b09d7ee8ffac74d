//! A service as a child process.
//!
//! Each child has its own process group, so that Ctrl-C in the terminal reaches only the parent,
//! which stops the children in order. Its standard input is a pipe, and it ends when this process
//! closes the other end: a child ends with its parent even if the parent is killed.

use std::io;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::process::{Child, ChildStderr, ChildStdin, Command};

/// Environment variable that is set if standard input is the pipe described above.
pub const LIFELINE: &str = "ALL_IN_ONE_LIFELINE";

/// Environment variables that children do not inherit: they would direct a child away from the
/// embedded cloud, or give all services the same name.
const NOT_PASSED_ON: [&str; 6] = [
    "OTEL_SERVICE_NAME",
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS",
    "AWS_USE_FIPS_ENDPOINT",
    "AWS_USE_DUALSTACK_ENDPOINT",
];

/// Command that starts a service; the same for every restart.
#[derive(Clone, Debug)]
pub struct Spec {
    /// Sub-command, which is also the name of the service.
    pub name: &'static str,
    /// Path of the executable.
    pub program: PathBuf,
    /// Additions to the environment of this process.
    pub environment: Vec<(&'static str, String)>,
    /// This process reads the log; otherwise it is written to the terminal.
    pub log_is_read: bool,
}

/// A running process; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: Option<ChildStderr>,
    _lifeline: Option<ChildStdin>,
}

impl Spec {
    pub fn spawn(&self) -> io::Result<Process> {
        let mut command = Command::new(&self.program);
        for name in NOT_PASSED_ON {
            command.env_remove(name);
        }
        command
            .arg(self.name)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env(LIFELINE, "1")
            .stdin(Stdio::piped())
            .stderr(if self.log_is_read {
                Stdio::piped()
            } else {
                Stdio::inherit()
            })
            .process_group(0);
        Process::spawn(&mut command)
    }
}

impl Process {
    /// Starts `command`. A piped standard error becomes the log.
    pub(crate) fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut child = command.kill_on_drop(true).spawn()?;
        Ok(Self {
            log: child.stderr.take(),
            // `Child::wait` would close an input that is still owned by the child.
            _lifeline: child.stdin.take(),
            child,
        })
    }

    /// Returns `None` once the end of the process was observed.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Takes the log if it is read by this process; `None` on further calls.
    pub fn take_log(&mut self) -> Option<ChildStderr> {
        self.log.take()
    }

    /// Sends a signal; has no effect once the process has ended.
    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        // `Child::id` is `None` once the end was observed: the pid may have been reused.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            kill(Pid::from_raw(pid), signal)?;
        }
        Ok(())
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        self.child.wait().await
    }

    /// Sends SIGKILL and waits for the end of the process.
    ///
    /// # Errors
    /// The process has already ended.
    pub(crate) async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}
