//! `unidesk list`.

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    failure::Failure,
    output::local_now,
    render::{self, View},
};
use api_types::{
    page::MAX_LIMIT,
    task::{Task, TaskPage, TaskQuery},
};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  unidesk list --state failed --limit 50
  unidesk list --name 'sweep*' -o json | jq -r '.tasks[].id'")]
pub struct Args {
    /// Only these states, by comma: pending, assigned, preparing, running, finishing, succeeded, failed, cancelled
    #[arg(long, short)]
    state: Option<String>,
    /// At most so many
    #[arg(long, short = 'n', default_value_t = 10)]
    limit: u32,
    /// Only of this project
    #[arg(long)]
    project: Option<String>,
    /// Only on this node
    #[arg(long, add = clap_complete::ArgValueCompleter::new(crate::complete::nodes))]
    node: Option<String>,
    /// Only of this name; with * at its end: names that begin so
    #[arg(long)]
    name: Option<String>,
    /// Only with this metadata
    #[arg(long, value_name = "KEY=VALUE")]
    label: Option<String>,
    /// Go on after an earlier page: its next_cursor
    #[arg(long)]
    cursor: Option<String>,
}

const LIVE: &str = "pending,assigned,preparing,running,finishing";
const ENDED: &str = "succeeded,failed,cancelled";

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let out = &context.out;
    let query = TaskQuery {
        state: args.state.clone(),
        project: args.project,
        node: args.node,
        name: args.name,
        label: args.label,
        id_suffix: None,
        limit: None,
        cursor: args.cursor,
    };
    // A cursor belongs to one order of the server's; live-first is an order of ours.
    let page = if out.is_json() || query.state.is_some() || query.cursor.is_some() {
        fetch(&server, query, args.limit).await?
    } else {
        live_first(&server, query, args.limit).await?
    };
    if out.is_json() {
        out.json(&page)?;
        return Ok(DONE);
    }
    let view = View { style: out.style, width: out.width(), now: local_now() };
    if !out.stdout_is_terminal {
        out.data(&render::list::for_programs(&page.tasks, &view))?;
    } else if !page.tasks.is_empty() {
        out.data(&render::list::for_people(&page.tasks, &view))?;
    }
    out.hint(&render::list::footer(page.tasks.len(), page.found, page.live));
    Ok(DONE)
}

async fn live_first(server: &Server, query: TaskQuery, limit: u32) -> Result<TaskPage, Failure> {
    let of = |state: &str| TaskQuery { state: Some(state.to_owned()), ..query.clone() };
    let mut page = fetch(server, of(LIVE), limit).await?;
    let room = limit.saturating_sub(page.tasks.len() as u32);
    // Asked even without room for them: the count is shown.
    let ended = fetch(server, of(ENDED), room.max(1)).await?;
    page.tasks.extend(ended.tasks.into_iter().take(room as usize));
    page.live = page.found;
    page.found += ended.found;
    page.next_cursor = None;
    Ok(page)
}

/// As many pages as `limit` needs.
async fn fetch(server: &Server, mut query: TaskQuery, limit: u32) -> Result<TaskPage, Failure> {
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        query.limit = Some((limit - tasks.len() as u32).clamp(1, MAX_LIMIT));
        let mut page = server.client.tasks(&query).await.or_tell(server)?;
        tasks.append(&mut page.tasks);
        query.cursor.clone_from(&page.next_cursor);
        if query.cursor.is_none() || tasks.len() as u32 >= limit {
            return Ok(TaskPage { tasks, ..page });
        }
    }
}
