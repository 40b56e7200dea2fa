//! `unidesk get`: what a task has left.

use super::artifact::{Fetch, Interrupted, own_name, read_rate, read_size};
use crate::{
    commands::DONE,
    context::{Context, OrTell},
    exit,
    failure::Failure,
    ids,
    style::Glyph,
    text::{clean, plural},
};
use api_types::{
    artifact::{Artifact, TaskArtifact},
    task::Task,
};
use domain::artifact::{ArtifactKind, ArtifactRef};
use serde_json::json;
use std::{
    collections::BTreeSet,
    fs,
    io::Write,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Fetches what the task has left under its --output flags: each compared with its SHA-256, from the object store and not through the
server. A file gets the name that it had, a directory the name of its artifact. The same command again goes on where it was.
Prints the paths.

Examples:
  unidesk get last
  unidesk get 41c7a93d resnet --to models")]
pub struct Args {
    /// Full id, its last 6 or more digits, or: last
    #[arg(add = clap_complete::ArgValueCompleter::new(crate::complete::tasks))]
    id: String,
    /// Only these of its outputs
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// The directory that they are put into; made where it is missing
    #[arg(long, value_name = "DIR", default_value = ".", hide_default_value = true)]
    to: PathBuf,
    /// Replace files that are there
    #[arg(long, short)]
    force: bool,
    /// Bytes a second, at most: 10M
    #[arg(long, value_name = "RATE", value_parser = read_rate)]
    limit_rate: Option<u64>,
    /// Bytes that a directory may have, unpacked; as many as are free when left out
    #[arg(long, value_name = "SIZE", value_parser = read_size)]
    max_size: Option<u64>,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let id = ids::resolve(context, &server, &args.id).await?;
    let task = server.client.task(id).await.or_tell(&server)?;
    let outputs = newest(&task, &args.names)?;
    fs::create_dir_all(&args.to)
        .map_err(|error| Failure::new(exit::FAULT, format!("{}: {error}", args.to.display())))?;
    let fetch =
        Fetch { context, server: &server, force: args.force, limit_rate: args.limit_rate, max_size: args.max_size };
    let mut fetched: Vec<(PathBuf, Artifact)> = Vec::new();
    for (output, path) in outputs.iter().zip(targets(&args.to, &outputs)) {
        let artifact = server.client.artifact(&ArtifactRef::Id(output.id), None).await.or_tell(&server)?;
        match fetch.to(&artifact, &path).await? {
            Ok(()) => {}
            Err(Interrupted) => return Ok(ExitCode::from(exit::INTERRUPTED)),
        }
        if !context.out.is_json() {
            // Byte for byte: a script uses it.
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(path.as_os_str().as_bytes()).and_then(|()| stdout.write_all(b"\n"))?;
        }
        fetched.push((path, artifact));
    }
    if context.out.is_json() {
        let items =
            fetched.iter().map(|(path, artifact)| json!({"path": path.to_string_lossy(), "artifact": artifact}));
        context.out.json(&json!({"task": task.id, "outputs": items.collect::<Vec<_>>()}))?;
    }
    tell_missing(context, &task);
    Ok(DONE)
}

/// One artifact a name, that of the newest attempt which left one. Errors: there is none, or not the one that is asked for.
fn newest(task: &Task, names: &[String]) -> Result<Vec<TaskArtifact>, Failure> {
    let declared = task.spec.as_ref().map_or(&[][..], |spec| &spec.outputs);
    let id = task.id.short();
    if declared.is_empty() {
        let failure = Failure::new(exit::NOT_FOUND, format!("task {id} has no outputs"));
        return Err(
            failure.note("what a task leaves is kept where it says so: unidesk run --output 'out/*.pt:NAME' ...")
        );
    }
    for name in names {
        if declared.iter().all(|output| output.name != *name) {
            let known: Vec<&str> = declared.iter().map(|output| output.name.as_str()).collect();
            let failure = Failure::new(exit::NOT_FOUND, format!("task {id} has no output {name}"));
            return Err(failure.note(format!("it has: {}", known.join(" "))));
        }
    }
    let mut seen = BTreeSet::new();
    let wanted = |artifact: &&TaskArtifact| names.is_empty() || names.contains(&artifact.name);
    let found: Vec<TaskArtifact> =
        task.artifacts.iter().filter(wanted).filter(|artifact| seen.insert(artifact.name.clone())).cloned().collect();
    if !found.is_empty() {
        return Ok(found);
    }
    let (detail, note) = if task.state.is_terminal() {
        let how = task.outcome.as_deref().unwrap_or("ended");
        (format!("task {id} has left nothing: {how}"), format!("why: unidesk why {id}"))
    } else {
        (
            format!("task {id} is {}; what it leaves is stored once it has ended", task.state),
            format!("wait for it: unidesk wait {id}"),
        )
    };
    Err(Failure::new(exit::REFUSED, detail).note(note))
}

/// A path for each: no two are the same.
fn targets(dir: &Path, outputs: &[TaskArtifact]) -> Vec<PathBuf> {
    let mut taken: BTreeSet<PathBuf> = BTreeSet::new();
    let mut target = |output: &TaskArtifact| {
        let name = match output.kind {
            ArtifactKind::Directory => PathBuf::from(&output.name),
            ArtifactKind::File => own_name(&output.file_name, &output.name),
        };
        let path = dir.join(&name);
        let path = if taken.contains(&path) { dir.join(format!("{}-{}", output.name, name.display())) } else { path };
        taken.insert(path.clone());
        path
    };
    outputs.iter().map(&mut target).collect()
}

/// What is declared and not there.
fn tell_missing(context: &Context, task: &Task) {
    let declared = task.spec.as_ref().map_or(&[][..], |spec| &spec.outputs);
    let missing: Vec<&str> = declared
        .iter()
        .filter(|output| task.artifacts.iter().all(|artifact| artifact.name != output.name))
        .map(|output| output.name.as_str())
        .collect();
    if !missing.is_empty() && !context.out.is_json() {
        let what = plural(missing.len() as u64, "output");
        let when = if task.state.is_terminal() { "was not stored" } else { "is not stored yet" };
        context.out.tell(Glyph::Warning, "missing", &clean(&format!("{what} {when}: {}", missing.join(" "))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn output(name: &str, file_name: &str, kind: ArtifactKind) -> TaskArtifact {
        TaskArtifact {
            id: domain::ids::ArtifactId::from_uuid(uuid::Uuid::nil()),
            name: name.to_owned(),
            version: 1,
            kind,
            state: domain::artifact::ArtifactState::Ready,
            size: 1,
            sha256: domain::artifact::Sha256Digest([0; 32]),
            file_name: file_name.to_owned(),
            attempt: domain::ids::AttemptId::from_uuid(uuid::Uuid::nil()),
        }
    }

    #[test]
    fn every_output_gets_a_path_of_its_own_within_the_directory() {
        let outputs = [
            output("resnet", "model.pt", ArtifactKind::File),
            output("vit", "model.pt", ArtifactKind::File),
            output("logs", "x", ArtifactKind::Directory),
            output("evil", "../../etc/passwd", ArtifactKind::File),
        ];
        let paths: Vec<String> =
            targets(Path::new("d"), &outputs).iter().map(|path| path.display().to_string()).collect();
        assert_eq!(paths, ["d/model.pt", "d/vit-model.pt", "d/logs", "d/evil"]);
    }
}
