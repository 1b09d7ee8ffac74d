//! Reads the log of a process while it runs: readiness, errors and panics.

use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::Path;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::sync::watch;

use super::error::ChaosError;
use super::history::{LogKind, LogLine};
use super::recorder::Recorder;

/// Maximum number of lines of a panic: its message and backtrace.
const PANIC_LINES: usize = 40;

/// Maximum length of a recorded text, in characters.
const MAX_TEXT: usize = 2_000;

/// A process that is listening.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    pub(super) at: u64,
    /// Address as it is logged.
    pub(super) address: Option<String>,
}

/// Log of one incarnation.
pub(super) struct Log<'a> {
    pub(super) recorder: &'a Recorder,
    pub(super) process: &'a str,
    /// Notified when the process first logs that it is listening.
    pub(super) ready: &'a watch::Sender<Option<Ready>>,
    /// File for a copy of the log.
    pub(super) file: Option<&'a Path>,
}

impl Log<'_> {
    /// Reads until the process has ended.
    ///
    /// A failure to write the file does not stop the reading, but makes the run fail.
    ///
    /// # Errors
    /// The log cannot be read.
    pub(super) async fn follow(&self, from: impl AsyncRead + Unpin) -> io::Result<()> {
        let mut copy = self.file.map(LogFile::open);
        let mut lines = BufReader::new(from).split(b'\n');
        let mut panic: Option<LogLine> = None;
        let mut panic_lines = 0;
        while let Some(line) = lines.next_segment().await? {
            if let Some(copy) = &mut copy {
                copy.add(&line);
            }
            let line = String::from_utf8_lossy(&line);
            match serde_json::from_str::<Value>(&line) {
                Ok(entry) => {
                    self.record(panic.take());
                    self.entry(&entry);
                }
                Err(_) if is_panic(&line) => {
                    self.record(panic.replace(self.line(LogKind::Panic, &line)));
                    panic_lines = 0;
                }
                Err(_) => {
                    panic_lines += 1;
                    if let Some(panic) = panic.as_mut().filter(|_| panic_lines < PANIC_LINES) {
                        panic.text = excerpt(&format!("{}\n{line}", panic.text));
                    }
                }
            }
        }
        self.record(panic);
        if let Some(Err(error)) = copy.map(LogFile::finish) {
            self.recorder.fail(error);
        }
        Ok(())
    }

    fn entry(&self, entry: &Value) {
        let message = entry["message"].as_str().unwrap_or_default();
        if message == "listening" {
            self.ready.send_if_modified(|ready| {
                let is_first = ready.is_none();
                ready.get_or_insert_with(|| Ready {
                    at: self.recorder.now(),
                    address: entry["address"].as_str().map(str::to_owned),
                });
                is_first
            });
        }
        if entry["level"] == "ERROR" {
            self.record(Some(self.line(LogKind::Error, &entry.to_string())));
        } else if message.starts_with("lease lost") {
            self.record(Some(self.line(LogKind::LeaseLost, &entry.to_string())));
        }
    }

    fn line(&self, kind: LogKind, text: &str) -> LogLine {
        LogLine {
            at: self.recorder.now(),
            process: self.process.to_owned(),
            kind,
            text: excerpt(text),
        }
    }

    fn record(&self, line: Option<LogLine>) {
        if let Some(line) = line {
            self.recorder.write(|history| history.logs.push(line));
        }
    }
}

/// File that a log is copied to, until a write fails.
struct LogFile<'a> {
    path: &'a Path,
    file: io::Result<BufWriter<File>>,
}

impl<'a> LogFile<'a> {
    fn open(path: &'a Path) -> Self {
        let file = File::options().create(true).append(true).open(path);
        Self {
            path,
            file: file.map(BufWriter::new),
        }
    }

    fn add(&mut self, line: &[u8]) {
        if let Ok(file) = &mut self.file
            && let Err(error) = file.write_all(line).and_then(|()| file.write_all(b"\n"))
        {
            self.file = Err(error);
        }
    }

    fn finish(self) -> Result<(), ChaosError> {
        let written = self.file.and_then(|mut file| file.flush());
        written.map_err(|source| ChaosError::Output {
            path: self.path.to_owned(),
            source,
        })
    }
}

/// Returns `true` for the first line of a panic, as Rust's panic handler prints it.
fn is_panic(line: &str) -> bool {
    line.starts_with("thread '") && line.contains("panicked at")
}

fn excerpt(text: &str) -> String {
    text.chars().take(MAX_TEXT).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Settings;

    async fn follow(text: &str) -> (Vec<LogLine>, Option<Ready>) {
        let recorder = Recorder::new(Settings::default());
        let ready = watch::Sender::new(None);
        let log = Log {
            recorder: &recorder,
            process: "relay-1",
            ready: &ready,
            file: None,
        };
        log.follow(text.as_bytes()).await.unwrap();
        let ready = ready.borrow().clone();
        (recorder.take().logs, ready)
    }

    #[tokio::test]
    async fn errors_panics_and_lost_leases_are_kept_and_nothing_else() {
        let (lines, ready) = follow(concat!(
            "{\"level\":\"INFO\",\"message\":\"listening\",\"address\":\"127.0.0.1:1\"}\n",
            "{\"level\":\"ERROR\",\"message\":\"stream gap\"}\n",
            "{\"level\":\"WARN\",\"message\":\"lease lost: another instance has the shard\"}\n",
            "thread 'main' (1) panicked at src/main.rs:1:1:\n",
            "index out of bounds\n",
            "{\"level\":\"WARN\",\"message\":\"trying again\"}\n",
            "not JSON, and no panic\n",
        ))
        .await;
        let kinds: Vec<_> = lines.iter().map(|line| line.kind).collect();
        assert_eq!(kinds, [LogKind::Error, LogKind::LeaseLost, LogKind::Panic]);
        assert!(lines[2].text.ends_with("index out of bounds"));
        assert_eq!(ready.unwrap().address.as_deref(), Some("127.0.0.1:1"));
    }

    #[tokio::test]
    async fn a_panic_at_the_very_end_is_kept() {
        let (lines, _) = follow("thread 'main' panicked at a.rs:1:1:\nboom").await;
        assert_eq!(lines.len(), 1);
        assert!(lines[0].text.ends_with("boom"));
    }
}
