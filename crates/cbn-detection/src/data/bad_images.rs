//! Images that cannot be used, and how many of them a run bears.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ImageError;

/// Every bad image that a training has met, each counted once however often an epoch comes back to it. A resumed run counts anew.
#[derive(Debug, Default)]
pub struct BadImages {
    limit: usize,
    met: Mutex<Met>,
}

#[derive(Debug, Default)]
struct Met {
    /// Its number, counted from 1, by file.
    numbers: BTreeMap<String, usize>,
    /// Not told yet.
    new: Vec<(usize, String)>,
}

impl BadImages {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, met: Mutex::default() }
    }

    /// How many are borne.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Takes a bad image; false if it is one too many.
    pub(super) fn bears(&self, path: &Path, error: &ImageError) -> bool {
        let mut met = self.met();
        let next = met.numbers.len() + 1;
        let name = path.display().to_string();
        if let Some(&number) = met.numbers.get(&name) {
            return number <= self.limit;
        }
        met.numbers.insert(name, next);
        met.new.push((next, error.to_string()));
        next <= self.limit
    }

    /// Those met since the last call: the how-manieth each is, and what is wrong with which file.
    pub fn take_new(&self) -> Vec<(usize, String)> {
        std::mem::take(&mut self.met().new)
    }

    /// The counts are whole between any two statements, so a panic elsewhere does not spoil them.
    fn met(&self) -> MutexGuard<'_, Met> {
        self.met.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
