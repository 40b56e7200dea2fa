//! `unidesk why`.

use crate::{
    commands::DONE,
    context::{Context, OrTell},
    failure::Failure,
    ids,
    output::local_now,
    render::{self, View},
};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Full id, its last 6 or more digits, or: last
    #[arg(add = clap_complete::ArgValueCompleter::new(crate::complete::tasks))]
    id: String,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let id = ids::resolve(context, &server, &args.id).await?;
    let why = server.client.why(id).await.or_tell(&server)?;
    let out = &context.out;
    if out.is_json() {
        out.json(&why)?;
    } else {
        let view = View { style: out.style, width: out.width(), now: local_now() };
        out.data(&render::why::for_people(&why, &view))?;
    }
    Ok(DONE)
}
