//! What cannot be meant.

use crate::support::BINARY;

#[tokio::test]
async fn wrong_options_are_refused_in_one_sentence() {
    for (wrong, reason) in [
        (&["--duration", "1s"][..], "--duration"),
        (&["--rate", "none"], "--rate"),
        (&["--faults", "kill,earthquake"], "earthquake"),
        (&["--relays", "0"], "--relays"),
        (&["--seed", "x"], "--seed"),
        (
            &["--report", "no/such/folder/r.json"],
            "no folder `no/such/folder`",
        ),
        // A folder in which nobody can create a file.
        (&["--html", "/proc/report.html"], "cannot be written"),
        (
            &["--memory-limit", "18446744073709551615"],
            "--memory-limit",
        ),
        (&["--drain-limit", "1000000y"], "--drain-limit"),
        (
            &["--dynamodb-endpoint", "http://127.0.0.1:1"],
            "--sqs-endpoint",
        ),
        (&["--sqs-endpoint", "https://h"], "http://HOST:PORT"),
    ] {
        let output = tokio::process::Command::new(BINARY)
            .arg("chaos")
            .args(wrong)
            .output()
            .await
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {said}");
        assert_eq!(said.trim().lines().count(), 1, "{said}");
        assert!(said.contains(reason), "{wrong:?}: {said}");
    }
}
