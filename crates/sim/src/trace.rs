//! What happened, as a hash that two runs of one seed must share, and as lines for a person when something failed.

use std::collections::VecDeque;

/// A long seed tells some ten thousand.
const KEPT_LINES: usize = 100_000;

#[derive(Default)]
pub(crate) struct Trace {
    hash: u64,
    /// Off by default: formatting costs more than the simulation.
    pub(crate) is_verbose: bool,
    lines: VecDeque<String>,
}

impl Trace {
    /// FNV-1a over whole words.
    pub(crate) fn mix(&mut self, word: u64) {
        if self.hash == 0 {
            self.hash = 0xcbf2_9ce4_8422_2325;
        }
        for part in [word & 0xffff_ffff, word >> 32] {
            self.hash = (self.hash ^ part).wrapping_mul(0x0100_0000_01b3);
        }
    }
    pub(crate) fn mix_text(&mut self, text: &str) {
        for byte in text.bytes() {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
    pub(crate) fn say(&mut self, at: u64, line: impl FnOnce() -> String) {
        if self.is_verbose {
            if self.lines.len() == KEPT_LINES {
                self.lines.pop_front();
            }
            self.lines.push_back(format!("{:>9.3}  {}", at as f64 / 1_000.0, line()));
        }
    }
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }
    pub(crate) fn into_lines(self) -> Vec<String> {
        self.lines.into()
    }
}
