//! The temporary folder, and those that killed processes left behind.
//!
//! The owner of a folder holds a lock on a file in it. The system releases the
//! lock with the process, however that ends, so a folder whose lock can be taken
//! is nobody's.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use tempfile::TempDir;

const PREFIX: &str = "local-cloud-";
const LOCK: &str = "lock";

/// A folder with its lock, removed on dropping.
#[derive(Debug)]
pub(crate) struct LockedTempDir {
    // Removed while still locked.
    folder: TempDir,
    _lock: File,
}

impl LockedTempDir {
    /// Makes a folder in the system's place for temporary files, where it also
    /// removes what is nobody's.
    pub(crate) fn new() -> io::Result<Self> {
        let parent = std::env::temp_dir();
        remove_abandoned(&parent);
        Self::within(&parent)
    }

    fn within(parent: &Path) -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // It gets its name when it is locked: never is there one to be taken.
        let unlocked = folder.path().join("unlocked");
        let lock = File::create_new(&unlocked)?;
        lock.try_lock()?;
        fs::rename(unlocked, folder.path().join(LOCK))?;
        Ok(Self {
            folder,
            _lock: lock,
        })
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Removes it and says whether that worked.
    pub(crate) fn close(self) -> io::Result<()> {
        self.folder.close()
    }
}

/// What cannot be removed, such as another user's, stays.
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
                    tracing::info!(folder = ?entry.path(), "removed the folder of a killed process");
                }
                Err(error) => tracing::debug!(%error, "an abandoned folder could not be removed"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_without_an_owner_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let owned = LockedTempDir::within(parent.path()).unwrap();
        let foreign = parent.path().join("local-cloud-without-lock");
        fs::create_dir(&foreign).unwrap();
        let abandoned = LockedTempDir::within(parent.path()).unwrap();
        let left = abandoned.folder.keep();
        drop(abandoned._lock);

        remove_abandoned(parent.path());
        assert!(owned.path().exists());
        assert!(foreign.exists());
        assert!(!left.exists());
    }
}
