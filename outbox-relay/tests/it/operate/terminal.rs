//! Commands on a terminal: a pseudo-terminal whose other end the test reads.

use std::fs::File;
use std::io::Read;
use std::process::{Command, Stdio};

use nix::pty::{Winsize, openpty};

use super::{failed, with};
use crate::support::{RELAY, Stage};

/// Runs a command on a terminal of 160 columns. Returns its exit code and its output.
pub(super) async fn on_terminal(
    stage: &Stage,
    environment: &[(&str, &str)],
    arguments: &[&str],
) -> (Option<i32>, String) {
    on_terminal_of(160, stage, environment, arguments).await
}

/// Runs a command on a terminal of `columns`. Returns its exit code and its output.
async fn on_terminal_of(
    columns: u16,
    stage: &Stage,
    environment: &[(&str, &str)],
    arguments: &[&str],
) -> (Option<i32>, String) {
    let size = Winsize {
        ws_row: 40,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let terminal = openpty(&size, None).unwrap();
    let mut command = Command::new(RELAY);
    command
        .args(arguments)
        .envs(stage.cloud.env())
        .env("TERM", "xterm-256color")
        .env("RELAY_LEASE_DURATION", "1s")
        .env_remove("NO_COLOR")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(terminal.slave.try_clone().unwrap())
        .stderr(terminal.slave);
    let mut child = command.spawn().unwrap();
    // The command holds the other end of the terminal open until it is dropped.
    drop(command);
    let mut master = File::from(terminal.master);
    let ended = tokio::task::spawn_blocking(move || {
        let mut written = Vec::new();
        let mut buffer = [0; 4096];
        // A read fails once the last process has closed the terminal.
        while let Ok(count @ 1..) = master.read(&mut buffer) {
            written.extend_from_slice(&buffer[..count]);
        }
        let code = child.wait().unwrap().code();
        (code, String::from_utf8_lossy(&written).into_owned())
    });
    ended.await.unwrap()
}

/// Control sequences that a hostile writer may store: clear the screen, set the title, a colour
/// with the one-byte form of `ESC [`, and reverse the direction of text.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}";

#[tokio::test(flavor = "multi_thread")]
async fn stored_control_sequences_do_not_reach_the_terminal() {
    let stage = Stage::without_queue().await;
    let mut item = failed("o-1", 1, HOSTILE);
    for name in ["payload", "event_type", "occurred_at", "message_id", "odd"] {
        item = with(item, name, HOSTILE);
    }
    stage.put(with(item, "event_id", HOSTILE)).await;
    for arguments in [
        &["show", "o-1:1"][..],
        &["show", "o-1:1", "-o", "json"],
        &["list"],
        &["list", "-o", "json"],
        &["retry", HOSTILE],
    ] {
        let (_, written) = on_terminal(&stage, &[], arguments).await;
        for part in ["\u{1b}[2J", "\u{1b}]", "\u{7}", "\u{9b}", "\u{202e}"] {
            assert!(
                !written.contains(part),
                "{part:?} in {arguments:?}: {written:?}"
            );
        }
        assert!(written.contains("\\u001b[2J"), "{arguments:?}: {written:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn colours_need_a_terminal_and_respect_no_color() {
    let stage = Stage::without_queue().await;
    stage.put(failed("o-1", 1, "refused")).await;
    let (code, written) = on_terminal(&stage, &[], &["list"]).await;
    assert_eq!(code, Some(0));
    assert!(written.contains("\u{1b}["), "{written:?}");
    let (_, written) = on_terminal(&stage, &[("NO_COLOR", "1")], &["list"]).await;
    assert!(
        written.contains("o-1:1") && !written.contains('\u{1b}'),
        "{written:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_narrow_terminal_each_event_has_one_line_with_its_whole_id() {
    let stage = Stage::without_queue().await;
    let ids = ["o-1", "0197f3c2-5a1e-7c44-9d3b-8f2a6b1c0d9e"];
    let failure = "no route matches the event type; add one to RELAY_ROUTES and retry";
    for id in ids {
        stage.put(failed(id, 1, failure)).await;
    }
    let plain = [("NO_COLOR", "1")];
    let (_, written) = on_terminal_of(80, &stage, &plain, &["list"]).await;
    let lines: Vec<_> = written.lines().skip(1).collect();
    assert_eq!(lines.len(), ids.len(), "{written}");
    for id in ids {
        let line = lines
            .iter()
            .find(|line| line.starts_with(&format!("{id}:1 ")));
        let line = line.unwrap_or_else(|| panic!("{id}: {written}"));
        assert!(line.contains("2026-01-31T08:15:30.000Z"), "{written}");
        assert!(line.contains("no route"), "{written}");
    }
    let alone = ["list", "--aggregate", "o-1"];
    let (_, written) = on_terminal_of(80, &stage, &plain, &alone).await;
    let fits = |line: &str| line.chars().count() <= 80;
    assert!(written.lines().all(fits), "{written}");
    assert_eq!(written.lines().count(), 2, "{written}");
    let name = ids[1];
    let (_, written) = on_terminal_of(80, &stage, &plain, &["retry", name]).await;
    assert!(written.contains(name), "{written}");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_redraws_a_terminal() {
    let stage = Stage::without_queue().await;
    let watch = ["watch", "--interval", "200ms", "--count", "3"];
    let (code, written) = on_terminal(&stage, &[], &watch).await;
    assert_eq!(code, Some(1), "no relay runs");
    assert_eq!(written.matches("UNHEALTHY").count(), 3, "{written:?}");
    assert!(written.matches("\u{1b}[2J").count() >= 3, "{written:?}");
}
