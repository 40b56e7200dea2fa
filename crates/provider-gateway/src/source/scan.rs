//! Which trees are taken. A tree comes from a stranger: before one byte of it is written, every name and every link in it is
//! looked at.

use super::tree::{EntryKind, Reader, named};
use crate::executor::Failure;
use domain::quantity::show_bytes;
use git2::Oid;
use std::collections::{HashMap, HashSet, VecDeque};

/// A handful of small objects can describe more files than a disk has room for.
const MAX_ENTRIES: usize = 1_000_000;
/// What Linux takes as one name, and nearly what it takes as one path.
const MAX_NAME_BYTES: usize = 255;
const MAX_PATH_BYTES: usize = 4_000;
/// Of submodules and of LFS pointers each.
const MAX_NOTES: usize = 20;
/// As many links as the kernel follows.
const MAX_LINKS_FOLLOWED: usize = 40;
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/v1\n";

/// The paths of a tree, every directory before what is in it.
pub(super) struct Listing {
    pub(super) entries: Vec<Entry>,
    /// Sentences about what a user may miss in it.
    pub(super) notes: Vec<String>,
}

pub(super) struct Entry {
    /// Relative to the root, parts joined by `/`; not necessarily UTF-8.
    pub(super) path: Vec<u8>,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    /// Also a submodule, which leaves an empty one, as a plain clone does.
    Directory,
    File {
        oid: Oid,
        executable: bool,
    },
    Symlink {
        target: Vec<u8>,
    },
}

pub(super) fn list(reader: &Reader) -> Result<Listing, Failure> {
    let mut entries = Vec::new();
    let mut links = HashMap::new();
    let mut submodules = Vec::new();
    let mut pointers = Vec::new();
    let mut folders = vec![(Vec::new(), reader.root()?)];
    while let Some((folder, tree)) = folders.pop() {
        let mut names = HashSet::new();
        for entry in &tree {
            reader.still_wanted()?;
            let name = entry.name_bytes().to_vec();
            let path = join(&folder, &name);
            if let Some(why) = bad_name(&name, &path) {
                return Err(reader.refused(&format!("the path {} {why}", show(&path))));
            }
            if !names.insert(name) {
                return Err(reader.refused(&format!("the path {} is in it twice", show(&path))));
            }
            if entries.len() == MAX_ENTRIES {
                return Err(reader.refused("it has more than 1,000,000 files"));
            }
            let (oid, mode) = named(entry);
            let kind = match reader.kind(oid, mode)? {
                EntryKind::Submodule => {
                    submodules.push(format!("submodule {} (at {:.8}) is not fetched", plain(&path), oid.to_string()));
                    Kind::Directory
                }
                EntryKind::Directory => {
                    folders.push((path.clone(), reader.git(reader.repository.find_tree(oid))?));
                    Kind::Directory
                }
                EntryKind::Symlink => {
                    let target = reader.blob(oid)?.content().to_vec();
                    if target.is_empty() || target.len() > MAX_PATH_BYTES || target.contains(&0) {
                        return Err(reader.refused(&format!("the link {} has no usable target", show(&path))));
                    }
                    links.insert(path.clone(), target.clone());
                    Kind::Symlink { target }
                }
                EntryKind::File { executable, bytes } => {
                    if let Some(size) = lfs_size(reader, oid, bytes)? {
                        pointers.push(format!(
                            "{} is a Git LFS pointer ({}), not the file",
                            plain(&path),
                            show_bytes(size)
                        ));
                    }
                    Kind::File { oid, executable }
                }
            };
            entries.push(Entry { path, kind });
        }
    }
    let mut leaving: Vec<_> = links.iter().filter(|(path, _)| leaves_tree(&links, path)).collect();
    leaving.sort();
    if let Some((path, target)) = leaving.first() {
        return Err(reader.refused(&format!(
            "the link {} points to {}, outside of the tree; only links that stay inside are taken",
            show(path),
            show(target)
        )));
    }
    let notes = [cut(submodules, "submodules"), cut(pointers, "Git LFS pointers")].concat();
    Ok(Listing { entries, notes })
}

fn cut(mut notes: Vec<String>, what: &str) -> Vec<String> {
    notes.sort();
    if notes.len() > MAX_NOTES {
        let more = notes.len() - MAX_NOTES;
        notes.truncate(MAX_NOTES);
        notes.push(format!("and {more} more {what}"));
    }
    notes
}

fn lfs_size(reader: &Reader, oid: Oid, bytes: u64) -> Result<Option<u64>, Failure> {
    // The format bounds a pointer at 1,024 bytes.
    if !(LFS_POINTER.len() as u64..1_024).contains(&bytes) {
        return Ok(None);
    }
    let blob = reader.blob(oid)?;
    let Some(fields) = blob.content().strip_prefix(LFS_POINTER) else { return Ok(None) };
    let fields = String::from_utf8_lossy(fields);
    Ok(fields.lines().find_map(|line| line.strip_prefix("size ")?.parse().ok()))
}

fn join(folder: &[u8], name: &[u8]) -> Vec<u8> {
    if folder.is_empty() { name.to_vec() } else { [folder, b"/", name].concat() }
}

/// Why a name is not taken, as the rest of a sentence.
fn bad_name(name: &[u8], path: &[u8]) -> Option<&'static str> {
    // `git~1` is how a case-folding FAT calls `.git`: refused with its kin, lest such a tree be copied on.
    if name.eq_ignore_ascii_case(b".git") || name.eq_ignore_ascii_case(b"git~1") {
        Some("could be taken for Git's own directory")
    } else if name == b".." || name == b"." || name.is_empty() || name.contains(&b'/') {
        Some("is not a plain path")
    } else if name.iter().any(u8::is_ascii_control) || name.contains(&b'\\') {
        Some("has a control character or a backslash in it")
    } else if name.len() > MAX_NAME_BYTES || path.len() > MAX_PATH_BYTES {
        Some("is too long")
    } else {
        None
    }
}

/// Follows a link as the kernel would, through the tree's other links. Looking at the text alone is not enough: `up -> ..`
/// is harmless in `a/`, and so is `a/up/x`, yet `a/up/..` is outside.
fn leaves_tree(links: &HashMap<Vec<u8>, Vec<u8>>, link: &[u8]) -> bool {
    let mut ahead: VecDeque<&[u8]> = link.split(|b| *b == b'/').collect();
    let mut at: Vec<&[u8]> = Vec::new();
    let mut followed = 0;
    while let Some(part) = ahead.pop_front() {
        match part {
            b"" | b"." => {}
            b".." => {
                if at.pop().is_none() {
                    return true;
                }
            }
            name => {
                at.push(name);
                let Some(target) = links.get(&at.join(&b'/')) else { continue };
                if target.starts_with(b"/") {
                    return true;
                }
                followed += 1;
                if followed > MAX_LINKS_FOLLOWED {
                    // A loop, or too long a chain: nothing can be opened through it.
                    return false;
                }
                at.pop();
                for part in target.split(|b| *b == b'/').rev() {
                    ahead.push_front(part);
                }
            }
        }
    }
    false
}

/// A stranger's path inside a sentence, quoted and escaped.
fn show(path: &[u8]) -> String {
    let text = String::from_utf8_lossy(path);
    let cut: String = text.chars().take(120).collect();
    format!("{cut:?}{}", if cut.len() < text.len() { "..." } else { "" })
}

/// The same without quotes; names that got this far have no control characters of ASCII.
fn plain(path: &[u8]) -> String {
    show(path).trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_mean_something_to_git_or_to_a_terminal_are_refused() {
        for bad in
            [".git", ".GIT", ".giT", "git~1", "GIT~1", "..", ".", "", "a/b", "a\r", "a\n", "\x1b[2J", "a\\b", "a\x7f"]
        {
            assert!(bad_name(bad.as_bytes(), bad.as_bytes()).is_some(), "{bad:?}");
        }
        assert!(bad_name(&[b'x'; 256], b"x").is_some());
        for good in [".gitignore", ".github", "git~2", "...", "-rf", "a b", "größe", "\u{202e}"] {
            assert_eq!(bad_name(good.as_bytes(), good.as_bytes()), None, "{good:?}");
        }
        assert_eq!(bad_name(b"latin1-\xe4", b"latin1-\xe4"), None);
    }

    #[test]
    fn links_are_followed_through_links() {
        let tree = |links: &[(&str, &str)]| -> HashMap<Vec<u8>, Vec<u8>> {
            links.iter().map(|(path, target)| (path.as_bytes().to_vec(), target.as_bytes().to_vec())).collect()
        };
        for inside in [
            &[("x", "a/b")][..],
            &[("a/b/x", "../..")],
            &[("a/x", "../missing/y")],
            &[("x", ".")],
            &[("a", "b"), ("b", "a")],
            &[("x", "a//./b/")],
        ] {
            let links = tree(inside);
            assert!(links.keys().all(|link| !leaves_tree(&links, link)), "{inside:?}");
        }
        for outside in [
            &[("x", "/etc/passwd")][..],
            &[("x", "..")],
            &[("a/x", "../../b")],
            &[("x", "missing/../../etc")],
            &[("a/b/up", "../.."), ("x", "a/b/up/..")],
            &[("p/q", "../r"), ("r", "s/.."), ("x", "p/q/../..")],
        ] {
            let links = tree(outside);
            assert!(links.keys().any(|link| leaves_tree(&links, link)), "{outside:?}");
        }
    }
}
