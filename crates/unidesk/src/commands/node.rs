//! `unidesk node`.

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    failure::Failure,
    ids,
    output::local_now,
    render::{self, View},
    style::Glyph,
    text::{clean, plural, show_clock},
};
use api_types::node::{Node, NodeList, NodeToken};
use clap_complete::ArgValueCompleter;
use std::{io::BufRead, process::ExitCode};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// All nodes
    List,
    /// One node: the machine, what is reserved, what is really used
    Show(Named),
    /// Give it nothing new; what runs there goes on, or is moved at the deadline
    Drain {
        #[command(flatten)]
        node: Named,
        /// Shown to those who wait for the node
        #[arg(long, default_value = "")]
        note: String,
        /// What still runs after so long is stopped there and runs again elsewhere: 10m, 1h
        #[arg(long, value_name = "TIME")]
        deadline: Option<String>,
    },
    /// Give it work again
    Resume(Named),
    /// Take its tokens away: it is cut off at once, and its tasks run again elsewhere when it has been offline for long enough
    Revoke {
        #[command(flatten)]
        node: Named,
        /// Run its tasks again elsewhere at once; refused while an exclusive one runs there
        #[arg(long)]
        evict: bool,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

#[derive(Debug, clap::Args)]
struct Named {
    /// Name, id, or the last 6 or more digits of it
    #[arg(value_name = "NODE", add = ArgValueCompleter::new(crate::complete::nodes))]
    name: String,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    match args.command {
        Command::List => list(context, &server).await?,
        Command::Show(named) => {
            let node = ids::resolve_node(&server, &named.name).await?;
            if context.out.is_json() {
                context.out.json(&node)?;
            } else {
                context.out.data(&render::node::show(&node, &view(context)))?;
            }
        }
        Command::Drain { node, note, deadline } => {
            let node = ids::resolve_node(&server, &node.name).await?;
            let node = server.client.drain_node(node.id, &note, deadline.as_deref()).await.or_tell(&server)?;
            let tasks = plural(node.tasks.into(), "task");
            let rest = match node.drain_deadline {
                Some(at) => {
                    format!(
                        "nothing new comes, and what of its {tasks} still runs at {} is moved",
                        show_clock(at, local_now())
                    )
                }
                None => format!("{tasks} here go on, nothing new comes"),
            };
            told(context, &node, "draining", &rest)?;
        }
        Command::Resume(named) => {
            let node = ids::resolve_node(&server, &named.name).await?;
            let node = server.client.resume_node(node.id).await.or_tell(&server)?;
            told(context, &node, "resumed", "it takes work again")?;
        }
        Command::Revoke { node, evict, yes } => revoke(context, &server, &node.name, evict, yes).await?,
    }
    Ok(DONE)
}

fn view(context: &Context) -> View {
    View { style: context.out.style, width: context.out.width(), now: local_now() }
}

fn told(context: &Context, node: &Node, word: &str, rest: &str) -> Result<(), Failure> {
    if context.out.is_json() {
        return context.out.json(node);
    }
    context.out.tell(Glyph::Done, word, &format!("{}: {rest}", clean(&node.name)));
    Ok(())
}

async fn list(context: &Context, server: &Server) -> Result<(), Failure> {
    let nodes = server.client.nodes().await.or_tell(server)?;
    let out = &context.out;
    if out.is_json() {
        return out.json(&NodeList { nodes, next_cursor: None });
    }
    // To mark agents that are older, and for an alarm; the list is worth showing without.
    let status = server.client.cluster_status().await.ok();
    let warn = || {
        if let Some(alarm) = status.as_ref().and_then(|status| status.alarm.as_ref()) {
            out.tell(Glyph::Warning, "alarm", &render::node::alarm(alarm, &view(context)));
        }
    };
    if !out.stdout_is_terminal {
        out.data(&render::node::list_for_programs(&nodes, &view(context)))?;
        warn();
        return Ok(());
    }
    let version = status.as_ref().map(|status| &status.version);
    if !nodes.is_empty() {
        out.data(&render::node::list_for_people(&nodes, version.map(String::as_str), &view(context)))?;
    }
    out.hint(&render::node::list_footer(&nodes, version.map(String::as_str)));
    warn();
    Ok(())
}

async fn revoke(context: &Context, server: &Server, name: &str, evict: bool, yes: bool) -> Result<(), Failure> {
    let node = ids::resolve_node(server, name).await?;
    let tokens = server.client.node_tokens().await.or_tell(server)?;
    let tokens: Vec<NodeToken> =
        tokens.into_iter().filter(|token| token.node_id == node.id && token.revoked_at.is_none()).collect();
    if tokens.is_empty() {
        return Err(Failure::new(
            crate::exit::REFUSED,
            format!("{} has no valid token: it is revoked already", node.name),
        ));
    }
    if !yes {
        confirm(context, &node, evict)?;
    }
    for token in &tokens {
        server.client.revoke_node_token(token.id, evict).await.or_tell(server)?;
    }
    let node = match server.client.node(node.id).await {
        // It was away and had nothing: with its token it is gone.
        Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => node,
        now => now.or_tell(server)?,
    };
    told(context, &node, "revoked", "it can't come back with its token")
}

fn confirm(context: &Context, node: &Node, evict: bool) -> Result<(), Failure> {
    let name = clean(&node.name);
    let when = if evict { "at once" } else { "when it has been offline for long enough" };
    let lost = format!(
        "{name} is cut off at once, and {} there run again elsewhere {when}",
        plural(node.tasks.into(), "task")
    );
    if !context.out.can_ask() {
        return Err(Failure::usage(lost).note("to do it without being asked: --yes"));
    }
    eprint!("{lost}.\nType the node's name to revoke it: ");
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() == node.name { Ok(()) } else { Err(Failure::usage("nothing was revoked")) }
}
