//! Which user an attempt runs as: as root, one that nobody else has.

use domain::ids::AttemptId;
use std::{fs, ops::Range};

/// Between the ranges that containers use and those that programs take for negative: nobody assigns users here.
const LARGE: Range<u32> = 1_879_048_192..2_147_352_576;
/// For an agent in a container that maps only 65,536 users.
const SMALL: Range<u32> = 50_000..60_000;

#[derive(Clone, Debug)]
pub(super) struct Users {
    range: Option<Range<u32>>,
}

impl Users {
    pub(super) fn of_this_machine(wanted: bool) -> Self {
        let is_root = nix::unistd::geteuid().is_root();
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let groups = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
        let usable = |range: &Range<u32>| is_mapped(&map, range) && is_mapped(&groups, range);
        Self { range: [LARGE, SMALL].into_iter().find(|range| wanted && is_root && usable(range)) }
    }

    pub(super) fn are_own(&self) -> bool {
        self.range.is_some()
    }

    /// The user (and group) of an attempt. It follows from the attempt's id, which is random at its end, so that several agents
    /// of one machine need no common list: two live attempts meet once in 10^8.
    pub(super) fn choose(&self, attempt: AttemptId) -> Option<u32> {
        let range = self.range.as_ref()?;
        let random = attempt.as_uuid().as_u128() as u64;
        Some(range.start + (random % u64::from(range.end - range.start)) as u32)
    }
}

/// Whether this user namespace knows the whole range. A line: first inside, first outside, count.
fn is_mapped(map: &str, range: &Range<u32>) -> bool {
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_ascii_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if first <= u64::from(range.start) && u64::from(range.end) <= first + count)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_users_that_this_namespace_knows_are_chosen() {
        let whole = "         0          0 4294967295\n";
        let container = "0 100000 65536";
        assert!(is_mapped(whole, &LARGE) && is_mapped(container, &SMALL));
        assert!(!is_mapped(container, &LARGE) && !is_mapped("0 1000 1", &SMALL) && !is_mapped("", &SMALL));
    }

    #[test]
    fn attempts_get_different_users_outside_of_everybody_elses() {
        let users = Users { range: Some(LARGE) };
        let attempt = || AttemptId::from_uuid(uuid::Uuid::now_v7());
        let chosen: std::collections::BTreeSet<_> = (0..100).filter_map(|_| users.choose(attempt())).collect();
        assert_eq!(chosen.len(), 100);
        assert!(chosen.iter().all(|uid| LARGE.contains(uid)));
        assert_eq!(Users { range: None }.choose(attempt()), None);
    }
}
