//! What identifies an environment's image, and which images are wanted right now.

use domain::{source::Environment, warm};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

pub(super) const KIND_LABEL: &str = "unidesk.kind";
pub(super) const KIND: &str = "env";
pub(super) const KEY_LABEL: &str = "unidesk.env";
pub(super) const INSTANCE_LABEL: &str = "unidesk.instance";
pub(super) const TREE_LABEL: &str = "unidesk.env.tree";
pub(super) const DOCKERFILE_LABEL: &str = "unidesk.env.dockerfile";

/// Equal environments on one platform have one identity, and so one image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Identity {
    pub(super) tag: String,
    /// As placement knows it.
    pub(super) key: String,
}

impl Identity {
    pub(super) fn of(environment: &Environment, os: &str, arch: &str) -> Self {
        let text = serde_json::json!([
            environment.repo.url.as_str(),
            environment.repo.commit.as_str(),
            environment.dockerfile_path.as_str(),
            environment.build_args,
            os,
            arch,
        ]);
        let hash = Sha256::digest(text.to_string().as_bytes());
        Self { tag: format!("unidesk/env:{}", hex::encode(&hash[..16])), key: warm::environment_key(environment) }
    }
}

/// Images that are being built or that a container is about to be made from: garbage collection passes them by.
#[derive(Clone, Default)]
pub(super) struct Pins(Arc<Mutex<HashMap<String, usize>>>);

pub(super) struct Pin {
    pins: Pins,
    tag: String,
}

impl Pins {
    pub(super) fn hold(&self, tag: &str) -> Pin {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(tag.to_owned()).or_default() += 1;
        Pin { pins: self.clone(), tag: tag.to_owned() }
    }
    pub(super) fn contains(&self, tag: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains_key(tag)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = self.pins.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&self.tag) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.tag);
            }
        }
    }
}

/// An image that is there.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    pub(super) id: String,
    pub(super) size_bytes: u64,
    pub(super) labels: BTreeMap<String, String>,
    /// The image's own `USER`.
    pub(super) user: String,
    /// What it runs by itself.
    pub(super) entrypoint: Vec<String>,
    pub(super) cmd: Vec<String>,
}

/// The literal bases of a Dockerfile: what stands after FROM, without variables and without the names of its own stages.
pub(super) fn bases(dockerfile: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(dockerfile);
    let mut stages: Vec<String> = Vec::new();
    let mut bases = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace().filter(|word| !word.starts_with("--"));
        if !words.next().is_some_and(|word| word.eq_ignore_ascii_case("from")) {
            continue;
        }
        let Some(name) = words.next() else { continue };
        let is_stage = stages.iter().any(|stage| stage.eq_ignore_ascii_case(name));
        if !is_stage && !name.contains('$') && name != "scratch" && !bases.iter().any(|base| base == name) {
            bases.push(name.to_owned());
        }
        if words.next().is_some_and(|word| word.eq_ignore_ascii_case("as"))
            && let Some(stage) = words.next()
        {
            stages.push(stage.to_owned());
        }
    }
    bases
}

/// A Dockerfile without its `# syntax=` line, byte for byte as long; None when it has none. That line would have BuildKit fetch a
/// frontend from a registry: a second program that decides what is built, and a build that fails without a network.
pub(super) fn without_syntax_line(dockerfile: &[u8]) -> Option<Vec<u8>> {
    let mut start = 0;
    // Directives stand before everything else.
    for line in dockerfile.split_inclusive(|byte| *byte == b'\n') {
        let text = String::from_utf8_lossy(line);
        let text = text.trim_start_matches('\u{feff}').trim();
        let comment = text.strip_prefix('#')?;
        if let Some((name, _)) = comment.split_once('=')
            && name.trim().eq_ignore_ascii_case("syntax")
        {
            let equals = start + line.iter().position(|byte| *byte == b'=')?;
            let mut changed = dockerfile.to_vec();
            changed[equals] = b':';
            return Some(changed);
        }
        start += line.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_are_what_has_to_be_there_before() {
        let text =
            b"FROM --platform=linux/amd64 rust:1.95 AS build\nRUN x\nFROM build\nFROM $BASE\nfrom debian@sha256:00 \n";
        assert_eq!(bases(text), ["rust:1.95", "debian@sha256:00"]);
    }

    #[test]
    fn a_syntax_line_becomes_a_comment_of_the_same_length() {
        let text = b"# check=skip=all\n#syntax = docker/dockerfile:1\nFROM x\n";
        let changed = without_syntax_line(text).expect("it has one");
        assert_eq!(changed, b"# check=skip=all\n#syntax : docker/dockerfile:1\nFROM x\n");
        assert_eq!(without_syntax_line(b"FROM x\n# syntax=y\n"), None);
    }
}
