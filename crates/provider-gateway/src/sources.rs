//! Brings the git cache to the executors: each names what it needs of a tree, and here it gets it.

use crate::{
    container::{self, FetchedTree, TreeSource},
    executor::Failure,
    log::AttemptLog,
    process::{Materialised, TreeWriter},
    source::{Role, SourceCache, SourcePolicy, TarOptions},
};
use bytes::Bytes;
use domain::{
    quantity::show_bytes,
    source::{DockerfilePath, Pinned},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::BoxStream};
use std::{
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::Instant,
};
use tokio::sync::mpsc;

/// The git cache under the owner's policy. Cheap to clone.
#[derive(Clone)]
pub struct Sources {
    cache: Arc<SourceCache>,
    policy: Arc<SourcePolicy>,
}

impl Sources {
    pub fn new(cache: Arc<SourceCache>, policy: SourcePolicy) -> Self {
        Self { cache, policy: Arc::new(policy) }
    }

    /// Makes a commit available and says in the log what that took.
    async fn ensure(&self, role: Role, pinned: &Pinned, log: &AttemptLog) -> Result<crate::source::Fetched, Failure> {
        let began = Instant::now();
        // Told while it goes on: a fetch may take minutes, and somebody is watching.
        let (sender, mut notes) = mpsc::unbounded_channel();
        let ensuring = async move {
            let mut note = |line| drop(sender.send(line));
            self.cache.ensure(role, pinned, &self.policy, &mut note).await
        };
        let telling = async {
            while let Some(line) = notes.recv().await {
                log.note(&line).await;
            }
        };
        let (fetched, ()) = tokio::join!(ensuring, telling);
        let fetched = fetched?;
        let what = if fetched.was_cached {
            "is here already, nothing fetched".to_owned()
        } else {
            format!("{} fetched in {:.1} s", show_bytes(fetched.bytes_fetched), began.elapsed().as_secs_f64())
        };
        log.note(&format!("{role} {pinned}: {what}")).await;
        Ok(fetched)
    }

    /// A commit that was fetched before: asks nobody.
    async fn again(&self, role: Role, pinned: &Pinned) -> Result<crate::source::Fetched, Failure> {
        self.cache.ensure(role, pinned, &self.policy, &mut |_| {}).await
    }

    pub fn warm_keys(&self) -> std::collections::BTreeSet<String> {
        self.cache.warm_keys()
    }
}

impl TreeSource for Sources {
    fn fetch<'a>(
        &'a self,
        role: &'static str,
        pinned: &'a Pinned,
        log: &'a AttemptLog,
    ) -> BoxFuture<'a, Result<FetchedTree, Failure>> {
        let role = if role == "code" { Role::Code } else { Role::Environment };
        async move {
            let fetched = self.ensure(role, pinned, log).await?;
            // Here, since a tree that is refused should be refused before anything is built on it.
            let notes = fetched.tree().read(|reader| reader.notes()).await?;
            Ok(FetchedTree {
                commit: pinned.commit.to_string(),
                tree: fetched.tree_id.clone(),
                bytes_fetched: fetched.bytes_fetched,
                was_cached: fetched.was_cached,
                held_by_ref: fetched.held_by.clone(),
                notes,
            })
        }
        .boxed()
    }

    fn dockerfile<'a>(
        &'a self,
        pinned: &'a Pinned,
        path: &'a DockerfilePath,
    ) -> BoxFuture<'a, Result<Vec<u8>, Failure>> {
        async move {
            let fetched = self.again(Role::Environment, pinned).await?;
            let path = path.clone();
            fetched.tree().read(move |reader| reader.dockerfile(&path)).await
        }
        .boxed()
    }

    fn tar(&self, pinned: &Pinned, options: container::TarOptions) -> BoxStream<'static, Result<Bytes, io::Error>> {
        let (sender, receiver) = mpsc::channel(8);
        let (sources, pinned) = (self.clone(), pinned.clone());
        let packing = async move {
            let fetched = sources.again(Role::Code, &pinned).await?;
            let options =
                TarOptions { prefix: String::new(), uid: options.uid, gid: options.gid, replace: options.replace };
            fetched.tree().read(move |reader| reader.write_tar(&options, PieceWriter { sender })).await.map(|_| ())
        };
        // The pieces come while the packing goes on; an error of the packing comes last.
        let pieces =
            futures::stream::unfold(
                receiver,
                |mut receiver| async move { Some((Ok(receiver.recv().await?), receiver)) },
            );
        let failure = futures::stream::once(packing)
            .filter_map(|packed| async move { packed.err().map(|failure| Err(io::Error::other(failure.message))) });
        futures::stream::select(pieces, failure).boxed()
    }
}

impl TreeWriter for Sources {
    fn materialise<'a>(
        &'a self,
        pinned: &'a Pinned,
        dir: &'a Path,
        owner: Option<(u32, u32)>,
        log: &'a AttemptLog,
    ) -> BoxFuture<'a, Result<Materialised, Failure>> {
        async move {
            let fetched = self.ensure(Role::Code, pinned, log).await?;
            let to = dir.to_owned();
            let notes = fetched.tree().read(move |reader| reader.materialise(&to, owner)).await?;
            Ok(Materialised {
                commit: pinned.commit.to_string(),
                tree: fetched.tree_id.clone(),
                bytes_fetched: fetched.bytes_fetched,
                cached: fetched.was_cached,
                notes,
            })
        }
        .boxed()
    }
}

/// Hands a tar over in pieces; waits while the reader is busy.
struct PieceWriter {
    sender: mpsc::Sender<Bytes>,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sender
            .blocking_send(Bytes::copy_from_slice(bytes))
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "nobody reads any more"))?;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
