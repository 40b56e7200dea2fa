//! What is kept, and what is deleted when a new backup is whole.

use crate::directory::Kind;
use chrono::{DateTime, Utc};
use std::collections::BTreeSet;

/// What the choice depends on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Candidate {
    pub(crate) at: DateTime<Utc>,
    pub(crate) name: String,
    pub(crate) kind: Kind,
    /// It was restored once, and all was well.
    pub(crate) is_good: bool,
}

/// The names of those that go: what is older than the newest so many of its kind. The newest good one of a kind never goes.
pub(crate) fn superfluous(all: &[Candidate]) -> BTreeSet<String> {
    let mut goes = BTreeSet::new();
    for kind in Kind::ALL {
        let mut of_kind: Vec<&Candidate> = all.iter().filter(|one| one.kind == kind).collect();
        of_kind.sort_by(|a, b| b.cmp(a));
        let newest_good = of_kind.iter().find(|one| one.is_good).map(|one| &one.name);
        let old = of_kind.iter().skip(kind.kept()).map(|one| &one.name).filter(|name| Some(*name) != newest_good);
        goes.extend(old.cloned());
    }
    goes
}

/// Whether this file of a received log is of before the segment with which the oldest kept backup begins. Segments are ordered by
/// their place, whatever timeline they are of; what tells where timelines fork is kept.
pub(crate) fn is_before(file: &str, first_segment: &str) -> bool {
    let place = |name: &str| {
        let segment = name.get(..24).filter(|name| name.bytes().all(|b| b.is_ascii_hexdigit()))?;
        segment.get(8..).map(str::to_owned)
    };
    place(file).zip(place(first_segment)).is_some_and(|(file, first)| file < first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn segments_are_compared_by_their_place_and_histories_stay() {
        let first = "000000020000000000000010";
        for (file, expected) in [
            ("00000001000000000000000F", true),
            ("00000001000000000000000F.partial", true),
            ("000000010000000000000010", false),
            ("000000020000000100000000", false),
            ("00000002.history", false),
            ("status.json", false),
        ] {
            assert_eq!(is_before(file, first), expected, "{file}");
        }
    }

    proptest! {
        #[test]
        fn the_newest_and_the_newest_good_one_stay_and_no_more_go_than_are_too_many(
            given in prop::collection::vec((0_i64..40, any::<bool>(), any::<bool>()), 0..30)
        ) {
            let all: Vec<Candidate> = given.into_iter().enumerate().map(|(n, (day, is_dump, is_good))| Candidate {
                at: DateTime::from_timestamp(day * 86_400, 0).expect("in range"),
                name: format!("{n}"),
                kind: if is_dump { Kind::Dump } else { Kind::Base },
                is_good,
            }).collect();
            let goes = superfluous(&all);
            for kind in Kind::ALL {
                let of_kind: Vec<&Candidate> = all.iter().filter(|one| one.kind == kind).collect();
                let stay: Vec<&&Candidate> = of_kind.iter().filter(|one| !goes.contains(&one.name)).collect();
                prop_assert!(stay.len() >= kind.kept().min(of_kind.len()));
                prop_assert!(stay.len() <= kind.kept() + 1);
                for best in [of_kind.iter().max(), of_kind.iter().filter(|one| one.is_good).max()].into_iter().flatten() {
                    prop_assert!(!goes.contains(&best.name));
                }
            }
        }
    }
}
