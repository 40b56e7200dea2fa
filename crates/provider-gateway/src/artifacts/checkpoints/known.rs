//! What is known of an attempt's checkpoints from one to the next. It lives as long as this agent: one that comes next sends what is unchanged once
//! more, and that is all.

use domain::artifact::Sha256Digest;
use sha2::{Digest, Sha256};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Known(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// How the directory looked when it was stored last.
    look: Option<Look>,
    /// What was stored last, or what it began with.
    sha256: Option<Sha256Digest>,
    /// At every look since, it was being written to.
    unstill_since: Option<Instant>,
    told: Option<String>,
    left_out: Vec<String>,
}

impl Known {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    pub(super) fn look(&self) -> Option<Look> {
        self.state().look.clone()
    }
    pub(super) fn sha256(&self) -> Option<Sha256Digest> {
        self.state().sha256
    }
    pub(super) fn begins_with(&self, sha256: Sha256Digest) {
        self.state().sha256 = Some(sha256);
    }
    pub(super) fn stored(&self, look: Look, sha256: Sha256Digest) {
        let mut state = self.state();
        (state.look, state.sha256) = (Some(look), Some(sha256));
    }
    /// From here on trouble is told anew.
    pub(super) fn worked(&self) {
        let mut state = self.state();
        (state.unstill_since, state.told) = (None, None);
    }
    /// It was found changing. How long it has been so.
    pub(super) fn unstill_for(&self) -> Duration {
        self.state().unstill_since.get_or_insert_with(Instant::now).elapsed()
    }
    /// Whether it is to be said: it is not what was said last.
    pub(super) fn is_new(&self, line: &str) -> bool {
        self.state().told.replace(line.to_owned()).as_deref() != Some(line)
    }
    /// Those of what was left out that were not told of the checkpoint before.
    pub(super) fn new_lines(&self, lines: Vec<String>) -> Vec<String> {
        let before = std::mem::replace(&mut self.state().left_out, lines.clone());
        lines.into_iter().filter(|line| !before.contains(line)).collect()
    }
}

/// How a directory looks without its contents being read: what looks the same has not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    digest: [u8; 32],
    entries: u64,
    /// Where times are told in seconds: of the newest entry.
    pub(crate) newest: u64,
}

impl Look {
    /// There is nothing but the directory itself, which is its own first entry.
    pub(crate) fn is_of_nothing(&self) -> bool {
        self.entries <= 1
    }
}

/// A look, entry by entry, the directory itself before what is in it.
#[derive(Default)]
pub(crate) struct Looking {
    hasher: Sha256,
    entries: u64,
    pub(crate) newest: u64,
}

impl Looking {
    /// `told`: kind, size, mode, times, whatever is known of it.
    pub(crate) fn add(&mut self, name: &[u8], told: &[u64]) {
        self.entries += 1;
        self.hasher.update((name.len() as u64).to_le_bytes());
        self.hasher.update(name);
        self.hasher.update((told.len() as u64).to_le_bytes());
        told.iter().for_each(|number| self.hasher.update(number.to_le_bytes()));
    }

    pub(crate) fn finish(self) -> Look {
        Look { digest: self.hasher.finalize().into(), entries: self.entries, newest: self.newest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trouble_is_told_once_until_it_worked_or_is_another() {
        let known = Known::default();
        assert_eq!(
            [known.is_new("a"), known.is_new("a"), known.is_new("b"), known.is_new("a")],
            [true, false, true, true]
        );
        known.worked();
        assert!(known.is_new("a"));
        let lines = |names: &[&str]| known.new_lines(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(lines(&["x"]), ["x"]);
        assert_eq!(lines(&["x", "y"]), ["y"]);
    }

    #[test]
    fn a_look_tells_names_and_numbers_apart() {
        let look = |entries: &[(&str, &[u64])]| {
            let mut looking = Looking::default();
            entries.iter().for_each(|(name, told)| looking.add(name.as_bytes(), told));
            looking.finish()
        };
        assert_eq!(look(&[("a", &[1, 2])]), look(&[("a", &[1, 2])]));
        for other in [look(&[("a", &[1, 3])]), look(&[("b", &[1, 2])]), look(&[("a", &[1]), ("", &[2])]), look(&[])] {
            assert_ne!(look(&[("a", &[1, 2])]), other);
        }
        assert!(look(&[("", &[1])]).is_of_nothing() && !look(&[("", &[1]), ("a", &[1])]).is_of_nothing());
    }
}
