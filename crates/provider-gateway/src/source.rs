//! Pinned commits from Git: fetched into a cache by the hardened `git` command, read and written out by libgit2.
//!
//! Begin at [`SourceCache::ensure`]. What comes out is a [`Fetched`], and its [`Tree`] is the only way to the files: there is
//! no checkout, so hooks, filters, attributes and submodules have nothing to hook into.

mod askpass;
mod cache;
mod checkout;
mod dockerfile;
mod fetch;
mod git;
mod policy;
mod presence;
mod scan;
mod tree;
mod verdict;

pub use cache::{CachedRepository, Eviction, Fetched, SourceCache};
pub use checkout::TarOptions;
pub use dockerfile::MAX_DOCKERFILE_BYTES;
pub use policy::{Credential, Secret, SourcePolicy};
pub use tree::{EntryKind, Reader, Tree};

use std::fmt;

/// Which of a task's two repositories is meant; every sentence about one says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Code,
    Environment,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Code => "code",
            Self::Environment => "environment",
        })
    }
}
