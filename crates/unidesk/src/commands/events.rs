//! `unidesk events`.

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    cuts::Cuts,
    exit,
    failure::Failure,
    output::local_now,
    render::{self, View},
    style::Glyph,
};
use api_types::event::{Begin, EventsQuery, TaskEvent};
use client::{FeedItem, Followed};
use domain::ids::NodeId;
use futures::StreamExt;
use serde_json::json;
use std::{
    collections::BTreeMap,
    process::ExitCode,
    time::{Duration, Instant},
};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Without --since: all that is kept; with --follow: what happens from now on. Each line of -o json, and of a pipe, has the cursor
to go on from after it. A connection that is cut is made again, with nothing missing and nothing twice.

Examples:
  unidesk events --follow
  unidesk events --since CURSOR --json | jq -r 'select(.event == \"finished\") | .task'")]
pub struct Args {
    /// Go on with what happens; Ctrl-C stops it
    #[arg(long, short)]
    follow: bool,
    /// What came after this cursor of an earlier line
    #[arg(long, value_name = "CURSOR")]
    since: Option<String>,
    /// The same as -o json: an object a line
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let (out, is_json) = (&context.out, args.json || context.out.is_json());
    let from = if args.follow { Begin::Now } else { Begin::Beginning };
    let mut feed =
        std::pin::pin!(server.client.events(&EventsQuery { follow: args.follow, from }, args.since.as_deref()));
    let mut names = Names::default();
    let mut cuts = Cuts::default();
    loop {
        let item = tokio::select! {
            item = feed.next() => item,
            () = cuts.due() => {
                if let Some(text) = cuts.tell_of("events") {
                    out.hint(&format!("{} {text}", out.people.glyph(Glyph::Warning)));
                }
                continue;
            }
        };
        match item {
            Some(Ok(Followed::Event(FeedItem::Event { cursor, event }))) => {
                let node = names.of(&server, &event).await;
                if is_json {
                    out.json(&line(&event, node.as_deref(), &cursor))?;
                } else if out.stdout_is_terminal {
                    let view = View { style: out.style, width: out.width(), now: local_now() };
                    out.data(&render::events::for_people(&event, node.as_deref(), &view))?;
                } else {
                    out.data(&render::events::for_programs(&event, node.as_deref(), &cursor))?;
                }
            }
            Some(Ok(Followed::Event(FeedItem::Here { .. }))) => {}
            Some(Ok(Followed::Event(FeedItem::End { cursor }))) => {
                out.hint(&format!("Go on from here: unidesk events --since '{cursor}'"));
                return Ok(DONE);
            }
            Some(Ok(Followed::Disconnected { since, why })) => cuts.lost(since, why),
            Some(Ok(Followed::Resumed { after })) => {
                if let Some(text) = cuts.back_to("events", after) {
                    out.hint(&format!("{} back {text}", out.people.glyph(Glyph::Done)));
                }
            }
            Some(Err(error)) => return Err(server.failure(&error)),
            None => return Err(Failure::new(exit::UNREACHABLE, "the events stopped without an end")),
        }
    }
}

/// The event as the server says it, with what only this side knows.
fn line(event: &TaskEvent, node: Option<&str>, cursor: &str) -> serde_json::Value {
    let mut line = serde_json::to_value(event).unwrap_or_default();
    if let Some(fields) = line.as_object_mut() {
        fields.insert("node_name".into(), json!(node));
        fields.insert("cursor".into(), json!(cursor));
    }
    line
}

/// Names of nodes, asked for when an event is about an unknown one; not for every event, where the name can't be had.
#[derive(Default)]
struct Names {
    known: BTreeMap<NodeId, String>,
    asked: Option<Instant>,
}

const ASK_AGAIN: Duration = Duration::from_secs(10);

impl Names {
    async fn of(&mut self, server: &Server, event: &TaskEvent) -> Option<String> {
        let id = render::events::node_of(event)?;
        let may_ask = self.asked.is_none_or(|at| at.elapsed() > ASK_AGAIN);
        if !self.known.contains_key(&id) && may_ask {
            self.asked = Some(Instant::now());
            // A name is nice to have; the line says the id without it.
            if let Ok(nodes) = server.client.nodes().await.or_tell(server) {
                self.known = nodes.into_iter().map(|node| (node.id, node.name)).collect();
            }
        }
        self.known.get(&id).cloned()
    }
}
