//! Invalid options.

use crate::support::BINARY;

#[tokio::test]
async fn invalid_options_are_rejected_in_one_sentence() {
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
        // A folder in which no file can be created.
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
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}: {stderr}");
        assert_eq!(stderr.trim().lines().count(), 1, "{stderr}");
        assert!(stderr.contains(reason), "{wrong:?}: {stderr}");
    }
}
