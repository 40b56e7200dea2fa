//! The inputs, outputs and checkpoints of a task body.

use super::super::{
    Checkpoints, Input, Output, OutputOn,
    data::{DEFAULT_EVERY_MS, LEAST_EVERY_MS, MOST_FILES, Matcher},
    reader::{Faults, Reader},
};
use crate::{
    artifact::{ArtifactRef, MAX_NAME, is_artifact_name},
    fault::Fault,
    source::quote,
};
use serde_json::Value;

const MAX_PATH: usize = 1_024;
/// Where the code lies, whatever executes it.
const WORKSPACE: &str = "/workspace";
/// A container has these from its kernel, or from us.
const TAKEN: [&str; 6] = ["/proc", "/sys", "/dev", "/.unidesk", WORKSPACE, "/"];

pub(super) fn inputs(top: &Reader<'_>, executor: &str, workdir: &str, faults: &mut Faults) -> Vec<Input> {
    let mut inputs: Vec<Input> = Vec::new();
    for (at, item) in items(top, "inputs", faults).iter().enumerate() {
        let reader = Reader::open(item, &format!("#/inputs/{at}"), &["artifact", "path"], faults);
        require(&reader, &["artifact", "path"], faults);
        let artifact =
            reader.text("artifact", MAX_NAME * 2, faults).and_then(|text| match text.parse::<ArtifactRef>() {
                Ok(name) => Some(name),
                Err(error) => {
                    faults.push(
                        Fault::new(
                            reader.at("artifact"),
                            "bad_artifact",
                            format!("{} names no artifact: {error}.", quote(text)),
                        )
                        .hint("imagenet (its newest version), imagenet@3, or sha256:..."),
                    );
                    None
                }
            });
        let path = path(&reader, executor, workdir, faults);
        let Some((artifact, path)) = artifact.zip(path) else { continue };
        if path.contains(['*', '?']) {
            faults.push(Fault::new(reader.at("path"), "bad_path", "An input lies at one path: it has no wildcards."));
        } else if TAKEN.contains(&path.as_str()) || TAKEN[..4].iter().any(|taken| lies_in(&path, taken)) {
            let detail = format!("{path} is taken already.");
            faults.push(
                Fault::new(reader.at("path"), "bad_path", detail).hint("/data, or a directory below the workspace"),
            );
        } else if let Some(other) =
            inputs.iter().find(|other| lies_in(&path, &other.path) || lies_in(&other.path, &path))
        {
            let detail = format!("{path} and {}, the path of another input, lie within each other.", other.path);
            faults.push(Fault::new(reader.at("path"), "bad_path", detail).hint("give each a directory of its own"));
        } else {
            inputs.push(Input { artifact, path, pinned: None });
        }
    }
    inputs
}

pub(super) fn outputs(
    top: &Reader<'_>,
    executor: &str,
    workdir: &str,
    inputs: &[Input],
    faults: &mut Faults,
) -> Vec<Output> {
    let mut outputs: Vec<Output> = Vec::new();
    for (at, item) in items(top, "outputs", faults).iter().enumerate() {
        let reader = Reader::open(item, &format!("#/outputs/{at}"), &["path", "name", "on"], faults);
        require(&reader, &["path", "name"], faults);
        let name = reader.text("name", 4_096, faults).filter(|name| {
            let twice = outputs.iter().any(|other| other.name == **name);
            if !is_artifact_name(name) {
                faults.push(
                    Fault::new(
                        reader.at("name"),
                        "bad_artifact",
                        format!("{} is no name of an artifact.", quote(name)),
                    )
                    .hint("letters, digits, dots, dashes and underscores, at most 128; versions count by themselves"),
                );
            } else if twice {
                faults.push(Fault::new(reader.at("name"), "bad_artifact", format!("Two outputs are named {name}.")));
            }
            is_artifact_name(name) && !twice
        });
        let path = path(&reader, executor, workdir, faults);
        let on = match reader.one_of("on", &["success", "always"], faults) {
            Some("always") => OutputOn::Always,
            _ => OutputOn::Success,
        };
        let Some((name, path)) = name.zip(path) else { continue };
        let output = Output { path, name: name.to_owned(), on };
        let (root, pattern) = output.pattern();
        let input = inputs.iter().find(|input| lies_in(root, &input.path));
        match pattern.map(Matcher::new) {
            Some(Err(error)) => {
                let detail = format!("{} is no pattern: {error}.", quote(&output.path));
                faults
                    .push(Fault::new(reader.at("path"), "bad_path", detail).hint("out/model.pt, out, or out/**/*.pt"));
            }
            _ if output.path == "/" => {
                let fault = Fault::new(reader.at("path"), "bad_path", "The whole file system is no output.");
                faults.push(fault.hint("out/model.pt, out, or out/**/*.pt"));
            }
            _ => match input {
                Some(input) => {
                    let is_it = output.path == input.path;
                    let place = if is_it {
                        "is the path of an input".into()
                    } else {
                        format!("lies in the input {}", input.path)
                    };
                    let detail =
                        format!("{} {place}; inputs can't be changed, so a task leaves nothing there.", output.path);
                    faults.push(
                        Fault::new(reader.at("path"), "bad_path", detail)
                            .hint("a path of its own, as out/model.pt or out"),
                    );
                }
                None => outputs.push(output),
            },
        }
    }
    outputs
}

pub(super) fn checkpoints(top: &Reader<'_>, executor: &str, workdir: &str, faults: &mut Faults) -> Option<Checkpoints> {
    let value = top.get("checkpoints")?;
    let reader = Reader::open(value, "#/checkpoints", &["path", "every"], faults);
    if !value.is_object() {
        return None;
    }
    require(&reader, &["path"], faults);
    let every_ms = reader.duration_ms("every", faults).unwrap_or(DEFAULT_EVERY_MS);
    if every_ms < LEAST_EVERY_MS {
        let detail = "More often than every 10 s no checkpoint is taken.";
        faults
            .push(Fault::new(reader.at("every"), "out_of_range", detail).hint("10m, or as often as the program saves"));
        return None;
    }
    let path = path(&reader, executor, workdir, faults)?;
    let hint = "a directory of its own, as ckpt";
    if path.contains(['*', '?']) {
        faults.push(
            Fault::new(reader.at("path"), "bad_path", "Checkpoints lie at one path: it has no wildcards.").hint(hint),
        );
        return None;
    }
    // The working directory and what it lies in has the code.
    let has_code = lies_in(workdir, &path) || TAKEN.contains(&path.as_str());
    if has_code || TAKEN[..4].iter().any(|taken| lies_in(&path, taken)) {
        faults.push(Fault::new(reader.at("path"), "bad_path", format!("{path} is taken already.")).hint(hint));
        return None;
    }
    Some(Checkpoints { path, every_ms })
}

/// Checkpoints and inputs each want their path for themselves.
pub(super) fn keep_apart(checkpoints: &Option<Checkpoints>, inputs: &[Input], faults: &mut Faults) {
    let Some(path) = checkpoints.as_ref().map(|checkpoints| &checkpoints.path) else { return };
    if let Some(input) = inputs.iter().find(|input| lies_in(path, &input.path) || lies_in(&input.path, path)) {
        let detail = format!("{path} and {}, the path of an input, lie within each other.", input.path);
        faults.push(Fault::new("#/checkpoints/path", "bad_path", detail).hint("give each a directory of its own"));
    }
}

fn items<'a>(top: &Reader<'a>, name: &str, faults: &mut Faults) -> &'a [Value] {
    match top.get(name) {
        None => &[],
        Some(Value::Array(items)) if items.len() <= MOST_FILES => items,
        Some(Value::Array(items)) => {
            let detail = format!("There are {} {name}; at most {MOST_FILES} are taken.", items.len());
            faults.push(Fault::new(top.at(name), "too_long", detail).hint("put several into one directory"));
            &[]
        }
        Some(other) => {
            faults.push(top.wrong(name, "A list of objects", other));
            &[]
        }
    }
}

fn require(reader: &Reader<'_>, names: &[&str], faults: &mut Faults) {
    for name in names.iter().filter(|name| reader.get(name).is_none()) {
        faults.push(Fault::new(reader.at(name), "required", format!("{name} is missing.")));
    }
}

/// An absolute path without detours; what is relative begins in the working directory.
fn path(reader: &Reader<'_>, executor: &str, workdir: &str, faults: &mut Faults) -> Option<String> {
    let text = reader.text("path", MAX_PATH, faults)?;
    let mut refuse = |detail: String, hint: &str| {
        faults.push(Fault::new(reader.at("path"), "bad_path", detail).hint(hint));
        None
    };
    if text.is_empty() || text.chars().any(char::is_control) || text.split('/').any(|part| part == "..") {
        return refuse(format!("{} is no path of a task.", quote(text)), "data, or /data; without .. in it");
    }
    let full = if text.starts_with('/') { text.to_owned() } else { format!("{workdir}/{text}") };
    let parts: Vec<&str> = full.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    let full = format!("/{}", parts.join("/"));
    if executor == "process" && !lies_in(&full, WORKSPACE) {
        return refuse(
            format!("{} lies outside of the workspace, and a process has no files of its own elsewhere.", quote(text)),
            "a path relative to the working directory",
        );
    }
    Some(full)
}

/// Whether it is this path or below it.
fn lies_in(path: &str, dir: &str) -> bool {
    path.strip_prefix(dir).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}
