//! `unidesk artifact rm`.

use super::{Place, find, read_ref, view};
use crate::{
    commands::DONE,
    context::{Context, OrTell},
    failure::Failure,
    render,
    style::Glyph,
    text::clean,
};
use api_types::artifact::{Artifact, ArtifactList};
use clap_complete::ArgValueCompleter;
use domain::artifact::ArtifactRef;
use std::{io::BufRead, process::ExitCode};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// NAME (its newest version), NAME@3, sha256:..., or an id
    #[arg(required = true, value_name = "NAME", value_parser = read_ref, add = ArgValueCompleter::new(crate::complete::artifacts))]
    names: Vec<ArtifactRef>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    place: Place,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let out = &context.out;
    let mut artifacts: Vec<Artifact> = Vec::new();
    for name in &args.names {
        let artifact = find(&server, name, args.place.project.as_deref()).await?;
        // Named twice in two ways: `latest` must not mean the one before when the newest is gone.
        if artifacts.iter().all(|other| other.id != artifact.id) {
            artifacts.push(artifact);
        }
    }
    if !args.yes {
        let lost = render::artifact::lost(&artifacts, &view(context));
        if !out.can_ask() {
            return Err(Failure::usage(lost).note("to do it without being asked: --yes"));
        }
        eprint!("{lost}.\nDelete? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::usage("nothing was deleted"));
        }
    }
    for artifact in &artifacts {
        server.client.delete_artifact(artifact.id).await.or_tell(&server)?;
        if !out.is_json() {
            out.tell(Glyph::Done, "deleted", &clean(&render::artifact::name(artifact)));
        }
    }
    if out.is_json() {
        out.json(&ArtifactList { artifacts, next_cursor: None })?;
    }
    Ok(DONE)
}
