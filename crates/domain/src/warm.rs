//! The keys under which a node reports what it has at hand, and placement prefers it.

use crate::source::{Environment, RepoUrl, Source};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;

/// Of an environment's image: equal environments, equal keys. The platform is the node's own.
pub fn environment_key(environment: &Environment) -> String {
    let identity = serde_json::to_vec(environment).expect("an environment is a map of strings, which JSON can hold");
    format!("env:{}", hash(&identity))
}

/// Of a repository in the git cache.
pub fn repository_key(url: &RepoUrl) -> String {
    format!("repo:{}", hash(url.as_str().as_bytes()))
}

/// Everything that a task would find at hand on a warm node.
pub fn keys(source: &Source) -> BTreeSet<String> {
    let environment = source.environment.as_ref().map(environment_key);
    let code = source.code.as_ref().map(|code| repository_key(&code.url));
    environment.into_iter().chain(code).collect()
}

fn hash(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}
