//! Whether a commit is here with everything below it, so that nobody need be asked for it.

use super::tree::{GITLINK, named, open};
use domain::source::CommitId;
use git2::{ObjectType, Oid, Repository};
use std::{collections::HashSet, path::Path};

/// Is a commit here with everything below it?
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Whole {
        tree_id: String,
    },
    /// The commit is here, its files are not, or something can't be read.
    Damaged,
    /// The id is that of something else: a tag, a tree, a file.
    NotACommit {
        kind: &'static str,
    },
    Absent,
}

pub(super) async fn holds_commit(repository: &Path, commit: &CommitId) -> bool {
    look(repository, commit).await != Presence::Absent
}

/// Looks at the header of every object below the commit. Costs one look a file, and no network.
pub(super) async fn look(repository: &Path, commit: &CommitId) -> Presence {
    let (repository, commit) = (repository.to_owned(), commit.clone());
    let look = move || {
        let Ok(repository) = open(&repository) else { return Presence::Absent };
        let Ok(oid) = Oid::from_str(commit.as_str()) else { return Presence::Absent };
        match repository.odb().and_then(|odb| odb.read_header(oid)) {
            Ok((_, ObjectType::Commit)) => {}
            Ok((_, other)) => return Presence::NotACommit { kind: other.str() },
            Err(_) => return Presence::Absent,
        }
        let Ok(commit) = repository.find_commit(oid) else { return Presence::Damaged };
        match whole(&repository, commit.tree_id()) {
            Ok(()) => Presence::Whole { tree_id: commit.tree_id().to_string() },
            Err(_) => Presence::Damaged,
        }
    };
    tokio::task::spawn_blocking(look).await.unwrap_or(Presence::Damaged)
}

fn whole(repository: &Repository, root: Oid) -> Result<(), git2::Error> {
    let odb = repository.odb()?;
    // The same tree may hang in many places.
    let mut seen = HashSet::from([root]);
    let mut trees = vec![root];
    while let Some(oid) = trees.pop() {
        for (oid, mode) in repository.find_tree(oid)?.iter().map(named) {
            if mode & 0o170_000 == GITLINK || !seen.insert(oid) {
                continue;
            }
            match mode & 0o170_000 {
                0o040_000 => trees.push(oid),
                _ => {
                    odb.read_header(oid)?;
                }
            }
        }
    }
    Ok(())
}
