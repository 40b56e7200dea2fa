//! Repositories built with Git's plumbing, object by object.

use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
};

/// Seconds since 1970 of a repository's first commit; each further one is a minute later. Fixed, so that ids are.
const FIRST_COMMIT_AT: u64 = 1_700_000_000;

/// One repository of a [`GitHost`](super::GitHost).
#[derive(Clone, Debug)]
pub struct HostedRepository {
    path: PathBuf,
    url: String,
}

/// What stands at a path of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    File(Vec<u8>),
    Executable(Vec<u8>),
    /// A link with this target.
    Symlink(String),
    /// A submodule at this commit, which need not exist.
    Submodule(String),
}

impl From<&str> for Content {
    fn from(text: &str) -> Self {
        Self::File(text.into())
    }
}

impl HostedRepository {
    pub(super) fn at(path: PathBuf, url: String) -> Self {
        Self { path, url }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bare repository on disk.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Commits exactly these files on top of `main` and answers the commit's id. A path is split at each `/` and checked by
    /// nobody: `a/../b`, `.GIT/x` and names with control characters become what they say.
    pub fn commit(&self, files: &[(&str, Content)], message: &str) -> String {
        let tree = self.tree(&files.iter().map(|(path, content)| (*path, content)).collect::<Vec<_>>());
        let parent = self.tip("main");
        let older = match &parent {
            Some(parent) => self.git(&["rev-list", "--count", parent], b"").parse().expect("a count"),
            None => 0u64,
        };
        let time = FIRST_COMMIT_AT + 60 * older;
        let parent = parent.map(|parent| format!("parent {parent}\n")).unwrap_or_default();
        let person = format!("Ana <ana@example.org> {time} +0000");
        let text = format!("tree {tree}\n{parent}author {person}\ncommitter {person}\n\n{message}\n");
        let commit = self.object("commit", text.as_bytes());
        self.set_ref("refs/heads/main", &commit);
        commit
    }

    /// Points a branch or tag (`refs/heads/x`, `refs/tags/v1`) at a commit, wherever it stood before.
    pub fn set_ref(&self, name: &str, commit: &str) {
        self.git(&["update-ref", name, commit], b"");
    }

    pub fn delete_ref(&self, name: &str) {
        self.git(&["update-ref", "-d", name], b"");
    }

    fn tip(&self, branch: &str) -> Option<String> {
        let name = format!("refs/heads/{branch}");
        let found = self.git(&["for-each-ref", "--format=%(objectname)", &name], b"");
        (!found.is_empty()).then_some(found)
    }

    fn tree(&self, files: &[(&str, &Content)]) -> String {
        let mut folders: BTreeMap<&str, Vec<(&str, &Content)>> = BTreeMap::new();
        // Git sorts a directory as if its name ended with a slash.
        let mut entries: Vec<(String, &str, &str, String)> = Vec::new();
        for (path, content) in files {
            if let Some((folder, rest)) = path.split_once('/') {
                folders.entry(folder).or_default().push((rest, content));
                continue;
            }
            let (mode, id) = match content {
                Content::File(bytes) => ("100644", self.object("blob", bytes)),
                Content::Executable(bytes) => ("100755", self.object("blob", bytes)),
                Content::Symlink(target) => ("120000", self.object("blob", target.as_bytes())),
                Content::Submodule(commit) => ("160000", commit.clone()),
            };
            entries.push(((*path).to_owned(), mode, path, id));
        }
        for (name, inside) in &folders {
            entries.push((format!("{name}/"), "40000", name, self.tree(inside)));
        }
        entries.sort();
        let mut bytes = Vec::new();
        for (_, mode, name, id) in entries {
            bytes.extend_from_slice(format!("{mode} {name}\0").as_bytes());
            bytes.extend((0..20).map(|at| u8::from_str_radix(&id[2 * at..2 * at + 2], 16).expect("a full object id")));
        }
        self.object("tree", &bytes)
    }

    fn object(&self, kind: &str, bytes: &[u8]) -> String {
        // --literally: no look at whether a tree makes sense.
        self.git(&["hash-object", "-t", kind, "-w", "--literally", "--stdin"], bytes)
    }

    fn git(&self, arguments: &[&str], input: &[u8]) -> String {
        git(&self.path, arguments, input)
    }
}

/// What git gets of our environment: where programs are, and nothing of the machine's own settings.
pub(super) fn clean_environment() -> Vec<(&'static str, std::ffi::OsString)> {
    vec![
        ("PATH", std::env::var_os("PATH").unwrap_or_default()),
        ("HOME", "/nonexistent".into()),
        ("GIT_CONFIG_NOSYSTEM", "1".into()),
        ("GIT_CONFIG_GLOBAL", "/dev/null".into()),
    ]
}

/// Runs git and answers what it prints, without the line's end.
pub(super) fn git(directory: &Path, arguments: &[&str], input: &[u8]) -> String {
    let mut child = std::process::Command::new("git")
        .current_dir(directory)
        .args(arguments)
        .env_clear()
        .envs(clean_environment())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("git is installed");
    child.stdin.take().expect("stdin is piped").write_all(input).expect("git reads its input");
    let output = child.wait_with_output().expect("git ends");
    assert!(output.status.success(), "git {arguments:?} failed");
    String::from_utf8(output.stdout).expect("git prints text").trim_end().to_owned()
}
