//! Which versions this build speaks, and how one is picked: server N talks to agents N and N-1.

use serde::{Deserialize, Serialize};

/// Versions a side can speak, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Versions {
    pub min: u32,
    pub max: u32,
}

pub const SUPPORTED: Versions = Versions { min: 1, max: 1 };

/// The newest version that both speak.
pub fn pick(ours: Versions, theirs: Versions) -> Option<u32> {
    let newest = ours.max.min(theirs.max);
    (newest >= ours.min.max(theirs.min)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_picked() {
        let v = |min, max| Versions { min, max };
        assert_eq!(pick(v(1, 2), v(1, 1)), Some(1));
        assert_eq!(pick(v(2, 3), v(1, 2)), Some(2));
        assert_eq!(pick(v(3, 3), v(1, 2)), None);
        assert_eq!(pick(v(1, 1), v(5, 2)), None);
    }
}
