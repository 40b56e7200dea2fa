//! `unidesk artifact get`.

use super::{
    Named, Place, failed,
    fetch::{Fetch, own_name},
    find,
    progress::Interrupted,
    read_rate, read_size,
};
use crate::{commands::DONE, context::Context, exit, failure::Failure, render, style::Glyph, text::clean};
use api_types::artifact::Artifact;
use client::ArtifactDownload;
use domain::{
    artifact::{ArtifactKind, ArtifactState},
    quantity::show_bytes,
};
use serde_json::json;
use std::{
    fs,
    io::{self, BufRead, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
};
use transfer::{Content, TransferError, stream};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The bytes come from the object store, not through the server, and get their name only when their SHA-256 is right.
A file that was fetched in part goes on where it was; a directory is fetched anew.
Prints the path.

Examples:
  unidesk artifact get imagenet-mini --to /data/imagenet
  unidesk artifact get resnet@7
  unidesk artifact get shop-dump --to - | psql shop")]
pub(super) struct Args {
    #[command(flatten)]
    artifact: Named,
    /// Where to: for a file its path, or a directory to put it into; for a directory one that is new or empty; - for standard
    /// output. When left out: here, under its own name
    #[arg(long, value_name = "PATH")]
    to: Option<PathBuf>,
    /// Replace a file that is there
    #[arg(long, short)]
    force: bool,
    /// Bytes a second, at most: 10M
    #[arg(long, value_name = "RATE", value_parser = read_rate)]
    limit_rate: Option<u64>,
    /// Bytes that a directory may have, unpacked; as many as are free when left out
    #[arg(long, value_name = "SIZE", value_parser = read_size)]
    max_size: Option<u64>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let artifact = find(&server, &args.artifact.name, args.place.project.as_deref()).await?;
    let fetch =
        Fetch { context, server: &server, force: args.force, limit_rate: args.limit_rate, max_size: args.max_size };
    if args.to.as_deref() == Some(Path::new("-")) {
        return to_stdout(&fetch, &artifact).await;
    }
    content(&artifact)?;
    let target = target(&artifact, args.to.as_deref())?;
    match fetch.to(&artifact, &target).await? {
        Ok(()) => tell_path(context, &artifact, &target),
        Err(Interrupted) => Ok(ExitCode::from(exit::INTERRUPTED)),
    }
}

async fn to_stdout(fetch: &Fetch<'_>, artifact: &Artifact) -> Result<ExitCode, Failure> {
    let (out, content) = (&fetch.context.out, content(artifact)?);
    if out.is_json() {
        return Err(
            Failure::usage("standard output is the file's own").note("leave out -o json, or give another path: --to")
        );
    }
    let shown = fetch.shown(content);
    let (store, source) = (fetch.server.store(), ArtifactDownload::new(&fetch.server.client, artifact.id));
    let options = fetch.options();
    match shown.until(stream(&store, content, &source, &options, &*shown.counts, write_out)).await {
        Ok(Ok(())) => {}
        // The reader of stdout is gone, which ends it as it would end any program.
        Ok(Err(TransferError::Unwritable { source, .. })) if source.kind() == io::ErrorKind::BrokenPipe => {
            return Err(Failure::Closed);
        }
        Ok(Err(error @ TransferError::WrongDigest { .. })) => {
            let failure = Failure::new(exit::FAULT, error.to_string());
            return Err(failure.note("what was written to standard output is not to be used"));
        }
        Ok(Err(error)) => return Err(failed(error, fetch.server)),
        Err(Interrupted) => {
            let amount = shown.progress().amount();
            out.tell(Glyph::Warning, "stopped", &format!("after {amount}; nothing of it was kept"));
            return Ok(ExitCode::from(exit::INTERRUPTED));
        }
    }
    let (name, size) = (clean(&render::artifact::name(artifact)), show_bytes(content.size));
    shown.tell_done("fetched", &format!("{name}, {size} in {}, checked by SHA-256", shown.took()));
    Ok(DONE)
}

/// What is stored, once it is.
pub(super) fn content(artifact: &Artifact) -> Result<Content, Failure> {
    match (artifact.state, artifact.size, artifact.sha256) {
        (ArtifactState::Ready, Some(size), Some(sha256)) => Ok(Content { size, sha256 }),
        (state, ..) => {
            let why = match state {
                ArtifactState::Uploading => "is still uploaded: nobody can read it before all of it is there",
                ArtifactState::Corrupt => "is damaged: its bytes are not what they were",
                ArtifactState::Ready | ArtifactState::Expired | ArtifactState::Deleted => "was removed",
            };
            Err(Failure::new(exit::REFUSED, format!("{} {why}", render::artifact::name(artifact))))
        }
    }
}

/// The path that it gets.
fn target(artifact: &Artifact, to: Option<&Path>) -> Result<PathBuf, Failure> {
    let own = own_name(&artifact.file_name, &artifact.name);
    match (to, artifact.kind) {
        (None, _) => Ok(Path::new(".").join(own)),
        (Some(to), ArtifactKind::Directory) => Ok(to.to_owned()),
        (Some(to), ArtifactKind::File) if to.as_os_str().as_bytes().ends_with(b"/") => {
            fs::create_dir_all(to)?;
            Ok(to.join(own))
        }
        (Some(to), ArtifactKind::File) if to.is_dir() => Ok(to.join(own)),
        (Some(to), ArtifactKind::File) => Ok(to.to_owned()),
    }
}

fn write_out(incoming: &mut transfer::Incoming) -> Result<(), TransferError> {
    let unwritable = |source| TransferError::Unwritable { what: "standard output".to_owned(), source };
    let mut stdout = io::stdout().lock();
    loop {
        let piece = incoming.fill_buf().map_err(|_| TransferError::Broken("the transfer was stopped".to_owned()))?;
        let length = piece.len();
        if length == 0 {
            break;
        }
        stdout.write_all(piece).map_err(unwritable)?;
        incoming.consume(length);
    }
    stdout.flush().map_err(unwritable)
}

fn tell_path(context: &Context, artifact: &Artifact, target: &Path) -> Result<ExitCode, Failure> {
    if context.out.is_json() {
        context.out.json(&json!({"path": target.to_string_lossy(), "artifact": artifact}))?;
        return Ok(DONE);
    }
    // Byte for byte: a script uses it.
    let mut stdout = io::stdout().lock();
    stdout.write_all(target.as_os_str().as_bytes())?;
    stdout.write_all(b"\n")?;
    stdout.flush()?;
    Ok(DONE)
}
