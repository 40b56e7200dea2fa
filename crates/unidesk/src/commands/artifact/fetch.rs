//! One artifact to a path: what `artifact get` and `get` have in common.

use super::{
    failed,
    get::content,
    progress::{Counts, Interrupted, Shown},
};
use crate::{
    context::{Context, Server},
    exit,
    failure::Failure,
    render,
    style::Glyph,
    text::{clean, plural},
};
use api_types::artifact::Artifact;
use client::ArtifactDownload;
use domain::{
    artifact::{ArtifactKind, Sha256Digest},
    quantity::show_bytes,
};
use sha2::{Digest, Sha256};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};
use transfer::{Content, Limits, Options, to_directory, to_file};

/// How artifacts are fetched.
pub(in crate::commands) struct Fetch<'a> {
    pub(in crate::commands) context: &'a Context,
    pub(in crate::commands) server: &'a Server,
    /// Replace a file that is there.
    pub(in crate::commands) force: bool,
    /// Bytes a second.
    pub(in crate::commands) limit_rate: Option<u64>,
    /// Of an unpacked directory, in bytes.
    pub(in crate::commands) max_size: Option<u64>,
}

impl<'a> Fetch<'a> {
    pub(super) fn shown(&self, content: Content) -> Shown<'a> {
        Shown {
            out: &self.context.out,
            counts: Arc::<Counts>::default(),
            total: Some(content.size),
            is_packed: false,
            word: "fetching",
            began: Instant::now(),
        }
    }

    pub(super) fn options(&self) -> Options {
        Options { limit: self.limit_rate, ..Options::default() }
    }

    /// Fetches it to this path, unless the same file is there. Err(Interrupted): a person pressed Ctrl-C, and was told what is kept.
    pub(in crate::commands) async fn to(
        &self,
        artifact: &Artifact,
        target: &Path,
    ) -> Result<Result<(), Interrupted>, Failure> {
        let content = content(artifact)?;
        let shown = self.shown(content);
        let name = clean(&render::artifact::name(artifact));
        if artifact.kind == ArtifactKind::File {
            match same(target, content).await? {
                There::Same => {
                    shown.tell_done("there", &format!("{name} is there already, checked by SHA-256"));
                    return Ok(Ok(()));
                }
                There::Other if !self.force => {
                    let detail = format!("{} is there, and is another file", target.display());
                    return Err(
                        Failure::new(exit::REFUSED, detail).note("to replace it: --force; or give another path: --to")
                    );
                }
                There::Other | There::Nothing => {}
            }
        }
        let (store, source, options) =
            (self.server.store(), ArtifactDownload::new(&self.server.client, artifact.id), self.options());
        let fetching = async {
            let observer = &*shown.counts;
            match artifact.kind {
                ArtifactKind::File => {
                    to_file(&store, content, target, &source, &options, observer).await.map(|()| None)
                }
                ArtifactKind::Directory => {
                    let limits = Limits { bytes: self.max_size, ..Limits::default() };
                    to_directory(&store, content, target, limits, &source, &options, observer).await.map(Some)
                }
            }
        };
        let unpacked = match shown.until(fetching).await {
            Ok(unpacked) => unpacked.map_err(|error| failed(error, self.server))?,
            Err(interrupted) => {
                let how = match artifact.kind {
                    ArtifactKind::File => "what is written of it is kept, and the same command goes on there",
                    ArtifactKind::Directory => "nothing of it was kept",
                };
                shown.out.tell(Glyph::Warning, "stopped", &format!("after {}; {how}", shown.progress().amount()));
                return Ok(Err(interrupted));
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
        Ok(Ok(()))
    }
}

/// The name that a file or a directory had where it comes from.
pub(in crate::commands) fn own_name(file_name: &str, name: &str) -> PathBuf {
    // A server's word is no reason to write anywhere else.
    let is_plain = !file_name.is_empty() && !file_name.contains(['/', '\0']) && !matches!(file_name, "." | "..");
    PathBuf::from(if is_plain { file_name } else { name })
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
