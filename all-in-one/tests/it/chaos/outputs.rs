//! A failed output does not suppress the result.

use std::path::PathBuf;

use super::alone;
use crate::support::BINARY;

#[tokio::test]
async fn a_failed_output_does_not_prevent_the_others() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let html = folder.path().join("report.html");
    let logs = folder.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    // This file can be opened, but not written.
    let full = PathBuf::from("/dev/full");
    std::os::unix::fs::symlink(&full, logs.join("relay-1.log")).unwrap();
    let output = tokio::process::Command::new(BINARY)
        .args(["chaos", "--duration", "5s", "--rate", "10"])
        .args(["--faults", "latency", "--drain-limit", "120s"])
        .args([PathBuf::from("--report"), full])
        .args([PathBuf::from("--html"), html.clone()])
        .args([PathBuf::from("--logs"), logs.clone()])
        .output()
        .await
        .unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    assert!(
        stderr.contains("/dev/full could not be written"),
        "{stderr}"
    );
    assert!(
        stderr.contains("relay-1.log could not be written"),
        "{stderr}"
    );
    assert!(report.contains("seed"), "{report}");
    assert!(std::fs::read_to_string(html).unwrap().contains("<svg"));
    let other = std::fs::read_to_string(logs.join("relay-2.log")).unwrap();
    assert!(other.contains("listening"), "{other}");
}
