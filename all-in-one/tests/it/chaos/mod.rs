//! Short runs of `chaos`, from the command line.

mod broken_worker;
mod endpoints;
mod interrupted;
mod outputs;
mod usage;
mod whole;

use std::path::PathBuf;
use std::process::{Output, Stdio};

use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;
use tokio::sync::{Mutex, MutexGuard};

use crate::support::BINARY;

/// A completed run and its files.
struct Ended {
    output: Output,
    folder: TempDir,
}

/// Returns `all-in-one chaos` with these arguments and all outputs in a folder.
fn chaos(arguments: &[&str], folder: &TempDir) -> Command {
    let file = |name: &str| folder.path().join(name);
    let mut command = Command::new(BINARY);
    command
        .arg("chaos")
        .args(arguments)
        .args([PathBuf::from("--report"), file("report.json")])
        .args([PathBuf::from("--html"), file("report.html")])
        .args([PathBuf::from("--history"), file("history.json")])
        .args([PathBuf::from("--logs"), file("logs")])
        // Other tests may slow the machine down.
        .args(["--drain-limit", "120s"])
        .env("TMPDIR", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// One run at a time: recovery times are checked, and two concurrent runs on a small machine would
/// slow each other down.
static ALONE: Mutex<()> = Mutex::const_new(());

async fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().await
}

async fn run(arguments: &[&str]) -> Ended {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let output = chaos(arguments, &folder).output().await.unwrap();
    Ended { output, folder }
}

impl Ended {
    fn code(&self) -> Option<i32> {
        self.output.status.code()
    }

    /// Returns the output, for a failure message.
    fn text(&self) -> String {
        let of = String::from_utf8_lossy;
        format!("{}\n{}", of(&self.output.stdout), of(&self.output.stderr))
    }

    fn file(&self, name: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("{name}: {error}\n{}", self.text()))
    }

    fn report(&self) -> Value {
        serde_json::from_str(&self.file("report.json")).unwrap()
    }

    fn history(&self) -> Value {
        serde_json::from_str(&self.file("history.json")).unwrap()
    }

    /// Returns the names of the violated invariants.
    fn violated(&self) -> Vec<String> {
        let report = self.report();
        let invariants = report["invariants"].as_array().unwrap();
        invariants
            .iter()
            .filter(|judged| judged["violations"] != 0)
            .map(|judged| judged["invariant"].as_str().unwrap().to_owned())
            .collect()
    }
}
