//! Object stores as organisations have them: certificates of an authority of their own, buckets in the names of hosts.

use crate::{
    artifacts::{finish, text},
    programs::{self, Program},
    world::{Home, SOON},
};
use std::{
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};
use test_kit::{
    seaweedfs::SeaweedFs,
    tls::{Authority, TlsDoor},
};

/// How the services write the address of an object.
#[derive(Clone, Copy, PartialEq)]
enum Style {
    Path,
    /// The bucket is a part of the host's name.
    VirtualHost,
}

/// A platform without a node of its own behind a door with TLS, and a SeaweedFS with TLS.
struct House {
    // Programs first: they use what comes after.
    agent: Option<Program>,
    up: Program,
    door: TlsDoor,
    seaweedfs: SeaweedFs,
    style: Style,
    ca_file: PathBuf,
    home: Home,
}

impl House {
    async fn start(style: Style) -> Self {
        let home = Home::create();
        let authority = Authority::new();
        let ca_file = authority.file(home.path());
        let seaweedfs = SeaweedFs::start_tls(&authority).await;
        fs::write(home.path().join("hosts"), hosts()).expect("written");
        fs::create_dir(home.path().join("work")).expect("a directory");
        let mut up = programs::command(&["up", "--listen", "127.0.0.1:0", "--no-node"]);
        up.arg("--data-dir").arg(home.path().join("data")).env("UNIDESK_S3_CA_FILE", &ca_file);
        up.env("UNIDESK_S3_ENDPOINT", endpoint(&seaweedfs, style)).env("UNIDESK_S3_BUCKET", BUCKET);
        up.env("UNIDESK_S3_ACCESS_KEY_ID", SeaweedFs::ACCESS_KEY_ID);
        up.env("UNIDESK_S3_SECRET_ACCESS_KEY", SeaweedFs::SECRET_ACCESS_KEY);
        up.env("UNIDESK_S3_PATH_STYLE", (style == Style::Path).to_string());
        let up = Program::start(placed(up, style, &home)).await;
        let platform = up.url().strip_prefix("http://").expect("plain").parse().expect("an address");
        let door = TlsDoor::before(platform, &authority).await;
        Self { agent: None, up, door, seaweedfs, style, ca_file, home }
    }

    fn url(&self) -> String {
        format!("https://{}", self.door.address)
    }

    fn agent(&self, ca_file: Option<&Path>) -> Program {
        let dir = self.home.path().join("agent");
        let token = fs::read_to_string(self.home.path().join("node.token")).expect("a token");
        let mut command = programs::provider(&self.url(), token.trim(), &dir);
        fs::write(dir.join("policy.toml"), "executors = ['process']\n").expect("written");
        command.envs(ca_file.map(|file| ("UNIDESK_CA_FILE", file)));
        Program::spawn(placed(command, self.style, &self.home))
    }

    /// A person's command against this address.
    async fn tell(&self, url: &str, ca_file: Option<&Path>, words: &[&str]) -> Output {
        let token = fs::read_to_string(self.home.path().join("data/admin.token")).expect("the first key");
        let mut command = programs::command(words);
        command.env("UNIDESK_URL", url).env("UNIDESK_TOKEN", token.trim()).env("HOME", self.home.path());
        command.envs(ca_file.map(|file| ("UNIDESK_CA_FILE", file))).current_dir(self.home.path().join("work"));
        let mut command = tokio::process::Command::from(placed(command, self.style, &self.home));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        finish(command.spawn().expect("it starts")).await
    }

    /// What it prints when all is well, to whoever trusts the authority.
    async fn say(&self, words: &[&str]) -> String {
        let output = self.tell(&self.url(), Some(&self.ca_file), words).await;
        assert_eq!(output.status.code(), Some(0), "{words:?}: {}", text(&output.stderr));
        text(&output.stdout)
    }

    /// An artifact of several parts goes in and comes out, to a person and through a task.
    async fn carries_artifacts(&mut self) {
        let work = self.home.path().join("work");
        let content: Vec<u8> = (0..9_000_000_u32).flat_map(|n| n.to_le_bytes()).take(17 << 20).collect();
        fs::write(work.join("model.bin"), &content).expect("written");
        self.say(&["artifact", "put", "model.bin", "--name", "model"]).await;
        self.say(&["artifact", "get", "model", "--to", "back.bin"]).await;
        assert!(fs::read(work.join("back.bin")).expect("it came back") == content);

        let token = self.say(&["node-token", "create", "--name", "there"]).await;
        fs::write(self.home.path().join("node.token"), token.trim()).expect("written");
        let mut agent = self.agent(Some(&self.ca_file));
        agent.until_said("ready ", SOON).await;
        self.agent = Some(agent);
        let process = ["--executor", "process", "--cpus", "0.1"];
        let line = "head -c 9000000 model.bin >out.bin";
        let run = [&["run", line, "--input", "model:model.bin", "--output", "out.bin:cut"][..], &process].concat();
        self.say(&run).await;
        self.say(&["get", "last", "--to", "got"]).await;
        assert!(fs::read(work.join("got/out.bin")).expect("it came out") == content[..9_000_000]);
    }
}

const BUCKET: &str = "unidesk-test";

/// As the services are told.
fn endpoint(seaweedfs: &SeaweedFs, style: Style) -> String {
    match style {
        Style::Path => seaweedfs.endpoint.clone(),
        Style::VirtualHost => seaweedfs.endpoint.replace("127.0.0.1", SeaweedFs::DOMAIN),
    }
}

/// What the names of hosts mean where a program was placed.
fn hosts() -> String {
    format!("127.0.0.1 localhost {} {BUCKET}.{}\n", SeaweedFs::DOMAIN, SeaweedFs::DOMAIN)
}

/// In a mount namespace with names of hosts of its own, where that is wanted: nobody else on this machine sees them. Needs root.
fn placed(command: Command, style: Style, home: &Home) -> Command {
    if style == Style::Path {
        return command;
    }
    let mut placed = Command::new("unshare");
    placed.args(["--mount", "sh", "-c", "mount --bind \"$0\" /etc/hosts && exec \"$@\""]);
    placed.arg(home.path().join("hosts")).arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => placed.env(name, value),
            None => placed.env_remove(name),
        };
    }
    // A proxy would be asked for these names, and knows none of them.
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_proxy(name)) {
        placed.env_remove(name);
    }
    if let Some(dir) = command.get_current_dir() {
        placed.current_dir(dir);
    }
    placed
}

fn is_proxy(name: &OsStr) -> bool {
    name.to_string_lossy().to_lowercase().ends_with("_proxy")
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_a_private_authority_are_taken_by_whoever_is_told_of_it() {
    let mut house = House::start(Style::Path).await;
    house.carries_artifacts().await;

    // Who was not told of it hears what to do: about the platform, and about the store behind one that he reaches.
    let said = |output: &Output| text(&output.stderr);
    let refused = house.tell(&house.url(), None, &["whoami"]).await;
    let words = "its certificate is of an authority that is not trusted here; UNIDESK_CA_FILE names the PEM file of one that is";
    assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
    assert!(said(&refused).contains(words), "{}", said(&refused));
    let store = house.seaweedfs.endpoint.strip_prefix("https://").expect("TLS");
    for command in [&["artifact", "put", "back.bin", "--name", "more"][..], &["artifact", "get", "model", "--to", "no"]]
    {
        let refused = house.tell(&house.up.url(), None, command).await;
        assert_eq!(refused.status.code(), Some(5), "{}", said(&refused));
        assert!(said(&refused).contains(&format!("object store at {store}: {words}")), "{}", said(&refused));
    }
    let missing = house.home.path().join("missing.pem");
    let refused = house.tell(&house.url(), Some(&missing), &["whoami"]).await;
    assert_eq!(refused.status.code(), Some(2), "{}", said(&refused));
    let words_of_file = format!("the certificates in {} can't be read", missing.display());
    assert!(
        said(&refused).contains(&words_of_file) && said(&refused).contains("UNIDESK_CA_FILE"),
        "{}",
        said(&refused)
    );

    // A node: the same, and it goes on trying.
    house.agent.take().expect("it runs").stop().await;
    let mut agent = house.agent(None);
    agent.until_said(words, SOON).await;
    agent.stop().await;
    let mut agent = house.agent(Some(&missing));
    assert!(!agent.ended(SOON).await.success());
    assert!(agent.said().contains(&words_of_file), "{}", agent.said());
    house.up.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_may_be_in_the_names_of_hosts() {
    let mut house = House::start(Style::VirtualHost).await;
    house.carries_artifacts().await;
    let token = fs::read_to_string(house.home.path().join("data/admin.token")).expect("the first key");
    let client = client::Client::new(house.up.url(), token.trim()).expect("a client");
    let model = "model".parse().expect("a name");
    let id = client.artifact(&model, None).await.expect("it is there").id;
    let url = client.download_artifact(id).await.expect("an address").get.url;
    let host = endpoint(&house.seaweedfs, Style::VirtualHost).replace("https://", &format!("https://{BUCKET}."));
    assert!(url.starts_with(&format!("{host}/objects/")), "{url}");
    house.up.stop().await;
}
