//! What a process has left in its directory. The files are another user's, and may be anything: read with the agent's own rights, and nothing
//! that leads out of the directory is followed.

use super::{
    scratch::below_workspace,
    state::Record,
    tree::{Entry, names, open_beneath, open_root, walk},
};
use crate::{
    artifacts::{
        outputs::{Found, Left, Unread},
        selection::{Seen, Selection, list, show},
    },
    executor::{Failure, Job},
};
use domain::{
    artifact::ArtifactKind,
    outcome::FailureKind,
    spec::{Matcher, Output},
};
use rustix::{
    fd::{AsFd, OwnedFd},
    fs::{FileType, Mode, OFlags, fstat, openat, readlinkat},
    io::Errno,
};
use std::{
    fs::File,
    io::{self, BufReader, Write},
    path::{Path, PathBuf},
};
use transfer::{MAX_DEPTH, Source, TransferError};

/// tar copies in small pieces.
const BUFFER: usize = 256 << 10;

pub(super) async fn look(job: &Job, output: &Output) -> Result<Left, Unread> {
    let Some(record) = Record::read(&job.dir) else {
        return Err(Failure::node("The attempt's directory is gone, and its outputs with it.").into());
    };
    let without = inputs_below(job, output);
    let output = output.clone();
    Ok(super::blocking(move || find(&record.work(), &output, without)).await??)
}

/// The task's inputs below the directory that is looked through.
fn inputs_below(job: &Job, output: &Output) -> Vec<Vec<u8>> {
    let root = format!("{}/", output.pattern().0.trim_end_matches('/'));
    let below = job.spec.inputs.iter().filter_map(|input| input.path.strip_prefix(&root));
    below.map(|name| name.as_bytes().to_vec()).collect()
}

fn find(work: &Path, output: &Output, without: Vec<Vec<u8>>) -> Result<Left, Failure> {
    let failed = |why: String| Failure::new(FailureKind::OutputFailed, why);
    let unreadable = |error: Errno| match error {
        Errno::XDEV | Errno::LOOP => failed(format!(
            "the output {} ({}) is a link that leads out of the task's directory, or lies behind one",
            output.path, output.name
        )),
        error => failed(format!("the output {} ({}) can't be read: {error}", output.path, output.name)),
    };
    let (root, pattern) = output.pattern();
    let below = below_workspace(root).ok_or_else(|| failed(format!("{root} lies outside of the workspace")))?;
    let work = open_root(work)?;
    let looked = open_beneath(work.as_fd(), &below, OFlags::PATH);
    let stat = match looked.and_then(fstat) {
        Ok(stat) => stat,
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Left::Nothing { instead: instead(&work, &below) }),
        Err(error) => return Err(unreadable(error)),
    };
    let file_name = root.rsplit('/').next().filter(|name| !name.is_empty()).unwrap_or(&output.name).to_owned();
    // What has become a pipe since is not waited for.
    let open =
        |flags| open_beneath(work.as_fd(), &below, OFlags::RDONLY | OFlags::NONBLOCK | flags).map_err(unreadable);
    let what = output.path.clone();
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if pattern.is_none() => {
            let file = File::from(open(OFlags::empty())?);
            let size = Some(stat.st_size as u64);
            let source = Source::File { file, path: PathBuf::from(what) };
            Ok(Left::Found(Found { kind: ArtifactKind::File, size, file_name, source, seen: Seen::default() }))
        }
        FileType::Directory => {
            let (dir, seen) = (open(OFlags::DIRECTORY)?, Seen::default());
            let matcher = pattern.map(Matcher::new).transpose().map_err(failed)?;
            let met = seen.clone();
            let source = Source::Written(Box::new(move |out| {
                pack(dir, out, matcher, without, met).map_err(|source| TransferError::Unreadable { what, source })
            }));
            Ok(Left::Found(Found { kind: ArtifactKind::Directory, size: None, file_name, source, seen }))
        }
        _ if pattern.is_some() => Ok(Left::Nothing { instead: format!("{root} is no directory") }),
        _ => Err(failed(format!("the output {what} ({}) is neither a file nor a directory", output.name))),
    }
}

/// What is in the nearest directory that exists.
fn instead(work: &OwnedFd, path: &Path) -> String {
    for level in path.ancestors() {
        let Ok(dir) = open_beneath(work.as_fd(), level, OFlags::RDONLY | OFlags::DIRECTORY) else { continue };
        let names: Vec<String> =
            names(dir.as_fd()).unwrap_or_default().into_iter().rev().map(|name| show(&name)).collect();
        let place = Path::new(super::WORKSPACE).join(level);
        return format!("in {} {}", place.display().to_string().trim_end_matches('/'), list(&names));
    }
    "its directory can't be read".to_owned()
}

/// Packs what lies in a directory, in the one form of an archive.
pub(super) fn pack(
    dir: OwnedFd,
    out: &mut dyn Write,
    matcher: Option<Matcher>,
    without: Vec<Vec<u8>>,
    seen: Seen,
) -> io::Result<()> {
    let mut selection = Selection::new(out, matcher, without, seen)?;
    walk(dir, &mut |entry| {
        if selection.is_without(entry.name) {
            return Ok(false);
        }
        if selection.wants(entry.name) {
            add(&mut selection, entry)?;
        }
        Ok(true)
    })?;
    selection.finish()
}

fn add(selection: &mut Selection<&mut dyn Write>, entry: &Entry<'_>) -> io::Result<()> {
    let no = |selection: &Selection<_>, what| {
        selection.seen.leave_out(entry.name, &format!("it is {what}"));
        Ok(())
    };
    match entry.kind {
        FileType::Directory => {
            if entry.name.split(|byte| *byte == b'/').count() == MAX_DEPTH {
                selection.seen.leave_out(entry.name, "what is in it lies too deep");
            }
            selection.directory(entry.name)
        }
        FileType::Symlink => {
            let target = readlinkat(entry.parent, entry.last, Vec::new())?;
            selection.link(entry.name, target.as_bytes())
        }
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let file = openat(entry.parent, entry.last, flags, Mode::empty())?;
            let stat = fstat(&file)?;
            if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
                return no(selection, "no file any more");
            }
            let (size, is_executable) = (stat.st_size as u64, stat.st_mode & 0o100 != 0);
            let length = usize::try_from(size).unwrap_or(BUFFER).clamp(512, BUFFER);
            selection.file(entry.name, size, is_executable, BufReader::with_capacity(length, File::from(file)))
        }
        FileType::Fifo => no(selection, "a named pipe"),
        FileType::Socket => no(selection, "a socket"),
        _ => no(selection, "a device"),
    }
}
