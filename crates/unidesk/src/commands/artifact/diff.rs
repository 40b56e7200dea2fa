//! `unidesk artifact diff`.

use super::{
    Place, failed, find, get,
    progress::{Counts, Shown},
    read_rate, read_ref,
};
use crate::{
    commands::DONE,
    context::{Context, Server},
    exit,
    failure::Failure,
    render,
    style::Glyph,
};
use api_types::artifact::Artifact;
use clap_complete::ArgValueCompleter;
use client::ArtifactDownload;
use domain::artifact::{ArtifactKind, ArtifactRef};
use serde_json::json;
use std::{collections::BTreeMap, process::ExitCode, sync::Arc, time::Instant};
use transfer::{Limits, Listed, Options, list, stream};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Of two files: whether they are equal, their sizes and digests. Of two directories: which entries were removed (-), added (+) and
changed (~); unless they are equal as a whole both are read from the object store for that, and nothing is written here.
Exits with 0 when they are equal, with 1 when they are not.

Examples:
  unidesk artifact diff imagenet-mini@1 imagenet-mini
  unidesk artifact diff resnet@7 resnet@8 -o json")]
pub(super) struct Args {
    /// NAME@1, sha256:..., or an id
    #[arg(value_name = "A", value_parser = read_ref, add = ArgValueCompleter::new(crate::complete::artifacts))]
    one: ArtifactRef,
    /// The other
    #[arg(value_name = "B", value_parser = read_ref, add = ArgValueCompleter::new(crate::complete::artifacts))]
    other: ArtifactRef,
    /// Bytes a second, at most: 10M
    #[arg(long, value_name = "RATE", value_parser = read_rate)]
    limit_rate: Option<u64>,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let out = &context.out;
    let project = args.place.project.as_deref();
    let one = find(&server, &args.one, project).await?;
    let other = find(&server, &args.other, project).await?;
    let is_equal = get::content(&one)? == get::content(&other)? && one.kind == other.kind;
    let differing = if is_equal { DONE } else { ExitCode::from(exit::FAULT) };
    let are_directories = [&one, &other].iter().all(|artifact| artifact.kind == ArtifactKind::Directory);
    if is_equal || !are_directories {
        if out.is_json() {
            out.json(&json!({"equal": is_equal, "a": one, "b": other}))?;
        } else {
            out.data(&render::artifact::whole_difference(&one, &other))?;
        }
        return Ok(differing);
    }
    let options = Options { limit: args.limit_rate, ..Options::default() };
    let Some(before) = listed(&one, &server, context, &options).await? else { return Ok(ExitCode::from(130)) };
    let Some(now) = listed(&other, &server, context, &options).await? else { return Ok(ExitCode::from(130)) };
    let found = render::artifact::compare(&before, &now);
    if out.is_json() {
        out.json(&json!({"equal": false, "a": one, "b": other, "difference": found}))?;
    } else {
        out.data(&render::artifact::difference(&one, &other, &found, &out.style))?;
    }
    Ok(differing)
}

/// What is in a directory. None: the person has enough of it.
async fn listed(
    artifact: &Artifact,
    server: &Server,
    context: &Context,
    options: &Options,
) -> Result<Option<BTreeMap<Vec<u8>, Listed>>, Failure> {
    let content = get::content(artifact)?;
    let shown = Shown {
        out: &context.out,
        counts: Arc::<Counts>::default(),
        total: Some(content.size),
        is_packed: false,
        word: "reading",
        began: Instant::now(),
    };
    let (store, source) = (server.store(), ArtifactDownload::new(&server.client, artifact.id));
    let reading =
        stream(&store, content, &source, options, &*shown.counts, |incoming| Ok(list(incoming, &Limits::default())?));
    match shown.until(reading).await {
        Ok(listed) => listed.map(Some).map_err(|error| failed(error, server)),
        Err(_) => {
            context.out.tell(Glyph::Warning, "stopped", "nothing was compared");
            Ok(None)
        }
    }
}
