//! `unidesk cancel`.

use crate::{
    commands::DONE,
    context::{Context, OrTell},
    failure::Failure,
    ids,
    style::Glyph,
    text::plural,
};
use domain::task::TaskState;
use std::{io::BufRead, process::ExitCode};

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Full ids, their last 6 or more digits, or: last
    #[arg(required = true, add = clap_complete::ArgValueCompleter::new(crate::complete::live_tasks))]
    ids: Vec<String>,
    /// Do not ask before several are cancelled
    #[arg(long, short)]
    yes: bool,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let mut tasks = Vec::new();
    for text in &args.ids {
        let id = ids::resolve(context, &server, text).await?;
        if !tasks.contains(&id) {
            tasks.push(id);
        }
    }
    if tasks.len() > 1 && !args.yes {
        confirm(context, tasks.len())?;
    }
    for id in tasks {
        let task = server.client.cancel(id).await.or_tell(&server)?;
        if context.out.is_json() {
            context.out.json(&task)?;
        } else if task.state == TaskState::Cancelled {
            context.out.tell(Glyph::Done, "cancelled", &id.short());
        } else {
            context.out.tell(Glyph::Done, "cancelling", &format!("{}: its node stops it now", id.short()));
        }
    }
    Ok(DONE)
}

fn confirm(context: &Context, count: usize) -> Result<(), Failure> {
    let what = plural(count as u64, "task");
    if !context.out.can_ask() {
        return Err(Failure::usage(format!("this would cancel {what}")).note("to do it without being asked: --yes"));
    }
    eprint!("Cancel {what}? What they have done so far is lost. [y/N] ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if matches!(answer.trim(), "y" | "Y" | "yes") { Ok(()) } else { Err(Failure::usage("nothing was cancelled")) }
}
