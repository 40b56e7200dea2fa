//! Identities as types of their own, so that a task's id cannot be passed where an attempt's belongs.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            pub const fn from_uuid(id: Uuid) -> Self {
                Self(id)
            }
            pub const fn as_uuid(self) -> Uuid {
                self.0
            }
            /// The last 8 hex digits: what people see and type. The first digits of a UUIDv7 are its clock,
            /// so all tasks of one minute share them.
            pub fn short(self) -> String {
                short(self.0)
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }
        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::parse_str(text).map(Self)
            }
        }
    };
}

fn short(id: Uuid) -> String {
    let text = id.simple().to_string();
    text[24..].to_owned()
}

id!(
    /// A unit of work that a user asked for. UUIDv7.
    TaskId
);
id!(
    /// One execution of a task on one node. UUIDv7.
    AttemptId
);
id!(
    /// A stored file or directory. UUIDv7.
    ArtifactId
);
id!(
    /// A rule about how long artifacts are kept. UUIDv7.
    RuleId
);
id!(
    /// A compute machine as the platform sees it.
    NodeId
);
id!(
    /// One installation of the agent: made at its first start and kept in its data directory.
    InstanceId
);
id!(ProjectId);
id!(
    /// Who acted: a person's or program's API key, a node's token, or the platform itself.
    PrincipalId
);
id!(NodeTokenId);
id!(ApiKeyId);

/// The project every installation starts with. Its row is made by the first migration.
pub const DEFAULT_PROJECT: ProjectId = ProjectId::from_uuid(Uuid::from_u128(1));

/// A number that only grows per task and makes an older holder recognisable: cluster epoch x 2^32 + counter,
/// below 2^53 so that every JSON reader keeps it exact. A database restored from a backup gets a higher
/// epoch and so never reuses one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, Default)]
#[serde(transparent)]
pub struct Fence(i64);

impl Fence {
    /// No attempt was leased yet.
    pub const NONE: Fence = Fence(0);

    pub const fn from_i64(value: i64) -> Self {
        Self(value)
    }
    pub const fn get(self) -> i64 {
        self.0
    }
    /// The epoch that it was given in.
    pub const fn epoch(self) -> ClusterEpoch {
        ClusterEpoch((self.0 >> 32) as i32)
    }
    /// The fence of the next lease in the cluster's current epoch.
    pub fn next(self, epoch: ClusterEpoch) -> Self {
        Self((self.0 + 1).max((i64::from(epoch.0) << 32) + 1))
    }
}
impl fmt::Display for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
impl fmt::Debug for Fence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fence({}:{})", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

/// Raised by a restore from a backup. 1 at first start; at most 2^21 - 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterEpoch(pub i32);

/// The right that a message about an attempt claims: it counts only while the task's row names the same pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Held {
    pub attempt: AttemptId,
    pub fence: Fence,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fence_grows_within_an_epoch_and_jumps_with_a_restore() {
        let first = Fence::NONE.next(ClusterEpoch(1));
        assert_eq!(first.get(), (1 << 32) + 1);
        assert_eq!(first.next(ClusterEpoch(1)).get(), first.get() + 1);
        let after_restore = first.next(ClusterEpoch(2));
        assert!(after_restore > first);
        assert_eq!(after_restore.get() >> 32, 2);
        assert!(Fence::NONE.next(ClusterEpoch((1 << 21) - 1)).get() < 1 << 53);
    }

    #[test]
    fn people_see_the_random_end_of_an_id() {
        let id: TaskId = "01a20390-8054-7c41-9d2f-6b0e41c7a93d".parse().expect("a valid id");
        assert_eq!(id.short(), "41c7a93d");
    }
}
