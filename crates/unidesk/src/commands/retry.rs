//! `unidesk retry`.

use crate::{
    commands::DONE,
    context::{Context, OrTell},
    failure::Failure,
    ids, last_task,
    style::Glyph,
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
    let task = server.client.retry(id).await.or_tell(&server)?;
    last_task::remember(&context.places, &server.connection.url, task.id);
    if context.out.is_json() {
        context.out.json(&task)?;
    } else {
        context.out.tell(Glyph::Done, "queued", &format!("{} once more", task.id.short()));
        context.out.hint(&format!("  follow it: unidesk logs {} --follow", task.id.short()));
    }
    Ok(DONE)
}
