//! `unidesk artifact get`.

use super::{
    Named, Place, failed, find,
    progress::{Counts, Interrupted, Shown},
    read_rate, read_size,
};
use crate::{
    commands::DONE,
    context::Context,
    exit,
    failure::Failure,
    render,
    style::Glyph,
    text::{clean, plural},
};
use api_types::artifact::Artifact;
use client::ArtifactDownload;
use domain::{
    artifact::{ArtifactKind, ArtifactState, Sha256Digest},
    quantity::show_bytes,
};
use serde_json::json;
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, BufRead, Read, Write},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};
use transfer::{Content, Limits, Options, Store, TransferError, stream, to_directory, to_file};

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
    let out = &context.out;
    let artifact = find(&server, &args.artifact.name, args.place.project.as_deref()).await?;
    let content = content(&artifact)?;
    let is_stdout = args.to.as_deref() == Some(Path::new("-"));
    if is_stdout && out.is_json() {
        return Err(
            Failure::usage("standard output is the file's own").note("leave out -o json, or give another path: --to")
        );
    }
    let target = target(&artifact, args.to.as_deref());
    let shown = Shown {
        out,
        counts: Arc::<Counts>::default(),
        total: Some(content.size),
        is_packed: false,
        word: "fetching",
        began: Instant::now(),
    };
    let (store, source) = (Store::new(), ArtifactDownload::new(&server.client, artifact.id));
    let options = Options { limit: args.limit_rate, ..Options::default() };
    let name = clean(&render::artifact::name(&artifact));
    let target = if is_stdout { PathBuf::from("-") } else { target? };
    if !is_stdout && artifact.kind == ArtifactKind::File {
        match same(&target, content).await? {
            There::Same => {
                shown.tell_done("there", &format!("{name} is there already, checked by SHA-256"));
                return tell_path(context, &artifact, &target);
            }
            There::Other if !args.force => {
                let detail = format!("{} is there, and is another file", target.display());
                return Err(
                    Failure::new(exit::REFUSED, detail).note("to replace it: --force; or give another path: --to")
                );
            }
            There::Other | There::Nothing => {}
        }
    }
    let fetching = async {
        let observer = &*shown.counts;
        if is_stdout {
            return stream(&store, content, &source, &options, observer, to_stdout).await.map(|()| None);
        }
        match artifact.kind {
            ArtifactKind::File => to_file(&store, content, &target, &source, &options, observer).await.map(|()| None),
            ArtifactKind::Directory => {
                let limits = Limits { bytes: args.max_size, ..Limits::default() };
                to_directory(&store, content, &target, limits, &source, &options, observer).await.map(Some)
            }
        }
    };
    let unpacked = match shown.until(fetching).await {
        Ok(Ok(unpacked)) => unpacked,
        // The reader of stdout is gone, which ends it as it would end any program.
        Ok(Err(TransferError::Unwritable { source, .. }))
            if is_stdout && source.kind() == io::ErrorKind::BrokenPipe =>
        {
            return Err(Failure::Closed);
        }
        Ok(Err(error @ TransferError::WrongDigest { .. })) if is_stdout => {
            let failure = Failure::new(exit::FAULT, error.to_string());
            return Err(failure.note("what was written to standard output is not to be used"));
        }
        Ok(Err(error)) => return Err(failed(error, &server)),
        Err(Interrupted) => {
            let how = match artifact.kind {
                ArtifactKind::File if !is_stdout => "what is written of it is kept, and the same command goes on there",
                _ => "nothing of it was kept",
            };
            out.tell(Glyph::Warning, "stopped", &format!("after {}; {how}", shown.progress().amount()));
            return Ok(ExitCode::from(130));
        }
    };
    let size = match unpacked {
        Some(unpacked) => format!(
            "{}, {}",
            plural(unpacked.entries, "entry").replace("entrys", "entries"),
            show_bytes(unpacked.bytes)
        ),
        None => show_bytes(content.size),
    };
    shown.tell_done("fetched", &format!("{name}, {size} in {}, checked by SHA-256", shown.took()));
    if is_stdout { Ok(DONE) } else { tell_path(context, &artifact, &target) }
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
    // A server's word is no reason to write anywhere else.
    let file_name = artifact.file_name.as_str();
    let is_plain = !file_name.is_empty() && !file_name.contains(['/', '\0']) && !matches!(file_name, "." | "..");
    let own = if is_plain { file_name } else { &artifact.name };
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

enum There {
    Nothing,
    Same,
    Other,
}

/// What stands at the target.
async fn same(target: &Path, content: Content) -> Result<There, Failure> {
    let target = target.to_owned();
    let looking = tokio::task::spawn_blocking(move || match fs::symlink_metadata(&target) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(There::Nothing),
        Err(error) => Err(error),
        Ok(meta) if !meta.is_file() || meta.len() != content.size => Ok(There::Other),
        Ok(_) => {
            let (mut file, mut hasher, mut buffer) = (File::open(&target)?, Sha256::new(), vec![0; 1 << 20]);
            loop {
                match file.read(&mut buffer)? {
                    0 => break,
                    read => hasher.update(&buffer[..read]),
                }
            }
            let found = Sha256Digest(hasher.finalize().into());
            Ok(if found == content.sha256 { There::Same } else { There::Other })
        }
    });
    Ok(looking.await.map_err(io::Error::other)??)
}

fn to_stdout(incoming: &mut transfer::Incoming) -> Result<(), TransferError> {
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
