//! What an executor recorded of an attempt's preparation. Everything is optional: executors differ, and so do their versions.

use crate::text::clean;
use domain::quantity::show_bytes;
use serde_json::Value;

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    pub code: Option<Tree>,
    pub environment: Option<Tree>,
    pub image: Option<BuiltImage>,
    pub inputs: Vec<BroughtInput>,
    /// It began with what an attempt before it had stored.
    pub checkpoint: Option<BroughtInput>,
}

/// An artifact that was brought to its place.
#[derive(Clone, Debug, PartialEq)]
pub struct BroughtInput {
    /// With its version.
    pub name: String,
    pub bytes: u64,
    /// The node had it.
    pub cached: bool,
    pub ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Tree {
    /// The repository's last name and the commit's first digits.
    pub name: String,
    pub bytes_fetched: u64,
    /// It was there; nothing was fetched.
    pub cached: bool,
    pub ms: Option<u64>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct BuiltImage {
    /// `sha256:9f2c51aa`.
    pub id: String,
    pub warm: bool,
    pub build_ms: Option<u64>,
    pub size_bytes: Option<u64>,
    pub steps: Option<u64>,
}

impl Provenance {
    pub fn read(value: &Value) -> Self {
        let object = |name: &str| value.get(name).filter(|value| value.is_object());
        Self {
            code: object("code").map(|value| read_tree(value, "code")),
            environment: object("environment").map(|value| read_tree(value, "env")),
            image: object("image").map(read_image),
            inputs: value.get("inputs").and_then(Value::as_array).into_iter().flatten().map(read_input).collect(),
            checkpoint: object("checkpoint").map(read_input),
        }
    }

    /// Nothing had to be fetched or built, and there was something that could have been.
    pub fn is_warm(&self) -> bool {
        let trees_are = [&self.code, &self.environment].into_iter().flatten().all(|tree| tree.cached);
        let inputs_are = self.inputs.iter().all(|input| input.cached);
        let any = self.code.is_some() || self.environment.is_some() || self.image.is_some() || !self.inputs.is_empty();
        any && trees_are
            && inputs_are
            && self.checkpoint.is_none()
            && self.image.as_ref().is_none_or(|image| image.warm)
    }

    /// `code, env, image and inputs`: what was there.
    pub fn parts(&self) -> String {
        let mut parts: Vec<&str> = Vec::new();
        parts.extend(self.code.as_ref().map(|_| "code"));
        parts.extend(self.environment.as_ref().map(|_| "env"));
        parts.extend(self.image.as_ref().map(|_| "image"));
        parts.extend((!self.inputs.is_empty()).then_some("inputs"));
        match parts.split_last() {
            Some((last, [])) => (*last).to_owned(),
            Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
            None => String::new(),
        }
    }
}

fn read_tree(value: &Value, fallback: &str) -> Tree {
    let text = |name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default();
    let name = repository(text("url"));
    let name = if name.is_empty() { fallback } else { name };
    let commit: String = text("commit").chars().take(8).collect();
    let name = if commit.is_empty() { clean(name) } else { clean(&format!("{name}@{commit}")) };
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let bytes_fetched = number("bytes_fetched").unwrap_or(0);
    let cached = value.get("cached").and_then(Value::as_bool).unwrap_or(bytes_fetched == 0);
    Tree { name, bytes_fetched, cached, ms: number("ms") }
}

fn read_input(value: &Value) -> BroughtInput {
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    BroughtInput {
        name: clean(value.get("artifact").and_then(Value::as_str).unwrap_or("input")),
        bytes: number("bytes").unwrap_or(0),
        cached: value.get("cached").and_then(Value::as_bool).unwrap_or(false),
        ms: number("ms"),
    }
}

fn read_image(value: &Value) -> BuiltImage {
    let number = |name: &str| value.get(name).and_then(Value::as_u64);
    let steps =
        value.get("steps").and_then(|steps| steps.as_u64().or_else(|| steps.as_array().map(|list| list.len() as u64)));
    BuiltImage {
        id: short_digest(value.get("id").and_then(Value::as_str).unwrap_or_default()),
        warm: value.get("warm").and_then(Value::as_bool).unwrap_or(false),
        build_ms: number("build_ms"),
        size_bytes: number("size_bytes"),
        steps,
    }
}

/// The last part of a repository's address, as people call it.
pub fn repository(url: &str) -> &str {
    let last = url.trim_end_matches('/').rsplit('/').next().unwrap_or(url);
    last.strip_suffix(".git").unwrap_or(last)
}

/// `sha256:9f2c51aa` of a whole digest; whatever else it is, a little of it.
pub fn short_digest(digest: &str) -> String {
    let (kind, hex) = digest.split_once(':').unwrap_or(("", digest));
    let hex: String = hex.chars().take(8).collect();
    clean(&if kind.is_empty() { hex } else { format!("{kind}:{hex}") })
}

impl BroughtInput {
    /// `imagenet@3 12.4 GiB fetched`.
    pub fn describe(&self) -> String {
        if self.cached {
            format!("{} was here", self.name)
        } else {
            format!("{} {} fetched", self.name, show_bytes(self.bytes))
        }
    }
}

impl Tree {
    /// `resnet@4f0c1d2e 2.1 MiB fetched`.
    pub fn describe(&self) -> String {
        if self.cached {
            format!("{} was here", self.name)
        } else {
            format!("{} {} fetched", self.name, show_bytes(self.bytes_fetched))
        }
    }
}
