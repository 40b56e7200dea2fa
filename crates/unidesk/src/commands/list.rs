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
    let page = fetch(&server, query, args.limit).await?;
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
    out.hint(&render::list::footer(page.tasks.len(), &page));
    Ok(DONE)
}

/// As many pages as `limit` needs. A page may be short, even empty, and not the last one.
async fn fetch(server: &Server, mut query: TaskQuery, limit: u32) -> Result<TaskPage, Failure> {
    let is_whole = query.cursor.is_none();
    let mut tasks: Vec<Task> = Vec::new();
    loop {
        query.limit = Some((limit - tasks.len() as u32).clamp(1, MAX_LIMIT));
        let mut page = server.client.tasks(&query).await.or_tell(server)?;
        tasks.append(&mut page.tasks);
        query.cursor.clone_from(&page.next_cursor);
        if query.cursor.is_some() && (tasks.len() as u32) < limit {
            continue;
        }
        if page.counts_are_minimum {
            // Counted page by page: all pages together are what is known.
            page.found = page.found.max(tasks.len() as u64 + u64::from(query.cursor.is_some()));
            page.live = page.live.max(tasks.iter().filter(|task| !task.state.is_terminal()).count() as u64);
            page.counts_are_minimum = !is_whole || query.cursor.is_some();
        }
        return Ok(TaskPage { tasks, ..page });
    }
}
