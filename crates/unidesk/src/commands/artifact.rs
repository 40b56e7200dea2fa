//! `unidesk artifact`.

mod diff;
mod fetch;
mod fsck;
mod get;
mod list;
mod progress;
mod put;
mod rm;
mod rule;

pub(super) use fetch::{Fetch, own_name};
pub(super) use progress::Interrupted;

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    exit,
    failure::Failure,
    output::local_now,
    render::{self, View},
    style::Glyph,
    text::clean,
};
use api_types::artifact::Artifact;
use clap_complete::ArgValueCompleter;
use client::ClientError;
use domain::{artifact::ArtifactRef, quantity::parse_bytes};
use std::process::ExitCode;
use transfer::{PackError, TransferError};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Store a file, a directory or standard input under a name
    Put(put::Args),
    /// Fetch an artifact, compared with its checksum
    Get(get::Args),
    /// Artifacts, the newest first
    List(list::Args),
    /// One artifact
    Show {
        #[command(flatten)]
        artifact: Named,
        #[command(flatten)]
        place: Place,
    },
    /// What two artifacts differ in; exits with 1 when they do
    Diff(diff::Args),
    /// Delete artifacts for good
    Rm(rm::Args),
    /// No rule removes it from now on
    Pin(Pin),
    /// Rules may remove it again
    Unpin(Pin),
    /// How long artifacts are kept: add, list, rm
    Rule(rule::Args),
    /// Compare what is known with what is stored; for administrators
    Fsck(fsck::Args),
}

#[derive(Debug, clap::Args)]
struct Pin {
    #[command(flatten)]
    artifact: Named,
    #[command(flatten)]
    place: Place,
}

#[derive(Debug, clap::Args)]
struct Named {
    /// NAME (the newest version), NAME@3, sha256:..., or an id
    #[arg(value_name = "NAME", value_parser = read_ref, add = ArgValueCompleter::new(crate::complete::artifacts))]
    name: ArtifactRef,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The project in which names are looked up
    #[arg(long)]
    project: Option<String>,
}

fn read_ref(text: &str) -> Result<ArtifactRef, String> {
    text.parse().map_err(|error: domain::artifact::BadArtifactRef| error.to_string())
}

pub(super) fn read_rate(text: &str) -> Result<u64, String> {
    match parse_bytes(text.trim().trim_end_matches("/s")) {
        Some(rate) if rate >= 1024 => Ok(rate),
        Some(_) => Err("at least 1K: bytes a second".to_owned()),
        None => Err("bytes a second: 10M, 512K".to_owned()),
    }
}

pub(super) fn read_size(text: &str) -> Result<u64, String> {
    parse_bytes(text).ok_or_else(|| "a size: 16GiB, 512MiB, or bytes".to_owned())
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Put(args) => put::run(args, context).await,
        Command::Get(args) => get::run(args, context).await,
        Command::List(args) => list::run(args, context).await,
        Command::Show { artifact, place } => {
            let server = context.server()?;
            let artifact = find(&server, &artifact.name, place.project.as_deref()).await?;
            if context.out.is_json() {
                context.out.json(&artifact)?;
            } else {
                context.out.data(&render::artifact::show(&artifact, &view(context)))?;
            }
            Ok(DONE)
        }
        Command::Diff(args) => diff::run(args, context).await,
        Command::Rm(args) => rm::run(args, context).await,
        Command::Pin(args) => pin(args, true, context).await,
        Command::Unpin(args) => pin(args, false, context).await,
        Command::Rule(args) => rule::run(args, context).await,
        Command::Fsck(args) => fsck::run(args, context).await,
    }
}

async fn pin(args: Pin, pinned: bool, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let artifact = find(&server, &args.artifact.name, args.place.project.as_deref()).await?;
    let artifact = server.client.pin_artifact(artifact.id, pinned).await.or_tell(&server)?;
    if context.out.is_json() {
        context.out.json(&artifact)?;
    } else {
        let word = if pinned { "pinned" } else { "unpinned" };
        context.out.tell(Glyph::Done, word, &clean(&render::artifact::name(&artifact)));
    }
    Ok(DONE)
}

fn view(context: &Context) -> View {
    View { style: context.out.style, width: context.out.width(), now: local_now() }
}

async fn find(server: &Server, name: &ArtifactRef, project: Option<&str>) -> Result<Artifact, Failure> {
    let found = server.client.artifact(name, project).await;
    if let Err(error) = &found
        && error.is_problem("no-such-artifact")
    {
        return Err(server.failure(error).note("all of them: unidesk artifact list"));
    }
    found.or_tell(server)
}

/// Why a transfer ended, and what to do about it.
fn failed(error: TransferError, server: &Server) -> Failure {
    let said = error.to_string();
    let told = |exit, note: &str| Failure::new(exit, said.clone()).note(note);
    match error {
        TransferError::NoAddress(error) => {
            match error.source.as_ref().and_then(|source| source.downcast_ref::<ClientError>()) {
                Some(error) => server.failure(error),
                None => Failure::new(exit::REFUSED, said),
            }
        }
        TransferError::GaveUp { .. } => {
            let failure = told(exit::UNREACHABLE, "the same command goes on where it was");
            server.connection.describe_url().into_iter().fold(failure, Failure::note)
        }
        TransferError::StoreRefuses { .. } => told(
            exit::REFUSED,
            "the same command tries it again; an administrator knows the store's settings (docs/artifacts.md)",
        ),
        TransferError::Untrusted(_) => Failure::new(exit::UNREACHABLE, said),
        TransferError::WrongDigest { .. } | TransferError::WrongSize { .. } => told(
            exit::FAULT,
            "nothing of it was kept. An administrator finds what is damaged: unidesk artifact fsck --read",
        ),
        TransferError::NoRoom { .. } => told(exit::FAULT, "make room, or give another place: --to"),
        TransferError::NotEmpty { .. } => told(exit::REFUSED, "give a path that does not exist: --to"),
        TransferError::Busy { .. } => told(exit::REFUSED, "wait for it, or give another directory: --to"),
        TransferError::Changed { .. } | TransferError::Pack(PackError::Changed { .. }) => {
            told(exit::FAULT, "put it again when nothing writes to it any more")
        }
        TransferError::Pack(PackError::LinkLeadsOut { .. }) => {
            told(exit::USAGE, "put a copy instead, in which links are what they lead to: cp -rL")
        }
        TransferError::Pack(PackError::Special { .. } | PackError::TooDeep { .. }) => {
            told(exit::USAGE, "leave it out: put a copy without it")
        }
        TransferError::Unpack(transfer::UnpackError::TooLarge { .. }) => told(exit::FAULT, "to allow more: --max-size"),
        TransferError::Unreadable { .. }
        | TransferError::Unwritable { .. }
        | TransferError::Pack(_)
        | TransferError::Unpack(_)
        | TransferError::Broken(_) => Failure::new(exit::FAULT, said),
    }
}
