//! Files that are either whole or not there.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// What a file is called while it is written.
const UNFINISHED: &str = "unfinished";

/// Writes a file under another name beside it, waits until the disk has it, and renames it: whatever happens meanwhile, `path` holds either
/// what it held before or all of `bytes`.
///
/// # Errors
///
/// The file cannot be written. What was there before is untouched, and nothing else stays behind.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let unfinished = unfinished(path);
    let write = || {
        let mut file = File::create(&unfinished)?;
        file.write_all(bytes)?;
        // The rename must not reach the disk before the data does.
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        sync_directory_of(path)
    };
    write().inspect_err(|_| {
        // On a full disk the half that was written is in the way of everyone else; that it cannot be removed changes nothing.
        let _ = fs::remove_file(&unfinished);
    })
}

/// Where [`write_atomically`] writes before it renames.
pub(crate) fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".");
    name.push(UNFINISHED);
    path.with_file_name(name)
}

/// True for what an interrupted [`write_atomically`] leaves behind.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == UNFINISHED)
}

/// A rename is on the disk when its directory is; systems where directories cannot be opened have no such call.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    match File::open(parent) {
        Ok(directory) if cfg!(unix) => directory.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_that_fails_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("weights.safetensors");
        write_atomically(&path, b"old").unwrap();
        // A directory in the place of the unfinished file makes the write fail, whoever runs the test.
        fs::create_dir(unfinished(&path)).unwrap();
        assert!(write_atomically(&path, b"new").is_err());
        assert_eq!(fs::read(&path).unwrap(), b"old");
        fs::remove_dir(unfinished(&path)).unwrap();
        write_atomically(&path, b"new").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"new");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
