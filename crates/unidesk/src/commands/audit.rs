//! `unidesk audit`.

use crate::{
    commands::DONE,
    context::{Context, OrTell},
    exit,
    failure::Failure,
    render,
};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Asks the live database for every row that breaks what should always hold. Reads only; admins only.
Exits with 0 when all holds, with 1 when something does not or could not be looked at.

Examples:
  unidesk audit
  unidesk audit -o json | jq '.invariants[] | select(.state != \"holds\")'")]
pub struct Args {}

pub async fn run(_: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let audit = server.client.audit().await.or_tell(&server)?;
    if context.out.is_json() {
        context.out.json(&audit)?;
    } else {
        context.out.data(&render::audit::for_people(&audit, &context.out.style))?;
    }
    Ok(if audit.clean { DONE } else { exit::FAULT.into() })
}
