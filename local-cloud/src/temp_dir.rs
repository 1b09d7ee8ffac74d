//! The temporary directory, and the clean-up of directories that killed processes left behind.
//!
//! The owner of a directory holds a lock on a file in it. The operating system releases the lock
//! when the process ends for any reason, so a directory whose lock can be acquired has no owner.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = "local-cloud-";
const LOCK: &str = "lock";

/// A temporary directory and its lock; deleted when dropped.
#[derive(Debug)]
pub(crate) struct LockedTempDir {
    // Deleted while it is still locked.
    dir: TempDir,
    _lock: File,
}

impl LockedTempDir {
    /// Creates a directory in the system's directory for temporary files, and deletes those there
    /// that have no owner.
    pub(crate) fn new() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        remove_abandoned(&parent);
        Self::within(&parent)
    }

    fn within(parent: &Path) -> io::Result<Self> {
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // The lock file gets its name after it is locked, so that another process cannot acquire
        // it.
        let unlocked = dir.path().join("unlocked");
        let lock = File::create_new(&unlocked)?;
        lock.try_lock()?;
        fs::rename(unlocked, dir.path().join(LOCK))?;
        Ok(Self { dir, _lock: lock })
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Deletes the directory.
    pub(crate) fn close(self) -> io::Result<()> {
        self.dir.close()
    }
}

/// Deletes the directories without an owner in `parent`. Those that cannot be deleted, such as
/// another user's, are left.
fn remove_abandoned(parent: &Path) {
    let Ok(entries) = fs::read_dir(parent) else {
        return;
    };
    for entry in entries.flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(PREFIX)
            && entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !is_ours {
            continue;
        }
        let lock = entry.path().join(LOCK);
        let is_file = fs::symlink_metadata(&lock).is_ok_and(|lock| lock.is_file());
        if is_file && File::open(lock).is_ok_and(|lock| lock.try_lock().is_ok()) {
            match fs::remove_dir_all(entry.path()) {
                Ok(()) => {
                    tracing::info!(dir = ?entry.path(), "deleted the directory of a killed process");
                }
                Err(error) => {
                    tracing::debug!(%error, "the directory of a killed process could not be deleted")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_without_an_owner_are_deleted() {
        let parent = tempfile::tempdir().unwrap();
        let owned = LockedTempDir::within(parent.path()).unwrap();
        let foreign = parent.path().join("local-cloud-without-lock");
        fs::create_dir(&foreign).unwrap();
        let abandoned = LockedTempDir::within(parent.path()).unwrap();
        let left = abandoned.dir.keep();
        drop(abandoned._lock);

        remove_abandoned(parent.path());
        assert!(owned.path().exists());
        assert!(foreign.exists());
        assert!(!left.exists());
    }
}
