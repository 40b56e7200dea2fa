//! `unidesk artifact put`.

use super::{
    failed,
    progress::{Interrupted, Shown},
    read_rate,
};
use crate::{
    commands::{DONE, run::read_pair},
    context::{Context, OrTell, Server},
    exit,
    failure::Failure,
    render,
    style::Glyph,
    text::clean,
};
use api_types::artifact::{Artifact, CompleteArtifact, CreateArtifact, Upload};
use client::{ArtifactUpload, ClientError};
use domain::{
    artifact::{ArtifactKind, ArtifactState, is_artifact_name},
    quantity::show_bytes,
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    os::unix::{ffi::OsStrExt, fs::MetadataExt},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Instant,
};
use transfer::{Observer, Options, PartSizes, Source, TransferError, patiently, survey, upload};

/// Uploads that are begun anew because what was sent is not what was announced: a file changed in between, or the store lost a part.
const ROUNDS: u32 = 3;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
The bytes go to the object store, not through the server. Every part and the whole are compared with their SHA-256.
Killed, interrupted or cut off in the middle? The same command goes on where it was, for a day.
Of a directory that was put before under this name only what changed is sent, in pieces of some megabytes.

A directory is stored as one archive: files, directories, links within it, and whether a file is executable.
Prints the name with its version, the digest and the size.

Examples:
  unidesk artifact put ./imagenet-mini --name imagenet-mini --label split=train
  unidesk artifact put model.pt --name resnet --limit-rate 10M
  pg_dump shop | unidesk artifact put - --name shop-dump")]
pub(super) struct Args {
    /// A file, a directory, or - for standard input
    path: PathBuf,
    /// What it is called; each artifact of this name gets the next version
    #[arg(long, value_parser = read_name)]
    name: String,
    /// A label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = read_pair)]
    label: Vec<(String, String)>,
    /// The project it belongs to
    #[arg(long)]
    project: Option<String>,
    /// What a browser is told that it is: text/csv
    #[arg(long, value_name = "TYPE")]
    media_type: Option<String>,
    /// No rule removes it
    #[arg(long)]
    pin: bool,
    /// Bytes a second, at most: 10M
    #[arg(long, value_name = "RATE", value_parser = read_rate)]
    limit_rate: Option<u64>,
}

fn read_name(text: &str) -> Result<String, String> {
    if is_artifact_name(text) {
        return Ok(text.to_owned());
    }
    Err(domain::artifact::BadArtifactRef::Name.to_string())
}

/// What is put, and how it is known again.
struct Content {
    path: PathBuf,
    kind: ArtifactKind,
    /// Bytes that are stored. None: not known before its end.
    size: Option<u64>,
    /// Bytes that are read, for the progress.
    total: Option<u64>,
    file_name: Option<String>,
    /// Changes whenever the content may have changed. None: it can be read only once.
    state: Option<String>,
}

impl Content {
    /// Looks at it; of a directory at everything that is in it.
    fn look(path: &Path) -> Result<Self, TransferError> {
        if path == Path::new("-") {
            let kind = ArtifactKind::File;
            return Ok(Self { path: path.to_owned(), kind, size: None, total: None, file_name: None, state: None });
        }
        let unreadable = |source| TransferError::Unreadable { what: path.display().to_string(), source };
        let meta = fs::metadata(path).map_err(unreadable)?;
        let whole = fs::canonicalize(path).map_err(unreadable)?;
        // Only a name that every system takes.
        let is_plain = |name: &&str| name.len() <= 255 && !name.chars().any(char::is_control);
        let file_name = whole.file_name().and_then(|name| name.to_str()).filter(is_plain).map(str::to_owned);
        if meta.is_dir() {
            let survey = survey(path)?;
            return Ok(Self {
                path: path.to_owned(),
                kind: ArtifactKind::Directory,
                size: None,
                total: Some(survey.bytes),
                file_name,
                state: Some(format!("{survey:?}")),
            });
        }
        // A pipe or a device has no size; what comes out of it comes once.
        let is_file = meta.is_file();
        Ok(Self {
            path: path.to_owned(),
            kind: ArtifactKind::File,
            size: is_file.then_some(meta.len()),
            total: is_file.then_some(meta.len()),
            file_name,
            state: is_file.then(|| state(&meta)),
        })
    }

    fn open(&self) -> Result<Source, TransferError> {
        if self.path == Path::new("-") {
            return Ok(Source::Reader { reader: Box::new(std::io::stdin()), name: "standard input".to_owned() });
        }
        if self.kind == ArtifactKind::Directory {
            return Ok(Source::Directory(self.path.clone()));
        }
        let unreadable = |source| TransferError::Unreadable { what: self.path.display().to_string(), source };
        let file = File::open(&self.path).map_err(unreadable)?;
        let is_changed =
            self.state.as_ref().is_some_and(|before| file.metadata().is_ok_and(|now| state(&now) != *before));
        if is_changed {
            return Err(TransferError::Changed { what: self.path.display().to_string() });
        }
        Ok(match self.size {
            Some(_) => Source::File { file, path: self.path.clone() },
            None => Source::Reader { reader: Box::new(file), name: self.path.display().to_string() },
        })
    }

    /// The same for the same content put to the same server with the same words: the upload of before goes on.
    fn key(&self, server: &Server, wanted: &CreateArtifact) -> Option<String> {
        let state = self.state.as_ref()?;
        let path = fs::canonicalize(&self.path).ok()?;
        let mut hasher = Sha256::new();
        let body = serde_json::to_vec(wanted).unwrap_or_default();
        for part in [server.connection.url.as_bytes(), &body, path.as_os_str().as_bytes(), state.as_bytes()] {
            hasher.update((part.len() as u64).to_be_bytes());
            hasher.update(part);
        }
        let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        Some(format!("put-{hex}"))
    }
}

/// Of a file, by what is known without reading it.
fn state(meta: &fs::Metadata) -> String {
    format!("{} {} {} {}", meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino())
}

pub(super) async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let out = &context.out;
    let path = args.path.clone();
    if path == Path::new("-") && out.stdin_is_terminal {
        return Err(Failure::usage("standard input is this terminal")
            .note("give it something: ... | unidesk artifact put - --name NAME"));
    }
    out.redraw(&format!("looking at {}", clean(&path.display().to_string())));
    let looking = tokio::task::spawn_blocking(move || Content::look(&path));
    let content = looking.await.map_err(std::io::Error::other)?.map_err(|error| failed(error, &server))?;
    let media_type =
        args.media_type.or_else(|| (content.kind == ArtifactKind::Directory).then(|| "application/zstd".to_owned()));
    let wanted = CreateArtifact {
        name: args.name,
        kind: content.kind,
        size: content.size,
        media_type,
        file_name: content.file_name.clone(),
        labels: args.label.into_iter().collect(),
        project: args.project,
        pinned: args.pin,
    };
    let shown = Shown {
        out,
        counts: Arc::default(),
        total: content.total,
        is_packed: content.kind == ArtifactKind::Directory,
        word: "sending",
        began: Instant::now(),
    };
    let options = Options { limit: args.limit_rate, ..Options::default() };
    let put = Put { shown: &shown, server: &server, options, content, wanted };
    let artifact = match shown.until(put.put()).await {
        Ok(artifact) => artifact?,
        Err(Interrupted) => {
            let how = match put.content.state {
                Some(_) => "the same command goes on there, for a day",
                None => "what is stored of it is deleted within a day",
            };
            out.tell(Glyph::Warning, "stopped", &format!("after {}; {how}", shown.progress().amount()));
            return Ok(ExitCode::from(exit::INTERRUPTED));
        }
    };
    if out.is_json() {
        out.json(&artifact)?;
    } else {
        out.data(&render::artifact::put(&artifact))?;
    }
    Ok(DONE)
}

struct Put<'a> {
    shown: &'a Shown<'a>,
    server: &'a Server,
    options: Options,
    content: Content,
    wanted: CreateArtifact,
}

impl Put<'_> {
    async fn put(&self) -> Result<Artifact, Failure> {
        let mut key = self.content.key(self.server, &self.wanted);
        let mut round = 0;
        loop {
            round += 1;
            let upload = self.server.client.create_artifact(&self.wanted, key.as_deref()).await.or_tell(self.server)?;
            if upload.artifact.state == ArtifactState::Ready {
                let name = clean(&render::artifact::name(&upload.artifact));
                self.shown.tell_done("there", &format!("this content was put before: {name}"));
                return Ok(upload.artifact);
            }
            let error = match self.send(&upload).await {
                Ok(artifact) => {
                    let (took, name) = (self.shown.took(), clean(&artifact.name));
                    self.shown.tell_done(
                        "ready",
                        &format!("after {took}, checked by SHA-256.  Fetch it: unidesk artifact get {name}"),
                    );
                    return Ok(artifact);
                }
                Err(error) => error,
            };
            // What can be read a second time is put anew: as another upload where the one of before has other content.
            let is_again = self.content.state.is_some() && round < ROUNDS;
            match problem_of(&error) {
                Some("upload-conflict" | "upload-ended") if is_again => key = key.map(|key| format!("{key}-{round}")),
                Some("upload-incomplete") if is_again => {}
                _ => return Err(failed(error, self.server)),
            }
            self.shown.counts.begin_anew();
        }
    }

    async fn send(&self, announced: &Upload) -> Result<Artifact, TransferError> {
        let parts = ArtifactUpload::new(&self.server.client, announced.artifact.id);
        let observer: Arc<dyn Observer> = self.shown.counts.clone();
        let source = self.content.open()?;
        let uploaded =
            upload(&self.server.store(), source, PartSizes::from(announced), &parts, &self.options, &observer).await?;
        let whole = CompleteArtifact { size: uploaded.size, sha256: uploaded.sha256, stored: uploaded.stored };
        let artifact = patiently(&self.options, &*observer, || parts.complete(&whole)).await?;
        if uploaded.had_bytes > 0 {
            let (sent, size) = (show_bytes(uploaded.size - uploaded.had_bytes), show_bytes(uploaded.size));
            self.shown.tell_done("sent", &format!("{sent} of {size}; the store had the rest"));
        }
        Ok(artifact)
    }
}

/// The platform's word for what went wrong.
fn problem_of(error: &TransferError) -> Option<&str> {
    let TransferError::NoAddress(error) = error else { return None };
    let error = error.source.as_ref()?.downcast_ref::<ClientError>()?;
    error.problem().map(|problem| problem.word())
}
