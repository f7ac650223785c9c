//! The run's log: one JSON object per line.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{Event, LogError, Observer};

/// A log file of one JSON object per line, see [`super::Record`].
///
/// A resumed run appends to what is there: iterations that the interrupted run had logged but not saved stand in it twice, with the same
/// numbers but for times.
#[derive(Debug)]
pub struct JsonLines {
    path: PathBuf,
    file: File,
}

impl JsonLines {
    /// Opens the file to append to it; a last line that a killed process left unfinished is ended first.
    ///
    /// # Errors
    ///
    /// The file cannot be read or written.
    pub fn open(path: &Path) -> Result<Self, LogError> {
        let failed = |source| LogError { path: path.to_owned(), source };
        let mut file = OpenOptions::new().create(true).read(true).append(true).open(path).map_err(failed)?;
        if !ends_with_newline(&mut file).map_err(failed)? {
            file.write_all(b"\n").map_err(failed)?;
        }
        Ok(Self { path: path.to_owned(), file })
    }
}

fn ends_with_newline(file: &mut File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

impl Observer for JsonLines {
    /// Writes a record at once and in one piece, so that a killed run has lost none.
    fn observe(&mut self, event: &Event<'_>) -> Result<(), LogError> {
        let Event::Logged(record) = event else { return Ok(()) };
        let mut line = serde_json::to_string(record).expect("records have string keys only");
        line.push('\n');
        self.file.write_all(line.as_bytes()).map_err(|source| LogError { path: self.path.clone(), source })
    }
}

/// The largest resident set of this process so far, on Linux.
pub(super) fn peak_memory_mib() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kib / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::Record;

    #[test]
    fn a_line_that_a_killed_process_left_unfinished_spoils_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log.jsonl");
        std::fs::write(&path, "{\"event\":\"stopped\",\"iteration\":1}\n{\"event\":\"ite").unwrap();
        for iteration in [2, 3] {
            let mut log = JsonLines::open(&path).unwrap();
            log.observe(&Event::Logged(&Record::Stopped { iteration })).unwrap();
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let whole: Vec<&str> = text.lines().filter(|line| line.ends_with('}')).collect();
        assert_eq!(
            whole,
            [1, 2, 3].map(|iteration| format!("{{\"event\":\"stopped\",\"iteration\":{iteration}}}")),
            "{text}"
        );
    }
}
