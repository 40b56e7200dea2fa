//! What the node's owner allows: hosts over plain http, and which credential belongs to which host.

use crate::executor::Failure;
use domain::{outcome::FailureKind, source::RepoUrl};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

/// The `source` section of the agent's settings.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SourcePolicy {
    /// Hosts (without port, lower-case) that may be reached over http. Loopback always may.
    pub http_hosts: BTreeSet<String>,
    /// By host (without port, lower-case). Used for no other host, wherever a redirect leads.
    pub credentials: BTreeMap<String, Credential>,
    /// Seconds that one fetch may take.
    pub fetch_timeout_s: u64,
}

impl Default for SourcePolicy {
    fn default() -> Self {
        Self { http_hosts: BTreeSet::new(), credentials: BTreeMap::new(), fetch_timeout_s: 30 * 60 }
    }
}

impl SourcePolicy {
    /// Refuses plain http where the owner has not allowed it.
    pub fn check(&self, url: &RepoUrl) -> Result<(), Failure> {
        if url.is_https() || url.is_loopback() || self.http_hosts.contains(&url.host()) {
            return Ok(());
        }
        Err(Failure::new(
            FailureKind::SourceUnavailable,
            format!(
                "this node does not fetch {url}: plain http is taken only from loopback and from hosts that the node's owner \
                 lists. Use https, or ask the owner to add {} to http_hosts.",
                url.host()
            ),
        ))
    }

    pub fn credential(&self, url: &RepoUrl) -> Option<&Credential> {
        self.credentials.get(&url.host())
    }

    pub(super) fn fetch_timeout(&self) -> Duration {
        Duration::from_secs(self.fetch_timeout_s)
    }
}

/// How this node proves itself to one host.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawCredential")]
pub struct Credential {
    pub username: String,
    pub secret: Secret,
}

/// Where the password comes from when git asks for it. It is never read into the agent to be handed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// The first line of this file, read anew at each fetch.
    TokenFile(PathBuf),
    /// The first line that this shell command prints.
    Helper(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCredential {
    username: Option<String>,
    token_file: Option<PathBuf>,
    helper: Option<String>,
}

impl TryFrom<RawCredential> for Credential {
    type Error = &'static str;
    fn try_from(raw: RawCredential) -> Result<Self, Self::Error> {
        let secret = match (raw.token_file, raw.helper) {
            (Some(file), None) if file.is_absolute() => Secret::TokenFile(file),
            (Some(_), None) => return Err("token_file is an absolute path"),
            (None, Some(command)) => Secret::Helper(command),
            _ => return Err("a credential has either token_file or helper"),
        };
        // What GitHub, GitLab and Gitea take as the user of a token.
        Ok(Self { username: raw.username.unwrap_or_else(|| "x-access-token".into()), secret })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_reads_from_settings_and_refuses_what_it_does_not_know() {
        let policy: SourcePolicy = toml::from_str(
            "http_hosts = [\"git.lab\"]\n[credentials.\"git.example\"]\ntoken_file = \"/etc/unidesk/token\"\n",
        )
        .expect("a good policy");
        assert_eq!(policy.fetch_timeout_s, 1_800);
        assert_eq!(policy.credentials["git.example"].username, "x-access-token");
        for bad in [
            "http_host = []",
            "[credentials.h]\nusername = \"ana\"",
            "[credentials.h]\ntoken_file = \"/t\"\nhelper = \"pass show git\"",
            "[credentials.h]\ntoken_file = \"t\"",
            "[credentials.h]\ntoken = \"secret\"",
        ] {
            assert!(toml::from_str::<SourcePolicy>(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn plain_http_needs_loopback_or_the_owners_word() {
        let policy = SourcePolicy { http_hosts: ["git.lab".to_owned()].into(), ..SourcePolicy::default() };
        let allowed = |url: &str| policy.check(&RepoUrl::parse(url).expect(url)).is_ok();
        assert!(allowed("https://anywhere.example/r.git"));
        assert!(allowed("http://127.0.0.1:7701/r.git"));
        assert!(allowed("http://git.lab:3000/r.git"));
        assert!(!allowed("http://git.lab.evil.example/r.git"));
        assert!(!allowed("http://169.254.169.254/latest"));
    }
}
