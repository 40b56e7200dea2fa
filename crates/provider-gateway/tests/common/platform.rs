//! A platform that hands out addresses, and the object store that they lead to: each may be away.

use api_types::artifact::{
    Artifact, CompleteArtifact, CreateOutput, Download, PartAddress, PartsRequest, SignedRequest, Upload,
};
use domain::{
    artifact::{ArtifactKind, ArtifactState, Sha256Digest},
    ids::{ArtifactId, AttemptId, Held},
    spec::PinnedArtifact,
};
use futures::{FutureExt, future::BoxFuture};
use provider_gateway::{
    artifacts::{Addresses, Artifacts, Inputs, Refusal, Shelf},
    executor::Job,
};
use sha2::{Digest, Sha256};
use std::{
    borrow::Cow,
    collections::BTreeMap,
    io::Cursor,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use transfer::{AddressError, Limits, Listed};
use uuid::Uuid;

/// Small, so that there are several.
pub(crate) const PART: u64 = 64 << 10;

#[derive(Default)]
pub(crate) struct State {
    /// What inputs are, by their place in the list of every task.
    pub(crate) inputs: BTreeMap<usize, Vec<u8>>,
    pub(crate) outputs: BTreeMap<(AttemptId, usize), Stored>,
    /// Of all attempts, the oldest first.
    pub(crate) checkpoints: Vec<Stored>,
    /// The bytes of this one are others than they were.
    pub(crate) rotten: Option<ArtifactId>,
    versions: u32,
    /// Bytes of inputs that were given out.
    pub(crate) given: usize,
    /// After so many it goes away.
    pub(crate) given_at_most: Option<usize>,
    /// Parts that arrived.
    pub(crate) puts: usize,
    /// Connections are cut.
    pub(crate) is_away: bool,
    /// After so many parts it goes away.
    pub(crate) away_after: Option<usize>,
    /// One byte of what is given out is another, so often.
    pub(crate) damaged: usize,
    pub(crate) refusal: Option<Refusal>,
    /// A wrong answer for every question.
    pub(crate) refuses: Option<String>,
}

/// An output or a checkpoint that was announced.
pub(crate) struct Stored {
    pub(crate) id: ArtifactId,
    pub(crate) create: CreateOutput,
    parts: BTreeMap<u32, Vec<u8>>,
    pub(crate) ready: Option<Artifact>,
}

impl Stored {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.parts.values().flatten().copied().collect()
    }
    /// What is left of the upload: which parts are known and where others go.
    fn answer(&self, request: &PartsRequest, sign: impl Fn(u32) -> SignedRequest) -> Vec<PartAddress> {
        let parts = request.wanted.iter().map(|part| {
            let is_known = self.parts.get(&part.number).is_some_and(|bytes| {
                assert_eq!(part.sha256.0, Sha256::digest(bytes).as_slice(), "the same part has the same bytes");
                true
            });
            PartAddress { number: part.number, put: (!is_known).then(|| sign(part.number)) }
        });
        parts.collect()
    }
    /// What is in it, where it is a directory: files with their content's length.
    pub(crate) fn names(&self) -> Vec<String> {
        let listed: BTreeMap<Vec<u8>, Listed> =
            transfer::list(Cursor::new(self.bytes()), &Limits::default()).expect("an archive");
        listed.into_keys().map(|name| String::from_utf8_lossy(&name).into_owned()).collect()
    }
}

pub(crate) struct Platform {
    url: String,
    state: Arc<Mutex<State>>,
    _accepting: JoinSet<()>,
}

impl Platform {
    pub(crate) async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("a bound socket"));
        let state: Arc<Mutex<State>> = Arc::default();
        let (shared, mut accepting) = (state.clone(), JoinSet::new());
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((socket, _)) = listener.accept().await {
                let state = shared.clone();
                connections.spawn(async move { drop(serve(socket, &state).await) });
            }
        });
        Arc::new(Self { url, state, _accepting: accepting })
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while held")
    }

    pub(crate) fn artifacts(self: &Arc<Self>) -> Artifacts {
        let mut artifacts = Artifacts::new(self.clone());
        artifacts.options.pauses.first = Duration::from_millis(20);
        artifacts.options.pauses.longest = Duration::from_millis(100);
        artifacts.options.range = 64 << 10;
        artifacts
    }

    pub(crate) fn inputs(self: &Arc<Self>, record: &Path, limit_bytes: u64) -> Inputs {
        let shelf = Shelf::open(record, limit_bytes).expect("a record");
        Inputs { artifacts: self.artifacts(), shelf: Arc::new(shelf) }
    }

    /// Puts content in at a place in tasks' lists, and pins the task's input to it.
    pub(crate) fn pin(&self, job: Job, inputs: Vec<(ArtifactKind, &str, Vec<u8>)>) -> Job {
        let mut spec = (*job.spec).clone();
        for (index, (kind, name, content)) in inputs.into_iter().enumerate() {
            spec.inputs[index].pinned = Some(PinnedArtifact {
                id: ArtifactId::from_uuid(Uuid::now_v7()),
                name: name.to_owned(),
                version: 3,
                kind,
                size: content.len() as u64,
                sha256: Sha256Digest(Sha256::digest(&content).into()),
            });
            self.state().inputs.insert(index, content);
        }
        Job { spec: Arc::new(spec), ..job }
    }

    fn check(&self) -> Result<(), AddressError> {
        let state = self.state();
        let refused = |why: &str, refusal: Option<Refusal>| AddressError {
            why: why.to_owned(),
            is_passing: false,
            retry_after: None,
            source: refusal.map(|refusal| Box::new(refusal) as Box<dyn std::error::Error + Send + Sync>),
        };
        match &state.refuses {
            _ if state.refusal.is_some() => Err(refused("refused", state.refusal)),
            Some(why) => Err(refused(why, None)),
            None => Ok(()),
        }
    }

    fn sign(&self, method: &str, path: &str) -> SignedRequest {
        SignedRequest {
            method: method.to_owned(),
            url: format!("{}/{path}", self.url),
            headers: BTreeMap::new(),
            expires_at: chrono::DateTime::UNIX_EPOCH,
        }
    }
}

fn artifact(name: &str, version: Option<u32>, kind: ArtifactKind, size: Option<u64>) -> Artifact {
    Artifact {
        id: ArtifactId::from_uuid(Uuid::now_v7()),
        project: "default".into(),
        name: name.into(),
        version,
        kind,
        state: if version.is_some() { ArtifactState::Ready } else { ArtifactState::Uploading },
        size,
        sha256: None,
        media_type: "application/octet-stream".into(),
        file_name: name.into(),
        labels: BTreeMap::new(),
        pinned: false,
        attempt: None,
        created_by: "ana".into(),
        created_at: chrono::DateTime::UNIX_EPOCH,
        ready_at: None,
        stored_bytes: None,
    }
}

impl Addresses for Platform {
    fn input(&self, _: Held, index: usize) -> BoxFuture<'_, Result<SignedRequest, AddressError>> {
        async move { self.check().map(|()| self.sign("GET", &format!("input/{index}"))) }.boxed()
    }
    fn begin_output(
        &self,
        held: Held,
        index: usize,
        create: CreateOutput,
    ) -> BoxFuture<'_, Result<Upload, AddressError>> {
        async move {
            self.check()?;
            let mut state = self.state();
            let kind = create.kind;
            let stored = state.outputs.entry((held.attempt, index)).or_insert_with(|| Stored {
                id: ArtifactId::from_uuid(Uuid::now_v7()),
                create,
                parts: BTreeMap::new(),
                ready: None,
            });
            let artifact = stored.ready.clone().unwrap_or_else(|| artifact("out", None, kind, None));
            Ok(Upload { artifact, part_size: PART, least_part: None })
        }
        .boxed()
    }
    fn output_parts(
        &self,
        held: Held,
        index: usize,
        request: PartsRequest,
    ) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        async move {
            self.check()?;
            let state = self.state();
            let stored = &state.outputs[&(held.attempt, index)];
            let path = format!("output/{}/{index}", held.attempt);
            Ok(stored.answer(&request, |number| self.sign("PUT", &format!("{path}/{number}"))))
        }
        .boxed()
    }
    fn complete_output(
        &self,
        held: Held,
        index: usize,
        whole: CompleteArtifact,
    ) -> BoxFuture<'_, Result<Artifact, AddressError>> {
        async move {
            self.check()?;
            let mut state = self.state();
            state.versions += 1;
            let version = state.versions;
            let stored = state.outputs.get_mut(&(held.attempt, index)).expect("it was announced");
            assert_eq!(whole.sha256.0, Sha256::digest(stored.bytes()).as_slice());
            let ready = artifact("out", Some(version), stored.create.kind, Some(whole.size));
            stored.ready = Some(ready.clone());
            Ok(ready)
        }
        .boxed()
    }
    fn checkpoints(&self, _: Held) -> BoxFuture<'_, Result<Vec<Download>, AddressError>> {
        async move {
            self.check()?;
            let state = self.state();
            let ready = state.checkpoints.iter().rev().filter_map(|stored| {
                let get = self.sign("GET", &format!("checkpoint/{}", stored.id));
                Some(Download { artifact: stored.ready.clone()?, get })
            });
            Ok(ready.take(2).collect())
        }
        .boxed()
    }
    fn begin_checkpoint(&self, _: Held, create: CreateOutput) -> BoxFuture<'_, Result<Upload, AddressError>> {
        async move {
            self.check()?;
            let mut announced = artifact("checkpoint", None, create.kind, create.size);
            announced.id = ArtifactId::from_uuid(Uuid::now_v7());
            let stored = Stored { id: announced.id, create, parts: BTreeMap::new(), ready: None };
            self.state().checkpoints.push(stored);
            Ok(Upload { artifact: announced, part_size: PART, least_part: None })
        }
        .boxed()
    }
    fn checkpoint_parts(
        &self,
        _: Held,
        id: ArtifactId,
        request: PartsRequest,
    ) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        async move {
            self.check()?;
            let mut state = self.state();
            Ok(state.checkpoint(id).answer(&request, |number| self.sign("PUT", &format!("checkpoint/{id}/{number}"))))
        }
        .boxed()
    }
    fn complete_checkpoint(
        &self,
        held: Held,
        id: ArtifactId,
        whole: CompleteArtifact,
    ) -> BoxFuture<'_, Result<Artifact, AddressError>> {
        async move {
            self.check()?;
            let mut state = self.state();
            state.versions += 1;
            let version = state.versions;
            let stored = state.checkpoint(id);
            assert_eq!(whole.sha256.0, Sha256::digest(stored.bytes()).as_slice());
            let mut ready = artifact("checkpoint", Some(version), stored.create.kind, Some(whole.size));
            (ready.id, ready.sha256, ready.attempt) = (id, Some(whole.sha256), Some(held.attempt));
            stored.ready = Some(ready.clone());
            Ok(ready)
        }
        .boxed()
    }
}

impl State {
    fn checkpoint(&mut self, id: ArtifactId) -> &mut Stored {
        self.checkpoints.iter_mut().find(|stored| stored.id == id).expect("it was announced")
    }
    /// A checkpoint of these bytes, ready.
    pub(crate) fn plant(&mut self, create: CreateOutput, bytes: &[u8]) {
        self.versions += 1;
        let mut ready = artifact("checkpoint", Some(self.versions), create.kind, Some(bytes.len() as u64));
        ready.sha256 = Some(Sha256Digest(Sha256::digest(bytes).into()));
        let (id, parts) = (ready.id, BTreeMap::from([(1, bytes.to_vec())]));
        self.checkpoints.push(Stored { id, create, parts, ready: Some(ready) });
    }
    /// Those that are whole, the oldest first.
    pub(crate) fn ready(&self) -> Vec<&Stored> {
        self.checkpoints.iter().filter(|stored| stored.ready.is_some()).collect()
    }
}

async fn serve(mut socket: TcpStream, state: &Mutex<State>) -> std::io::Result<()> {
    let state = || state.lock().expect("no panic");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    if state().is_away {
        return Ok(());
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")).map(str::to_owned));
    let target: Vec<&str> = head.split(' ').nth(1).expect("a target").split('/').skip(1).collect();
    let (status, extra, body) = match target[..] {
        [kind @ ("input" | "checkpoint"), which] => {
            let range = header("range").expect("a range");
            let (start, end) = range["bytes=".len()..].split_once('-').expect("a range");
            let (start, end): (usize, usize) = (start.parse().expect("a number"), end.parse().expect("a number"));
            let mut state = state();
            // Inputs are large, and asked for piece by piece.
            let content: Cow<'_, [u8]> = match kind {
                "input" => state.inputs[&which.parse::<usize>().expect("an index")].as_slice().into(),
                _ => {
                    let id = which.parse().expect("an artifact");
                    let mut content = state.checkpoint(id).bytes();
                    let middle = content.len() / 2;
                    content[middle] ^= u8::from(state.rotten == Some(id));
                    content.into()
                }
            };
            let (end, length) = ((end + 1).min(content.len()), content.len());
            let mut body = content[start..end].to_vec();
            drop(content);
            state.given += body.len();
            if state.given_at_most.is_some_and(|most| state.given >= most) {
                state.is_away = true;
            }
            if state.damaged > 0 {
                state.damaged -= 1;
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            ("206 Partial Content", format!("content-range: bytes {start}-{}/{length}\r\n", end - 1), body)
        }
        ["output", .., part] | ["checkpoint", _, part] => {
            let length: usize = header("content-length").expect("a length").parse().expect("a number");
            let mut body = vec![0; length];
            socket.read_exact(&mut body).await?;
            let mut state = state();
            state.puts += 1;
            let stored = match target[..] {
                [_, attempt, index, _] => {
                    let key = (attempt.parse().expect("an attempt"), index.parse().expect("an index"));
                    state.outputs.get_mut(&key).expect("it was announced")
                }
                [_, id, _] => state.checkpoint(id.parse().expect("an artifact")),
                _ => return Ok(()),
            };
            stored.parts.insert(part.parse().expect("a number"), body);
            if state.away_after.is_some_and(|after| state.puts >= after) {
                state.is_away = true;
            }
            ("200 OK", format!("etag: \"{part}\"\r\n"), Vec::new())
        }
        _ => ("404 Not Found", String::new(), Vec::new()),
    };
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{extra}content-length: {}\r\n\r\n", body.len());
    socket.write_all(head.as_bytes()).await?;
    socket.write_all(&body).await
}

/// A directory's archive of these files.
pub(crate) fn packed(files: &[(&str, &str)]) -> Vec<u8> {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, content) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, content).expect("written");
    }
    let mut archive = Vec::new();
    transfer::pack(dir.path(), &mut archive, &|_| {}).expect("packed");
    archive
}

/// Bytes that look like nothing, always the same.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
