//! `unidesk wait`.

use crate::{
    context::{Context, OrTell},
    exit,
    failure::Failure,
    ids,
    output::Output,
    render,
};
use api_types::task::Task;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// Full id, its last 6 or more digits, or: last
    #[arg(add = clap_complete::ArgValueCompleter::new(crate::complete::tasks))]
    id: String,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server().map_err(Failure::of_run)?;
    let id = ids::resolve(context, &server, &args.id).await.map_err(Failure::of_run)?;
    // What is not there is said at once, not waited for.
    let task = server.client.task(id).await.or_tell(&server).map_err(Failure::of_run)?;
    if !task.state.is_terminal() {
        context.out.hint(&format!("waiting for {} (Ctrl-C: stop looking, the task goes on)", id.short()));
    }
    let task = server.client.wait(id).await.or_tell(&server).map_err(Failure::of_run)?;
    if context.out.is_json() {
        context.out.json(&task)?;
    } else {
        tell(&context.out, &task);
    }
    Ok(exit::of_task(&task).into())
}

/// The result line: a failure everywhere, a success to people only.
pub fn tell(out: &Output, task: &Task) {
    let ending = render::result::ending(task);
    if out.stderr_is_terminal {
        out.hint(ending.for_people(&out.people).trim_end());
    } else if exit::of_task(task) != exit::DONE {
        for line in ending.for_programs() {
            out.line(&line);
        }
    }
}
