//! Which code and which environment: a repository and a full commit id each. Checked once, here.

use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt};

/// A repository's address: `https://host/path`, or `http://` (which a node takes only for loopback and for hosts its
/// owner lists). Never with credentials inside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RepoUrl(String);

/// A full SHA-1 commit id: 40 lower-case hex digits. Names and abbreviations can move, so they are refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommitId(String);

/// A path inside the environment repository, relative, without `..`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DockerfilePath(String);

/// Why a text is no such thing: a sentence, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Invalid {
    pub code: &'static str,
    pub detail: String,
    pub hint: Option<String>,
}

fn invalid<T>(code: &'static str, detail: impl Into<String>, hint: Option<&str>) -> Result<T, Invalid> {
    Err(Invalid { code, detail: detail.into(), hint: hint.map(str::to_owned) })
}

impl RepoUrl {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        const CODE: &str = "bad_repo_url";
        let hint = Some("https://HOST/PATH.git");
        let Some((scheme, rest)) = text.split_once("://") else {
            return invalid(CODE, format!("{} is not a repository URL.", quote(text)), hint);
        };
        if scheme != "https" && scheme != "http" {
            return invalid(
                CODE,
                format!(
                    "{} URLs are not taken; only https (and http where the node's owner allows it).",
                    quote(scheme)
                ),
                hint,
            );
        }
        if text.len() > 2_000 {
            return invalid(CODE, "The URL is longer than 2,000 characters.", None);
        }
        if text.bytes().any(|b| !(0x21..=0x7e).contains(&b))
            || text.contains(['\\', '"', '<', '>', '`', '{', '}', '|', '^'])
        {
            return invalid(CODE, "The URL has blanks, control or non-ASCII characters.", Some("percent-encode them"));
        }
        let lower = text.to_ascii_lowercase();
        if ["%00", "%0a", "%0d"].iter().any(|escape| lower.contains(escape)) {
            return invalid(CODE, "The URL has an encoded line break or NUL.", None);
        }
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        if authority.contains('@') {
            return invalid(
                "credentials_in_url",
                "The URL carries credentials; they would be stored with the task.",
                Some("leave them out and give the node's owner a credential for this host"),
            );
        }
        let (host, port) = split_port(authority);
        if host.is_empty() || host.starts_with('-') || !port.is_none_or(|p| p.parse::<u16>().is_ok_and(|p| p > 0)) {
            return invalid(CODE, format!("{} names no host.", quote(text)), hint);
        }
        if !host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'[' | b']' | b':')) {
            return invalid(CODE, format!("{} is not a host name.", quote(host)), hint);
        }
        if path.is_empty()
            || path.starts_with(['/', '-'])
            || path.contains(['?', '#'])
            || path.split('/').any(|part| part == "..")
        {
            return invalid(CODE, format!("{} has no usable path.", quote(text)), hint);
        }
        Ok(Self(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    pub fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }
    /// Host without port or brackets, lower-case.
    pub fn host(&self) -> String {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        let authority = rest.split('/').next().unwrap_or("");
        split_port(authority).0.trim_matches(['[', ']']).to_ascii_lowercase()
    }
    pub fn is_loopback(&self) -> bool {
        let host = self.host();
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }
    /// The last part of the path without `.git`: what people call the repository.
    pub fn short_name(&self) -> &str {
        let last = self.0.trim_end_matches('/').rsplit('/').next().unwrap_or(&self.0);
        last.strip_suffix(".git").unwrap_or(last)
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

impl CommitId {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let code = "not_a_commit_id";
        let is_hex = !text.is_empty() && text.bytes().all(|b| b.is_ascii_hexdigit());
        if is_hex && text.len() == 64 {
            return invalid(code, "This is a SHA-256 commit id; SHA-256 repositories are not supported yet.", None);
        }
        if is_hex && text.len() == 40 {
            if text.bytes().any(|b| b.is_ascii_uppercase()) {
                return invalid(code, "A commit id is written in lower case.", Some(&text.to_ascii_lowercase()));
            }
            return Ok(Self(text.to_owned()));
        }
        let what = if is_hex && (4..40).contains(&text.len()) { "an abbreviation" } else { "a name" };
        let what = if is_hex && text.len() > 40 { "too long" } else { what };
        invalid(
            code,
            format!("{} is {what}. A task is pinned to a full commit id of 40 hex digits.", quote(text)),
            Some(if what == "an abbreviation" { "git rev-parse COMMIT" } else { "git ls-remote URL BRANCH" }),
        )
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
    /// The first 8 digits, as Git people read commits.
    pub fn short(&self) -> &str {
        &self.0[..8]
    }
}

impl DockerfilePath {
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        const CODE: &str = "bad_path";
        let hint = Some("a path inside the environment repository, such as torch/Dockerfile");
        if text.is_empty() || text.len() > 1_024 || text.split('/').count() > 64 {
            return invalid(CODE, "A Dockerfile's path has 1 to 1,024 characters and at most 64 levels.", hint);
        }
        if text.starts_with('/') {
            return invalid(CODE, format!("{} is absolute.", quote(text)), hint);
        }
        if text.split('/').any(|part| part == "..") {
            return invalid(CODE, format!("{} leaves the repository.", quote(text)), hint);
        }
        if text.starts_with('-')
            || text.chars().any(char::is_control)
            || text.contains('\\')
            || text.split('/').any(|part| part.is_empty() || part == ".")
        {
            return invalid(CODE, format!("{} is not a plain path.", quote(text)), hint);
        }
        Ok(Self(text.to_owned()))
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text of a stranger inside a sentence: escaped and cut.
pub(crate) fn quote(text: &str) -> String {
    let cut: String = text.chars().take(80).collect();
    let more = if cut.len() < text.len() { "..." } else { "" };
    format!("{:?}{more}", cut)
}

impl fmt::Display for RepoUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl fmt::Display for DockerfilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A repository at a commit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Pinned {
    pub url: RepoUrl,
    pub commit: CommitId,
}

impl fmt::Display for Pinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.url.short_name(), self.commit.short())
    }
}

/// What an image is built from. Two tasks with equal environments on one platform share one image.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Environment {
    pub repo: Pinned,
    pub dockerfile_path: DockerfilePath,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub build_args: BTreeMap<String, String>,
}

/// What a task runs. A container task has both, a process task the code or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<Pinned>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub environment: Option<Environment>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_http_urls_without_credentials_are_repositories() {
        for good in [
            "https://git.example/lab/resnet.git",
            "http://127.0.0.1:7701/code.git",
            "https://git.example:8443/~ana/x",
            "http://[::1]:80/r",
        ] {
            assert!(RepoUrl::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "ext::sh -c touch% /tmp/p",
            "--upload-pack=touch /tmp/p",
            "-oProxyCommand=x",
            "ssh://-oProxyCommand=x/y",
            "fd::17",
            "file:///etc",
            "/srv/x",
            "../x",
            "git://h/r",
            "https:///evil/r",
            "https://h/r%0d%0aX",
            "https://h/r\rX",
            "https://u:p@h/r",
            "https://-h/r",
            "https://h",
            "https://h/",
            "https://h:0/r",
            "https://h:99999/r",
            "https://h/../r",
            "https://h/r?x=1",
            "https://h//r",
            "HTTPS://h/r",
            "https://h/a b",
            "",
        ] {
            assert!(RepoUrl::parse(bad).is_err(), "{bad}");
        }
        assert_eq!(RepoUrl::parse("http://[::1]:80/r").map(|u| (u.host(), u.is_loopback())), Ok(("::1".into(), true)));
        assert_eq!(RepoUrl::parse("https://u:p@h/r").map_err(|e| e.code), Err("credentials_in_url"));
    }

    #[test]
    fn only_a_full_lower_case_id_names_a_commit() {
        let full = "4f0c1d2e3b4a59687706f5e4d3c2b1a098765432";
        assert!(CommitId::parse(full).is_ok());
        for (bad, word) in [
            ("main", "name"),
            ("HEAD", "name"),
            ("4f0c1d2e", "abbreviation"),
            (&full[..39], "abbreviation"),
            (&format!("{full}0"), "too long"),
            (&full.to_ascii_uppercase(), "lower case"),
            (&full.repeat(2)[..64], "SHA-256"),
            ("--output=/x", "name"),
            ("", "name"),
        ] {
            let refusal = CommitId::parse(bad).expect_err(bad);
            assert!(refusal.detail.contains(word), "{bad}: {}", refusal.detail);
        }
    }

    #[test]
    fn a_dockerfile_path_stays_inside() {
        for good in ["Dockerfile", "torch/Dockerfile", "a/b.c/Dockerfile.gpu"] {
            assert!(DockerfilePath::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "../../etc/passwd",
            "/etc/passwd",
            "a/../b",
            "a\0b",
            "-f",
            "",
            "a//b",
            "./Dockerfile",
            &"a/".repeat(1000),
            "a\\b",
        ] {
            assert!(DockerfilePath::parse(bad).is_err(), "{bad}");
        }
    }
}
