//! Which entries of an ended attempt become an output: what its pattern takes, in the one form of an archive. What can't be stored is left out
//! and remembered, since it must never cost somebody a week of work.

use domain::spec::Matcher;
use std::{
    io::{self, Read, Write},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use transfer::{Archive, MAX_DEPTH, stays_within};

/// So much of what was left out, or of what is there instead, is told by name.
const MOST_NAMED: usize = 10;

/// What a pass over an attempt's files has met. Shared with whoever tells of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(Arc<Mutex<Met>>);

#[derive(Debug, Default)]
pub(crate) struct Met {
    /// Entries that were taken.
    pub(crate) taken: u64,
    /// They were chosen by a pattern, so that none is nothing.
    pub(crate) is_chosen: bool,
    left_out: Vec<String>,
    left_out_count: u64,
    /// In the directory that was looked through.
    names: Vec<String>,
    /// It broke off for want of whoever was asked, and may be begun again.
    pub(crate) away: Option<String>,
}

impl Seen {
    pub(crate) fn met(&self) -> MutexGuard<'_, Met> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something is there that is not stored.
    pub(crate) fn leave_out(&self, name: &[u8], why: &str) {
        let mut met = self.met();
        met.left_out_count += 1;
        if met.left_out.len() < MOST_NAMED {
            met.left_out.push(format!("{} is left out: {why}", show(name)));
        }
    }

    fn note_name(&self, name: &[u8]) {
        if name.contains(&b'/') {
            return;
        }
        let mut met = self.met();
        if met.names.len() < MOST_NAMED {
            met.names.push(show(name));
        }
    }

    /// Its pattern took no entry.
    pub(crate) fn has_nothing(&self) -> bool {
        let met = self.met();
        met.is_chosen && met.taken == 0
    }

    /// Lines for the log.
    pub(crate) fn left_out(&self) -> Vec<String> {
        let met = self.met();
        let more = met.left_out_count - met.left_out.len() as u64;
        let rest = (more > 0).then(|| format!("{more} more are left out"));
        met.left_out.iter().cloned().chain(rest).collect()
    }

    /// The first names of the directory that was looked through: `there is a, b`.
    pub(crate) fn names(&self) -> String {
        list(&self.met().names)
    }
}

/// What is in a directory, for a person.
pub(crate) fn list(names: &[String]) -> String {
    match names {
        [] => "it is empty".to_owned(),
        names => format!("there is {}", names[..names.len().min(MOST_NAMED)].join(", ")),
    }
}

/// A name for one line of text.
pub(crate) fn show(name: &[u8]) -> String {
    name.escape_ascii().to_string().replace("\\'", "'").replace("\\\"", "\"")
}

/// Writes the entries that are wanted, in the order in which they are met: names of a directory sorted, and a directory before what is in it.
pub(crate) struct Selection<W: Write> {
    archive: Archive<W>,
    /// None: all.
    matcher: Option<Matcher>,
    /// Names below the root that are not this attempt's to store, such as its inputs.
    without: Vec<Vec<u8>>,
    /// Directories that were written, down to the last entry.
    open: Vec<Vec<u8>>,
    pub(crate) seen: Seen,
}

impl<W: Write> Selection<W> {
    pub(crate) fn new(out: W, matcher: Option<Matcher>, without: Vec<Vec<u8>>, seen: Seen) -> io::Result<Self> {
        seen.met().is_chosen = matcher.is_some();
        Ok(Self { archive: Archive::new(out)?, matcher, without, open: Vec::new(), seen })
    }

    /// Whether an entry is wanted. Of one that is not, its content need not be read. `name`: below the root, without a slash at either end.
    pub(crate) fn wants(&self, name: &[u8]) -> bool {
        self.seen.note_name(name);
        if self.is_without(name) || !self.matcher.as_ref().is_none_or(|matcher| matcher.takes(name)) {
            return false;
        }
        if name.split(|byte| *byte == b'/').count() > MAX_DEPTH {
            self.seen.leave_out(name, "it lies too deep");
            return false;
        }
        true
    }

    /// Nothing below it is stored.
    pub(crate) fn is_without(&self, name: &[u8]) -> bool {
        let is_in =
            |dir: &Vec<u8>| name.strip_prefix(dir.as_slice()).is_some_and(|rest| rest.is_empty() || rest[0] == b'/');
        self.without.iter().any(is_in)
    }

    pub(crate) fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        self.enter(name)?;
        self.taken();
        Ok(())
    }

    pub(crate) fn link(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        let depth = name.iter().filter(|byte| **byte == b'/').count();
        if !stays_within(target, depth) {
            self.seen.leave_out(name, &format!("it is a link to {}, which leads out or may do so", show(target)));
            return Ok(());
        }
        self.enter(parent(name))?;
        self.taken();
        self.archive.link(name, target)
    }

    pub(crate) fn file(&mut self, name: &[u8], size: u64, is_executable: bool, content: impl Read) -> io::Result<()> {
        self.enter(parent(name))?;
        self.taken();
        self.archive.file(name, size, is_executable, content)
    }

    pub(crate) fn finish(self) -> io::Result<()> {
        self.archive.finish().map(drop)
    }

    fn taken(&self) {
        self.seen.met().taken += 1;
    }

    /// Writes the directories down to this one that were not written yet.
    fn enter(&mut self, dir: &[u8]) -> io::Result<()> {
        let ends = dir.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([dir.len()]);
        let levels: Vec<&[u8]> = ends.map(|end| &dir[..end]).filter(|level| !level.is_empty()).collect();
        let same = self.open.iter().zip(&levels).take_while(|(open, level)| open == *level).count();
        self.open.truncate(same);
        for level in &levels[same..] {
            self.archive.directory(level)?;
            self.open.push(level.to_vec());
        }
        Ok(())
    }
}

fn parent(name: &[u8]) -> &[u8] {
    &name[..name.iter().rposition(|byte| *byte == b'/').unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{collections::BTreeMap, fs, io::Cursor};
    use transfer::{Limits, Listed};

    fn select(pattern: Option<&str>, without: &[&str]) -> (Vec<u8>, Seen) {
        let (mut out, seen) = (Vec::new(), Seen::default());
        let matcher = pattern.map(|pattern| Matcher::new(pattern).expect("a pattern"));
        let without = without.iter().map(|name| name.as_bytes().to_vec()).collect();
        let mut selection = Selection::new(&mut out, matcher, without, seen.clone()).expect("begun");
        for (name, content) in [
            ("a.pt", "1"),
            ("x/", ""),
            ("x/b.txt", "2"),
            ("x/y/", ""),
            ("x/y/c.pt", "3"),
            ("z", "->../z"),
            ("zz", "->a.pt"),
        ] {
            let (name, is_dir) = (name.trim_end_matches('/').as_bytes(), name.ends_with('/'));
            if !selection.wants(name) {
                continue;
            }
            let written = match content.strip_prefix("->") {
                _ if is_dir => selection.directory(name),
                Some(target) => selection.link(name, target.as_bytes()),
                None => selection.file(name, content.len() as u64, false, content.as_bytes()),
            };
            written.expect("written");
        }
        selection.finish().expect("finished");
        (out, seen)
    }

    fn names(archive: &[u8]) -> Vec<String> {
        let listed: BTreeMap<Vec<u8>, Listed> =
            transfer::list(Cursor::new(archive), &Limits::default()).expect("an archive");
        listed.into_keys().map(|name| String::from_utf8(name).expect("text")).collect()
    }

    #[test]
    fn only_what_matches_is_stored_with_the_directories_that_lead_there() {
        assert_eq!(names(&select(Some("**/*.pt"), &[]).0), ["a.pt", "x", "x/y", "x/y/c.pt"]);
        assert_eq!(names(&select(Some("x"), &[]).0), ["x", "x/b.txt", "x/y", "x/y/c.pt"]);
        let (archive, seen) = select(Some("*.bin"), &[]);
        assert_eq!((names(&archive).len(), seen.met().taken), (0, 0));
        assert_eq!(seen.names(), "there is a.pt, x, z, zz");
    }

    #[test]
    fn a_link_that_leads_out_is_left_out_and_told() {
        let (archive, seen) = select(None, &["x/y"]);
        assert_eq!(names(&archive), ["a.pt", "x", "x/b.txt", "zz"]);
        assert_eq!(seen.left_out(), ["z is left out: it is a link to ../z, which leads out or may do so"]);
    }

    #[test]
    fn what_is_selected_is_byte_for_byte_what_a_directory_of_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir_all(dir.path().join("x/y")).expect("made");
        for (name, content) in [("a.pt", "1"), ("x/y/c.pt", "3")] {
            fs::write(dir.path().join(name), content).expect("written");
        }
        let mut packed = Vec::new();
        transfer::pack(dir.path(), &mut packed, &|_| {}).expect("packed");
        assert_eq!(select(Some("**/*.pt"), &[]).0, packed);
    }
}
