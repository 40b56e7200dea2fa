//! How content is cut, and how much of it is in memory at one time. Pure.

use api_types::artifact::Upload;
use std::ops::Range;

/// How large the parts of an upload are, but the last: bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartSizes {
    pub most: u64,
    /// None: all have `most`.
    pub least: Option<u64>,
}

impl PartSizes {
    pub fn equal(size: u64) -> Self {
        Self { most: size, least: None }
    }
}

impl From<&Upload> for PartSizes {
    fn from(announced: &Upload) -> Self {
        Self { most: announced.part_size, least: announced.least_part }
    }
}

/// How an upload is spread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lanes {
    /// Parts on their way at one time.
    pub(crate) parallel: usize,
    /// Parts that are read and wait.
    pub(crate) queued: usize,
    /// Parts are kept in memory until they are stored. Else they are read a second time when they are sent.
    pub(crate) held: bool,
}

/// One part is being read, `queued` wait, `parallel` are on their way: together they fit `memory`. Parts so large that fewer than three fit
/// are not held, where the source can be read again. Where it can't, four are in memory at most: of a directory 64 MiB, its parts having 16 at most.
pub(crate) fn lanes(part_size: u64, memory: u64, parallel: usize, can_read_again: bool) -> Lanes {
    let parallel = parallel.max(1);
    let fit = usize::try_from(memory / part_size.max(1)).unwrap_or(usize::MAX);
    if fit < 3 {
        let parallel = if can_read_again { parallel } else { parallel.min(2) };
        return Lanes { parallel, queued: 1, held: !can_read_again };
    }
    let parallel = parallel.min(fit - 2);
    Lanes { parallel, queued: (fit - 1 - parallel).clamp(1, 4), held: true }
}

/// Ranges that are fetched at one time: what is on its way, two that wait and one that is written fit `memory`.
pub(crate) fn ranges_at_once(range: u64, memory: u64, parallel: usize) -> usize {
    let fit = usize::try_from(memory / range.max(1)).unwrap_or(usize::MAX);
    parallel.min(fit.saturating_sub(3)).max(1)
}

/// `from..size`, cut into steps.
pub(crate) fn ranges(from: u64, size: u64, step: u64) -> impl Iterator<Item = Range<u64>> + Send {
    let step = step.max(1);
    std::iter::successors((from < size).then_some(from), move |at| at.checked_add(step).filter(|next| *next < size))
        .map(move |at| at..size.min(at.saturating_add(step)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn memory_is_kept_for_parts_of_every_size() {
        let at_most = 64 << 20;
        for part in [8 << 20, 16 << 20, 32 << 20, 64 << 20, 1 << 30] {
            let lanes = lanes(part, at_most, 4, true);
            let held = if lanes.held { (1 + lanes.queued + lanes.parallel) as u64 * part } else { 0 };
            assert!(held <= at_most, "{part}: {lanes:?}");
        }
        assert_eq!(lanes(8 << 20, at_most, 4, true), Lanes { parallel: 4, queued: 3, held: true });
        assert_eq!(lanes(16 << 20, at_most, 4, false), Lanes { parallel: 2, queued: 1, held: true });
        assert_eq!(lanes(64 << 20, at_most, 4, true), Lanes { parallel: 4, queued: 1, held: false });
        assert_eq!(lanes(64 << 20, at_most, 4, false), Lanes { parallel: 2, queued: 1, held: true });
        assert_eq!((ranges_at_once(8 << 20, at_most, 4), ranges_at_once(32 << 20, at_most, 4)), (4, 1));
    }

    proptest! {
        #[test]
        fn ranges_are_the_whole_and_nothing_twice(from in 0u64..5_000, size in 0u64..5_000, step in 1u64..700) {
            let mut at = from;
            for range in ranges(from, size, step) {
                prop_assert_eq!(range.start, at);
                prop_assert!(range.end > range.start && range.end - range.start <= step);
                at = range.end;
            }
            prop_assert_eq!(at, from.max(size));
        }
    }
}
