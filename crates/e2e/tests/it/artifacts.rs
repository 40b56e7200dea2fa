//! Artifacts as people use them: `unidesk artifact` against a real `unidesk up`, both killed and cut off in the middle.

use crate::{
    programs::{self, Program},
    until::{until, until_true},
    world::{Home, SOON},
};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileExt, MetadataExt, PermissionsExt, symlink},
    },
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
    task::JoinSet,
};

const MIB: usize = 1 << 20;

/// A platform in a process of its own, and a directory for the person who uses it.
pub(crate) struct World {
    /// Ends before its home is cleared.
    up: Program,
    home: Home,
    url: String,
}

impl World {
    pub(crate) async fn start() -> Self {
        let home = Home::create();
        let up = Self::start_up(&home).await;
        let url = up.url();
        fs::create_dir(home.path().join("work")).expect("a directory");
        Self { home, up, url }
    }

    async fn start_up(home: &Home) -> Program {
        let mut command = programs::command(&["up", "--listen", "127.0.0.1:0"]);
        command.arg("--data-dir").arg(home.path().join("data"));
        Program::start(command).await
    }

    /// As after a power cut.
    async fn restart(&mut self) {
        self.up.kill().await;
        self.up = Self::start_up(&self.home).await;
    }

    /// The same, and the person knows where it is now.
    pub(crate) async fn restart_and_find(&mut self) {
        self.restart().await;
        self.url = self.up.url();
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.home.path().join("work")
    }

    fn objects(&self) -> PathBuf {
        self.home.path().join("data/objects")
    }

    /// The same command line on the same machine each time: what a person types again.
    fn command<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let words: Vec<&OsStr> = [OsStr::new("artifact")].into_iter().chain(words.iter().map(AsRef::as_ref)).collect();
        self.unidesk(&words)
    }

    pub(crate) fn unidesk<S: AsRef<OsStr>>(&self, words: &[S]) -> Command {
        let token = fs::read_to_string(self.home.path().join("data/admin.token")).expect("the first key");
        let mut command = Command::from(programs::command(&[]));
        command
            .args(words)
            .current_dir(self.work())
            .env("HOME", self.home.path())
            .env("UNIDESK_URL", &self.url)
            .env("UNIDESK_TOKEN", token.trim())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn run<S: AsRef<OsStr>>(&self, words: &[S]) -> Output {
        finish(self.command(words).spawn().expect("it starts")).await
    }

    /// What it prints when all is well, and nothing but that.
    async fn good<S: AsRef<OsStr>>(&self, words: &[S]) -> String {
        let output = self.run(words).await;
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        text(&output.stdout)
    }

    async fn json<S: AsRef<OsStr>>(&self, words: &[S]) -> Value {
        let words: Vec<&OsStr> = words.iter().map(AsRef::as_ref).chain(["-o", "json"].map(OsStr::new)).collect();
        serde_json::from_str(&self.good(&words).await).expect("one JSON value")
    }

    fn write(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.work().join(name);
        fs::write(&path, content).expect("writing");
        path
    }
}

pub(crate) async fn finish(child: Child) -> Output {
    tokio::time::timeout(SOON * 2, child.wait_with_output()).await.expect("an end in time").expect("an end")
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Bytes that can't be compressed, always the same.
fn noise(length: usize) -> Vec<u8> {
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

/// Passes on what a person's machine says to the platform, counts the parts in it, and stays where it is when the platform moves.
struct Way {
    address: SocketAddr,
    platform: Arc<Mutex<SocketAddr>>,
    puts: Arc<AtomicU64>,
    _accepting: JoinSet<()>,
}

impl Way {
    async fn to(url: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let platform = Arc::new(Mutex::new(address_of(url)));
        let puts = Arc::new(AtomicU64::new(0));
        let mut accepting = JoinSet::new();
        let (there, counted) = (platform.clone(), puts.clone());
        accepting.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((person, _)) = listener.accept().await {
                let (there, counted) = (*there.lock().expect("no panic"), counted.clone());
                connections.spawn(async move {
                    let Ok(platform) = TcpStream::connect(there).await else { return };
                    let (mut from_person, mut to_person) = person.into_split();
                    let (mut from_platform, mut to_platform) = platform.into_split();
                    let forth = async {
                        let mut buffer = vec![0; 64 << 10];
                        while let Ok(read @ 1..) = from_person.read(&mut buffer).await {
                            // A request's first line comes at the beginning of what is read: bodies are sent after their answers.
                            counted.fetch_add(u64::from(buffer.starts_with(b"PUT /unidesk-objects/")), Relaxed);
                            if to_platform.write_all(&buffer[..read]).await.is_err() {
                                return;
                            }
                        }
                    };
                    let back = async {
                        let _ = tokio::io::copy(&mut from_platform, &mut to_person).await;
                    };
                    tokio::select! { () = forth => {}, () = back => {} }
                });
            }
        });
        Self { address, platform, puts, _accepting: accepting }
    }

    fn url(&self) -> String {
        format!("http://{}", self.address)
    }
    fn lead_to(&self, url: &str) {
        *self.platform.lock().expect("no panic") = address_of(url);
    }
    fn puts(&self) -> u64 {
        self.puts.load(Relaxed)
    }
}

fn address_of(url: &str) -> SocketAddr {
    url.strip_prefix("http://").and_then(|address| address.parse().ok()).expect("an address")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_put_comes_back_byte_for_byte() {
    let world = World::start().await;
    // Three parts, one part, and nothing at all.
    let contents = [("large.bin", noise(20 * MIB + 7)), ("small.txt", b"hello\n".to_vec()), ("empty", Vec::new())];
    for (name, content) in &contents {
        let path = world.write(name, content);
        let put = world.good(&["put", name, "--name", "thing", "--label", "kind=test"]).await;
        let words: Vec<&str> = put.split_whitespace().collect();
        assert!(words.len() == 4 && words[0].starts_with("thing@") && words[1].starts_with("sha256:"), "{put}");
        let got = world.good(&["get", "thing", "--to", "back/"]).await;
        assert_eq!(got, format!("back/{name}\n"));
        assert!(fs::read(world.work().join("back").join(name)).expect("it came") == *content, "{name}");
        assert!(world.run(&["get", "thing", "--to", "-"]).await.stdout == *content, "{name} to standard output");
        fs::remove_file(path).expect("removing");
    }
    // Out of a pipe, whose length nobody knows.
    let mut child = world
        .command(&["put", "-", "--name", "stream", "-o", "json"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("piped");
    let content = noise(35 * MIB);
    let feeding = async {
        stdin.write_all(&content).await.expect("it reads");
        drop(stdin);
    };
    let (output, ()) = tokio::join!(finish(child), feeding);
    let artifact: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", text(&output.stderr)));
    assert_eq!((&artifact["size"], &artifact["state"]), (&Value::from(content.len()), &Value::from("ready")));
    assert!(world.run(&["get", "stream", "--to", "-"]).await.stdout == content);

    // A version each, found by name, version, digest and id.
    let list = world.json(&["list", "--name", "thing"]).await;
    let versions: Vec<u64> =
        list["artifacts"].as_array().expect("a list").iter().map(|one| one["version"].as_u64().expect("one")).collect();
    assert_eq!(versions, [3, 2, 1]);
    let second = world.json(&["show", "thing@2"]).await;
    assert_eq!(
        (&second["size"], &second["labels"]["kind"], &second["file_name"]),
        (&6.into(), &"test".into(), &"small.txt".into())
    );
    for name in [
        format!("sha256:{}", second["sha256"].as_str().expect("a digest")),
        second["id"].as_str().expect("an id").to_owned(),
    ] {
        assert_eq!(world.run(&["get", &name, "--to", "-"]).await.stdout, b"hello\n", "{name}");
    }
    // The same file again is the artifact that it became; what is there already is not fetched again, and nothing is overwritten unasked.
    world.write("small.txt", b"hello again\n");
    let first = world.good(&["put", "small.txt", "--name", "same"]).await;
    assert_eq!(world.good(&["put", "small.txt", "--name", "same"]).await, first);
    assert_eq!(world.good(&["get", "same"]).await, "./small.txt\n");
    world.write("small.txt", b"mine\n");
    let refused = world.run(&["get", "same"]).await;
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
    assert_eq!(fs::read(world.work().join("small.txt")).expect("it is there"), b"mine\n");
    world.good(&["get", "same", "--force"]).await;
    assert_eq!(fs::read(world.work().join("small.txt")).expect("it is there"), b"hello again\n");

    // Files are compared by what is known of them.
    let same = world.run(&["diff", "same", "same@1"]).await;
    assert_eq!((same.status.code(), text(&same.stdout).contains("are equal")), (Some(0), true));
    let other = world.run(&["diff", "same", "thing@2"]).await;
    assert_eq!((other.status.code(), text(&other.stdout).contains("differ")), (Some(1), true));

    // Removed, nobody can name it; what has another name stays.
    assert_eq!(world.run(&["rm", "thing@1"]).await.status.code(), Some(2), "nobody was asked");
    world.good(&["rm", "thing@1", "--yes"]).await;
    assert_eq!(world.run(&["get", "thing@1", "--to", "-"]).await.status.code(), Some(3));
    assert_eq!(world.run(&["get", "thing@2", "--to", "-"]).await.stdout, b"hello\n");
    assert_eq!(world.run(&["get", "no-such-thing"]).await.status.code(), Some(3));
    // What was removed can be put again.
    world.good(&["rm", "same", "--yes"]).await;
    let again = world.good(&["put", "small.txt", "--name", "same"]).await;
    assert!(again.starts_with("same@"), "{again}");
    assert_eq!(world.run(&["get", "same", "--to", "-"]).await.stdout, b"hello again\n");
}

/// Everything below a directory that should come back, by name.
fn tree(root: &Path) -> BTreeMap<OsString, String> {
    let (mut found, mut dirs) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let what = if meta.is_symlink() {
                format!("-> {:?}", fs::read_link(&path).expect("a link"))
            } else if meta.is_dir() {
                "a directory".to_owned()
            } else {
                format!("{} {:?}", meta.mode() & 0o100 != 0, fs::read(&path).expect("readable"))
            };
            found.insert(path.strip_prefix(root).expect("below").into(), what);
            if meta.is_dir() {
                dirs.push(path);
            }
        }
    }
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_comes_back_whatever_its_names_are_and_is_compared_by_them() {
    let world = World::start().await;
    let source = world.work().join("data");
    for name in ["a/b", "empty"] {
        fs::create_dir_all(source.join(name)).expect("directories");
    }
    let names = ["new\nline", "smile \u{1f600}", "..dots", &"x".repeat(255)].map(OsString::from);
    for name in names.into_iter().chain([OsString::from_vec(b"not \xff text".to_vec())]) {
        fs::write(source.join("a").join(&name), name.as_bytes()).expect("writing");
    }
    fs::write(source.join("zero"), "").expect("writing");
    fs::write(source.join("run.sh"), "#!/bin/sh\n").expect("writing");
    fs::set_permissions(source.join("run.sh"), fs::Permissions::from_mode(0o755)).expect("modes");
    symlink("a/b", source.join("link")).expect("a link");
    world.good(&["put", "data", "--name", "set"]).await;
    assert_eq!(world.good(&["get", "set", "--to", "back"]).await, "back\n");
    assert_eq!(tree(&world.work().join("back")), tree(&source));
    // Not into what has something in it.
    let refused = world.run(&["get", "set", "--to", "back"]).await;
    assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));

    fs::write(source.join("new"), "new").expect("writing");
    fs::write(source.join("zero"), "no more").expect("writing");
    fs::remove_file(source.join("link")).expect("removing");
    world.good(&["put", "data", "--name", "set"]).await;
    let differ = world.run(&["diff", "set@1", "set"]).await;
    assert_eq!(differ.status.code(), Some(1), "{}", text(&differ.stderr));
    assert_eq!(
        text(&differ.stdout),
        "- link\n+ new\n~ zero  0 B -> 7 B\nset@1 -> set@2: 1 removed, 1 added, 1 changed, 9 the same\n"
    );
    let differ = world.run(&["diff", "set@1", "set@2", "-o", "json"]).await;
    let differ: Value = serde_json::from_slice(&differ.stdout).expect("JSON");
    assert_eq!((&differ["equal"], &differ["difference"]["added"]), (&false.into(), &serde_json::json!(["new"])));
    // A copy of it elsewhere is the same content, whenever it was made.
    world.good(&["put", "back", "--name", "copy"]).await;
    assert_eq!(world.run(&["diff", "set@1", "copy"]).await.status.code(), Some(0));
    let left: Vec<_> =
        fs::read_dir(world.work()).expect("a directory").map(|entry| entry.expect("an entry").file_name()).collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_was_killed_goes_on_where_it_was() {
    let mut world = World::start().await;
    let way = Way::to(&world.url).await;
    world.url = way.url();
    let content = noise(96 * MIB);
    world.write("large.bin", &content);
    let dir = world.work().join("dir");
    fs::create_dir(&dir).expect("a directory");
    fs::write(dir.join("one"), &content[..90 * MIB]).expect("writing");
    fs::write(dir.join("two"), "small").expect("writing");
    // Of a file of known size parts have 8 MiB, an archive is cut where its content says.
    for (what, parts) in [("large.bin", 12), ("dir", 9)] {
        let puts_before = way.puts();
        let puts = || way.puts() - puts_before;
        let words = ["put", what, "--name", "thing", "--limit-rate", "20M"];
        let mut put = world.command(&words).spawn().expect("it starts");
        until_true("half of the parts were sent", SOON, || puts() >= parts / 2).await;
        kill(Pid::from_raw(put.id().expect("it runs") as i32), Signal::SIGKILL).expect("it lives");
        put.wait().await.expect("an end");
        let before = puts();
        assert!(before < parts, "{what} was to be killed in the middle");
        let uploading = world.json(&["list", "--state", "uploading"]).await;
        assert_eq!(uploading["artifacts"].as_array().expect("a list").len(), 1);

        let output = world.run(&["put", what, "--name", "thing", "--progress", "plain"]).await;
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{told}");
        assert!(told.contains("; the store had the rest"), "{told}");
        // Twice: what was on its way when it was killed, and what had arrived and was not told yet. Four lanes have one of each at most.
        let twice = puts() - parts;
        println!("{what}: {before} parts were sent before, {twice} of {parts} twice");
        assert!(twice <= 8 && twice < before, "{what}: {before} before, {} in all", puts());
        let uploading = world.json(&["list", "--state", "uploading"]).await;
        assert_eq!(uploading["artifacts"], serde_json::json!([]));
    }
    assert!(world.run(&["get", "thing@1", "--to", "-"]).await.stdout == content);
    world.good(&["get", "thing@2", "--to", "back"]).await;
    assert!(fs::read(world.work().join("back/one")).expect("it came") == content[..90 * MIB]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_of_the_server_in_the_middle_is_waited_for() {
    let mut world = World::start().await;
    let way = Way::to(&world.url).await;
    world.url = way.url();
    let content = noise(64 * MIB);
    world.write("large.bin", &content);
    let put =
        world.command(&["put", "large.bin", "--name", "large", "--limit-rate", "20M"]).spawn().expect("it starts");
    until_true("two parts were sent", SOON, || way.puts() >= 2).await;
    world.restart().await;
    way.lead_to(&world.up.url());
    let output = finish(put).await;
    let told = text(&output.stderr);
    assert_eq!(output.status.code(), Some(0), "{told}");
    assert!(told.contains("unidesk: waiting: ") && told.contains("unidesk: back: after "), "{told}");

    let get = world.command(&["get", "large", "--to", "back.bin", "--limit-rate", "20M"]).spawn().expect("it starts");
    let partial = || {
        fs::read_dir(world.work())
            .expect("a directory")
            .flatten()
            .find(|entry| entry.file_name().as_bytes().starts_with(b".unidesk-"))
    };
    let some = || partial().and_then(|entry| entry.metadata().ok()).is_some_and(|meta| meta.len() > 8 * MIB as u64);
    until_true("some of it came back", SOON, some).await;
    world.restart().await;
    way.lead_to(&world.up.url());
    let output = finish(get).await;
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(fs::read(world.work().join("back.bin")).expect("it came") == content);
    assert!(fs::read_dir(world.work()).expect("a directory").count() == 2, "nothing else is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_who_interrupts_is_told_how_to_go_on() {
    let world = World::start().await;
    world.write("large.bin", &noise(64 * MIB));
    let put = world.command(&["put", "large.bin", "--name", "large", "--limit-rate", "4M"]).spawn().expect("it starts");
    until("it has begun", SOON, async || {
        let list = world.json(&["list", "--state", "uploading"]).await;
        (!list["artifacts"].as_array().expect("a list").is_empty()).then_some(())
    })
    .await;
    kill(Pid::from_raw(put.id().expect("it runs") as i32), Signal::SIGINT).expect("it lives");
    let output = finish(put).await;
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(130), String::new()));
    assert!(text(&output.stderr).contains("the same command goes on there"), "{}", text(&output.stderr));
}

/// The largest file below a directory.
fn largest(dir: &Path) -> PathBuf {
    let (mut dirs, mut largest) = (vec![dir.to_owned()], (0, PathBuf::new()));
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory").flatten() {
            let meta = entry.metadata().expect("it is there");
            if meta.is_dir() {
                dirs.push(entry.path());
            } else if meta.len() > largest.0 {
                largest = (meta.len(), entry.path());
            }
        }
    }
    largest.1
}

#[tokio::test(flavor = "multi_thread")]
async fn a_byte_that_rots_in_the_store_is_never_handed_out() {
    let world = World::start().await;
    let content = noise(20 * MIB);
    world.write("large.bin", &content);
    world.good(&["put", "large.bin", "--name", "large"]).await;
    assert_eq!(world.run(&["fsck", "--read"]).await.status.code(), Some(0));
    let stored = fs::File::options().read(true).write(true).open(largest(&world.objects())).expect("an object");
    let mut byte = [0];
    stored.read_exact_at(&mut byte, 5_000_000).expect("reading");
    stored.write_all_at(&[byte[0] ^ 1], 5_000_000).expect("writing");

    let output = world.run(&["get", "large", "--to", "back.bin"]).await;
    let told = text(&output.stderr);
    assert_eq!((output.status.code(), text(&output.stdout)), (Some(1), String::new()));
    assert!(told.contains("their SHA-256 is") && told.contains("fsck --read") && told.contains("once more"), "{told}");
    assert_eq!(fs::read_dir(world.work()).expect("a directory").count(), 1, "nothing of it was kept");
    // A look at sizes does not see it, a look at the bytes does; and then it is handed out to nobody.
    assert_eq!(world.run(&["fsck"]).await.status.code(), Some(0));
    let found = world.run(&["fsck", "--read", "--repair"]).await;
    assert_eq!(found.status.code(), Some(1));
    assert!(
        text(&found.stdout).contains("large@1") && text(&found.stdout).contains("Marked as corrupt"),
        "{}",
        text(&found.stdout)
    );
    let output = world.run(&["get", "large@1", "--to", "back.bin"]).await;
    assert_eq!(output.status.code(), Some(4), "{}", text(&output.stderr));
    // Put again it is whole again: it is neither taken for the damaged one nor shares its bytes.
    world.good(&["put", "large.bin", "--name", "large"]).await;
    assert!(world.run(&["get", "large", "--to", "-"]).await.stdout == content);
    assert_eq!(world.json(&["show", "large"]).await["version"], 2);
}

/// The most memory that a process had so far, in bytes; None when it has ended.
fn peak_memory(pid: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? << 10)
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_does_not_grow_with_what_is_transferred() {
    let world = World::start().await;
    let path = world.work().join("large.bin");
    let mut file = fs::File::create(&path).expect("a file");
    for _ in 0..24 {
        file.write_all(&noise(16 * MIB)).expect("writing");
    }
    drop(file);
    for words in [&["put", "large.bin", "--name", "large"][..], &["get", "large", "--to", "back.bin"]] {
        let child = world.command(words).spawn().expect("it starts");
        let pid = child.id().expect("it runs");
        let (most, watching) = (Arc::new(AtomicU64::new(0)), Arc::new(()));
        let (seen, alive) = (most.clone(), Arc::downgrade(&watching));
        let watcher = std::thread::spawn(move || {
            while alive.strong_count() > 0 {
                seen.fetch_max(peak_memory(pid).unwrap_or_default(), Relaxed);
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        let output = finish(child).await;
        drop(watching);
        watcher.join().expect("no panic");
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let most = most.load(Relaxed) >> 20;
        println!("{} took {most} MiB at most", words[0]);
        // 64 MiB of content, and the program itself.
        assert!((1..=160).contains(&most), "{} took {most} MiB", words[0]);
    }
    let (one, other) = (fs::read(path).expect("readable"), fs::read(world.work().join("back.bin")).expect("readable"));
    assert!(one == other);
}

/// S3 takes at most 5 GiB at once, and 32 bits count 4.
#[tokio::test(flavor = "multi_thread")]
async fn more_than_five_gib_go_in_and_every_place_of_it_is_found_again() {
    const GIB: u64 = 1 << 30;
    const SIZE: u64 = 5 * GIB + 100 * MIB as u64 + 7;
    let world = World::start().await;
    // Holes but for these places: nobody writes so much for a test but the store.
    let marks = [0, 2 * GIB - 3, 4 * GIB - 3, 5 * GIB - 3, SIZE - 6];
    let file = fs::File::create(world.work().join("big")).expect("a file");
    file.set_len(SIZE).expect("a size");
    for at in marks {
        file.write_all_at(format!("{:06x}", at % 0xff_ffff).as_bytes(), at).expect("written");
    }
    let began = std::time::Instant::now();
    let put = world.command(&["put", "big", "--name", "big", "-o", "json"]).spawn().expect("it starts");
    let put = tokio::time::timeout(SOON * 4, put.wait_with_output()).await.expect("in time").expect("an end");
    assert_eq!(put.status.code(), Some(0), "{}", text(&put.stderr));
    let artifact: Value = serde_json::from_slice(&put.stdout).expect("JSON");
    eprintln!("put after {:?}", began.elapsed());
    assert_eq!(artifact["size"], SIZE, "{artifact}");

    let token = fs::read_to_string(world.home.path().join("data/admin.token")).expect("the first key");
    let client = client::Client::new(&world.url, token.trim()).expect("a client");
    let id = artifact["id"].as_str().expect("an id").parse().expect("an id");
    let get = client.download_artifact(id).await.expect("an address").get;
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    for at in marks {
        let range = format!("bytes={at}-{}", at + 5);
        let answer = http.get(&get.url).header("range", &range).send().await.expect("an answer");
        assert_eq!(answer.status(), 206, "{range}");
        let told = answer.headers()["content-range"].to_str().expect("text").to_owned();
        assert_eq!(told, format!("bytes {at}-{}/{SIZE}", at + 5));
        assert_eq!(answer.text().await.expect("bytes"), format!("{:06x}", at % 0xff_ffff), "{range}");
    }
}
