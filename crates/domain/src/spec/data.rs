//! What a task finds before it starts, and what is kept of what it leaves: artifacts, by name.

use crate::{
    artifact::{ArtifactKind, ArtifactRef, Sha256Digest},
    ids::ArtifactId,
    is_default,
    outcome::{ExitFacts, FailureKind},
};
use globset::{GlobBuilder, GlobMatcher};
use serde::{Deserialize, Serialize};
use std::{ffi::OsStr, os::unix::ffi::OsStrExt, path::Path};

/// The most inputs of a task, and the most outputs.
pub const MOST_FILES: usize = 64;
/// What an agent says that brings inputs and takes outputs.
pub const FEATURE: &str = "artifacts";
/// What an agent says that keeps checkpoints of what runs.
pub const CHECKPOINTS_FEATURE: &str = "checkpoints";
/// Between two checkpoints, unless the task says otherwise.
pub(super) const DEFAULT_EVERY_MS: u64 = 10 * 60 * 1_000;
/// More often than this a checkpoint would mostly wait for the one before it.
pub(super) const LEAST_EVERY_MS: u64 = 10 * 1_000;
/// Of one task so many are kept: the newest, and the one before it for when the newest turns out to be damaged.
pub const CHECKPOINTS_KEPT: usize = 2;

/// An artifact that lies in its place before the task starts. It can be read and not changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// As the user named it.
    pub artifact: ArtifactRef,
    /// Where it lies, absolute. A file is this path itself, a directory's files are in it.
    pub path: String,
    /// What the name meant at submission. Exactly this is fetched, by every attempt, whatever is the newest then. None only before the
    /// platform has looked it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pinned: Option<PinnedArtifact>,
}

/// One version of an artifact, with what a reader compares its bytes with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PinnedArtifact {
    pub id: ArtifactId,
    pub name: String,
    pub version: u32,
    pub kind: ArtifactKind,
    /// Bytes as they are stored: of a directory those of its archive.
    pub size: u64,
    pub sha256: Sha256Digest,
}

/// What is stored of what the task leaves, once it has ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Absolute; `*`, `?`, `[...]` and `{a,b}` within a name, `**` for any directories between.
    pub path: String,
    /// Of the artifact that it becomes.
    pub name: String,
    #[serde(default, skip_serializing_if = "is_default")]
    pub on: OutputOn,
}

/// After which ends an output is stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutputOn {
    /// Only after success; then it must be there.
    #[default]
    Success,
    /// However it ended by itself, at its timeout or out of memory too; what is not there after a failure is no second failure.
    Always,
}

/// A directory that is stored again and again while the task runs, so that the next attempt, on whichever node, finds it as it was then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoints {
    /// Absolute. The task's own directory from before its start on: empty, or with what the newest checkpoint has.
    pub path: String,
    /// From the start, and from the end of one checkpoint to the beginning of the next.
    pub every_ms: u64,
}

impl Checkpoints {
    /// Whether the directory is stored once more after this end, for an attempt that may follow. Only when the process ended of its own accord: what
    /// was killed may have been in the middle of writing, and the checkpoint of before is known to be whole.
    pub fn is_due_at_end(exit: &ExitFacts) -> bool {
        // As a shell tells of a killed child. With 128 and the number of a request to stop (HUP, INT, TERM) many programs answer that by themselves.
        let tells_of_kill = |code: i32| (129..=159).contains(&code) && ![129, 130, 143].contains(&code);
        let is_own =
            exit.signal.is_none() && exit.not_started.is_none() && exit.code.is_some_and(|code| !tells_of_kill(code));
        is_own && !matches!(exit.failure(), None | Some(FailureKind::Cancelled))
    }
}

impl Output {
    /// Whether it is stored after this end. What was cancelled leaves nothing.
    pub fn is_due(&self, exit: &ExitFacts) -> bool {
        match (exit.failure(), self.on) {
            (None, _) => true,
            (Some(FailureKind::Cancelled), _) => false,
            (Some(_), on) => on == OutputOn::Always,
        }
    }

    /// The directories that its path names letter by letter, and what is looked for in them. None: the path is that of one file or
    /// directory.
    pub fn pattern(&self) -> (&str, Option<&str>) {
        let Some(wild) = self.path.find(is_wild) else { return (&self.path, None) };
        let slash = self.path[..wild].rfind('/').unwrap_or(0);
        (&self.path[..slash.max(1)], Some(&self.path[slash + 1..]))
    }
}

fn is_wild(c: char) -> bool {
    matches!(c, '*' | '?' | '[' | '{' | '\\')
}

/// Finds what a pattern means. A directory that matches is taken with all that is in it.
#[derive(Clone, Debug)]
pub struct Matcher(GlobMatcher);

impl Matcher {
    /// Errors: what is wrong with the pattern, for a person.
    pub fn new(pattern: &str) -> Result<Self, String> {
        let glob = GlobBuilder::new(pattern).literal_separator(true).backslash_escape(true).build();
        glob.map(|glob| Self(glob.compile_matcher())).map_err(|error| error.kind().to_string())
    }

    /// `name`: below the directory that the pattern begins in, without a slash at either end.
    pub fn takes(&self, name: &[u8]) -> bool {
        let ends = name.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([name.len()]);
        ends.into_iter().any(|end| self.0.is_match(Path::new(OsStr::from_bytes(&name[..end]))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(path: &str, on: OutputOn) -> Output {
        Output { path: path.to_owned(), name: "model".to_owned(), on }
    }

    #[test]
    fn a_pattern_begins_after_the_directories_that_have_no_wildcard() {
        for (path, root, pattern) in [
            ("/workspace/out", "/workspace/out", None),
            ("/workspace/out/**/*.pt", "/workspace/out", Some("**/*.pt")),
            ("/workspace/run-?/model.pt", "/workspace", Some("run-?/model.pt")),
            ("/*.log", "/", Some("*.log")),
        ] {
            assert_eq!(output(path, OutputOn::Success).pattern(), (root, pattern), "{path}");
        }
    }

    #[test]
    fn a_star_stays_within_a_directory_and_what_matches_is_taken_whole() {
        let takes = |pattern: &str, name: &str| Matcher::new(pattern).expect(pattern).takes(name.as_bytes());
        for (pattern, name) in [
            ("*.pt", "a.pt"),
            ("**/*.pt", "a.pt"),
            ("**/*.pt", "x/y/a.pt"),
            ("*", "dir/deep/file"),
            ("run-[12]/{a,b}.txt", "run-1/b.txt"),
            ("*.pt", ".hidden.pt"),
        ] {
            assert!(takes(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("*.pt", "x/a.pt"), ("**/*.pt", "a.pth"), ("run-[12]/a", "run-3/a"), ("a", "ab")] {
            assert!(!takes(pattern, name), "{pattern} {name}");
        }
        assert!(Matcher::new("**/*").expect("a pattern").takes(b"\xff\xfe/x"), "a name that is no text");
        assert!(Matcher::new("a[").is_err() && Matcher::new("{a").is_err());
    }

    #[test]
    fn an_output_is_stored_after_the_ends_that_it_names() {
        let exited = |code| ExitFacts { code: Some(code), ..ExitFacts::default() };
        let (success, always) = (output("/x", OutputOn::Success), output("/x", OutputOn::Always));
        assert!(success.is_due(&exited(0)) && always.is_due(&exited(0)));
        assert!(!success.is_due(&exited(1)) && always.is_due(&exited(1)));
        assert!(always.is_due(&ExitFacts { timed_out: true, ..exited(143) }));
        assert!(!always.is_due(&ExitFacts { cancelled: true, ..exited(0) }));
    }

    #[test]
    fn a_last_checkpoint_is_taken_of_what_ended_of_its_own_accord_and_may_be_run_again() {
        let exited = |code| ExitFacts { code: Some(code), ..ExitFacts::default() };
        assert!(Checkpoints::is_due_at_end(&exited(1)));
        assert!(Checkpoints::is_due_at_end(&ExitFacts { timed_out: true, ..exited(143) }));
        assert!(!Checkpoints::is_due_at_end(&exited(0)), "it needs no more");
        assert!(!Checkpoints::is_due_at_end(&ExitFacts { cancelled: true, ..exited(1) }));
        for killed in [ExitFacts { signal: Some(15), ..exited(143) }, exited(137), exited(139)] {
            assert!(!Checkpoints::is_due_at_end(&killed), "perhaps while it wrote");
        }
    }
}
