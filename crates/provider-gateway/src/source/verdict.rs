//! From what git printed to whose fault it is. Pure: text in, verdict out.

use super::Role;
use crate::executor::Failure;
use domain::{outcome::FailureKind, source::Pinned};

/// Why a fetch did not bring the commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The host does not hand out this object by its id. That it isn't there is only one of the reasons.
    IdRefused(String),
    /// The commit is in no place where this node could find it; the reason as half a sentence.
    CommitMissing(String),
    /// There is something of this id, and it is a tag, a tree, or a file.
    NotACommit(&'static str),
    NoRepository,
    CredentialsNeeded,
    CredentialsRefused,
    Forbidden,
    /// The network, the host, or what stands between; git's own words.
    HostFailed(String),
    DiskFull,
    /// Objects that git refuses to store.
    Unsound(String),
    /// Nothing of the above. Most often the cached copy is damaged.
    Unexplained(String),
}

/// Reads git's stderr.
pub(super) fn read(stderr: &str) -> Trouble {
    // Lines of the far side's own choosing, except its protocol errors, decide nothing.
    let lines: Vec<&str> = stderr.lines().map(str::trim).filter(|line| !line.starts_with("remote:")).collect();
    let find = |needles: &[&str]| lines.iter().find(|line| needles.iter().any(|needle| line.contains(needle))).copied();

    if find(&["No space left on device", "Disk quota exceeded"]).is_some() {
        return Trouble::DiskFull;
    }
    if find(&["fsck error in packed object"]).is_some() {
        let what = find(&["error: object "]).unwrap_or("fsck error in packed object");
        return Trouble::Unsound(plain(what));
    }
    if let Some(line) = find(&["not our ref", "unadvertised object", "not valid: want", "couldn't find remote ref"]) {
        return Trouble::IdRefused(refusal_in(line));
    }
    if let Some(line) = lines.iter().find(|line| line.contains("remote error: want ") && line.ends_with("not valid")) {
        return Trouble::IdRefused(refusal_in(line));
    }
    if find(&["could not read Username", "could not read Password"]).is_some() {
        return Trouble::CredentialsNeeded;
    }
    if find(&["Authentication failed for", "returned error: 401"]).is_some() {
        return Trouble::CredentialsRefused;
    }
    if find(&["returned error: 403"]).is_some() {
        return Trouble::Forbidden;
    }
    let no_repository = |line: &&&str| {
        line.starts_with("fatal: repository '") && line.ends_with("not found")
            || line.contains("is this a git repository?")
    };
    if lines.iter().find(no_repository).is_some() || find(&["returned error: 404", "returned error: 410"]).is_some() {
        return Trouble::NoRepository;
    }
    let network = [
        "unable to access '",
        "RPC failed",
        "remote error:",
        "the remote end hung up",
        "unexpected disconnect",
        "early EOF",
        "protocol error",
        "expected flush",
        "unable to update url base from redirection",
        "redirection",
    ];
    if let Some(line) = find(&network) {
        return Trouble::HostFailed(plain(line));
    }
    let last =
        lines.iter().find(|line| line.starts_with("fatal:")).or(lines.last()).copied().unwrap_or("git said nothing");
    Trouble::Unexplained(plain(last))
}

/// The host's own few words out of `fatal: remote error: upload-pack: not our ref 4f0c...`, without the id.
fn refusal_in(line: &str) -> String {
    let words = plain(line);
    let words = words.trim_start_matches("remote error: ").trim_start_matches("upload-pack: ");
    let without_id: Vec<&str> =
        words.split(' ').filter(|word| !(word.len() == 40 && word.bytes().all(|b| b.is_ascii_hexdigit()))).collect();
    without_id.join(" ")
}

/// Without git's `fatal:` and the URL that our own sentence already names.
fn plain(line: &str) -> String {
    let line = line.trim_start_matches("fatal: ").trim_start_matches("error: ");
    match line.strip_prefix("unable to access '").and_then(|rest| rest.split_once("': ")) {
        Some((_, reason)) => reason.to_owned(),
        None => line.to_owned(),
    }
}

impl Trouble {
    /// The sentence for the user, and whose fault it is. `has_credential`: this node has one for the host.
    pub(super) fn into_failure(self, role: Role, pinned: &Pinned, has_credential: bool) -> Failure {
        let (url, host) = (&pinned.url, pinned.url.host());
        let user = |message| Failure::new(FailureKind::SourceUnavailable, message);
        match self {
            Self::IdRefused(answer) => user(format!(
                "{role} commit {} is not in {url}: the host answered {answer:?} (not pushed, or rebased away)",
                pinned.commit.short()
            )),
            Self::CommitMissing(reason) => user(format!(
                "{role} commit {} is not in {url}: {reason} (not pushed, or rebased away)",
                pinned.commit.short()
            )),
            Self::NotACommit(kind) => user(format!(
                "{role} commit {} of {url} is no commit but a {kind}; for the commit of a tag ask: git rev-parse TAG^{{commit}}",
                pinned.commit.short()
            )),
            Self::NoRepository if has_credential => user(format!(
                "there is no {role} repository at {url} (the host answered 404), or this node's credential for {host} does \
                 not open it"
            )),
            Self::NoRepository => user(format!(
                "there is no {role} repository at {url} (the host answered 404), or it needs credentials that this node does \
                 not have"
            )),
            Self::CredentialsNeeded if has_credential => Failure::node(format!(
                "{role} repository {url} needs credentials, and this node's credential for {host} gave none: its token file or \
                 helper has to be mended, or the host sent the node on to another host"
            )),
            Self::CredentialsNeeded => user(format!(
                "{role} repository {url} needs credentials, and this node has none for {host}: ask the node's owner to add one"
            )),
            // A stale token is this machine's; another node may have a good one.
            Self::CredentialsRefused => Failure::node(format!(
                "{host} does not accept this node's credential for it, so {role} repository {url} was not fetched: the node's \
                 owner has to renew it"
            )),
            Self::Forbidden => {
                user(format!("{host} does not let this node read {role} repository {url} (it answered 403)"))
            }
            Self::HostFailed(words) => Failure::node(format!("{role} repository {url} could not be fetched: {words}")),
            Self::DiskFull => {
                Failure::node(format!("{role} repository {url} could not be fetched: this node's disk is full"))
            }
            Self::Unsound(words) => user(format!(
                "{role} commit {} of {url} is refused, since it holds objects that Git itself finds unsound: {words}",
                pinned.commit.short()
            )),
            Self::Unexplained(words) => {
                Failure::node(format!("git on this node failed at {role} repository {url}: {words}"))
            }
        }
    }
}

/// Makes text of git or of a host fit for a log: no userinfo in URLs, none of the `secrets`, no control characters.
pub(super) fn scrub(text: &str, secrets: &[String]) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        let end = after.find(|c: char| c == '/' || c == '\'' || c == '"' || c.is_whitespace()).unwrap_or(after.len());
        rest = match after[..end].rfind('@') {
            Some(at) => &after[at + 1..],
            None => after,
        };
    }
    clean.push_str(rest);
    for secret in secrets.iter().filter(|secret| secret.len() >= 4) {
        clean = clean.replace(secret.as_str(), "***");
    }
    clean.chars().filter(|c| *c == '\n' || !c.is_control()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_git_prints_tells_whose_fault_it_is() {
        let id = "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432";
        for (stderr, verdict) in [
            (
                format!(
                    "fatal: remote error: upload-pack: not our ref {id}\nfatal: the remote end hung up unexpectedly"
                ),
                Trouble::IdRefused("not our ref".into()),
            ),
            (
                format!("error: Server does not allow request for unadvertised object {id}"),
                Trouble::IdRefused("Server does not allow request for unadvertised object".into()),
            ),
            (format!("fatal: remote error: want {id} not valid"), Trouble::IdRefused("want not valid".into())),
            (
                "fatal: could not read Username for 'https://h': terminal prompts disabled".into(),
                Trouble::CredentialsNeeded,
            ),
            (
                "remote: Invalid token\nfatal: Authentication failed for 'https://h/r/'".into(),
                Trouble::CredentialsRefused,
            ),
            ("fatal: repository 'https://h/r/' not found".into(), Trouble::NoRepository),
            (
                "fatal: unable to access 'https://h/r/': The requested URL returned error: 403".into(),
                Trouble::Forbidden,
            ),
            (
                "fatal: unable to access 'https://h/r/': Could not resolve host: h".into(),
                Trouble::HostFailed("Could not resolve host: h".into()),
            ),
            (
                "fatal: write error: No space left on device\nfatal: fetch-pack: invalid index-pack output".into(),
                Trouble::DiskFull,
            ),
            (
                "error: object 12ab: hasDotgit: contains '.git'\nfatal: fsck error in packed object".into(),
                Trouble::Unsound("object 12ab: hasDotgit: contains '.git'".into()),
            ),
            ("fatal: not a git repository: '/x'".into(), Trouble::Unexplained("not a git repository: '/x'".into())),
            // What the host says of its own accord proves nothing.
            ("remote: returned error: 404".into(), Trouble::Unexplained("git said nothing".into())),
        ] {
            assert_eq!(read(&stderr), verdict, "{stderr}");
        }
    }

    #[test]
    fn scrubbed_text_has_no_userinfo_no_secret_and_no_escape_sequences() {
        let text = "fatal: 'https://ana:p@ss@h/r' and https://h/x@y\x1b]52;c;AA\x07 token=s3cret";
        assert_eq!(scrub(text, &["s3cret".into()]), "fatal: 'https://h/r' and https://h/x@y]52;c;AA token=***");
    }
}
