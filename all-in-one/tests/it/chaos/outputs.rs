//! What cannot be written does not cost the verdict.

use std::path::PathBuf;

use super::alone;
use crate::support::BINARY;

#[tokio::test]
async fn an_output_that_fails_leaves_the_others() {
    let _alone = alone().await;
    let folder = tempfile::tempdir().unwrap();
    let html = folder.path().join("report.html");
    let logs = folder.path().join("logs");
    std::fs::create_dir(&logs).unwrap();
    // It can be opened, and not be written to.
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
    let said = String::from_utf8_lossy(&output.stderr);
    let report = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("/dev/full could not be written"), "{said}");
    assert!(said.contains("relay-1.log could not be written"), "{said}");
    assert!(report.contains("seed"), "{report}");
    assert!(std::fs::read_to_string(html).unwrap().contains("<svg"));
    let other = std::fs::read_to_string(logs.join("relay-2.log")).unwrap();
    assert!(other.contains("listening"), "{other}");
}
