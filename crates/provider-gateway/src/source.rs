//! Pinned commits from Git.
