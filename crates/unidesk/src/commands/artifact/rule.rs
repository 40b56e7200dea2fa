//! `unidesk artifact rule`: how long artifacts are kept.

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    failure::Failure,
    render,
    style::Glyph,
    text::{clean, plural},
};
use api_types::artifact::{CreateRule, RulePreview};
use domain::{
    ids::RuleId,
    quantity::{parse_duration_ms, show_bytes},
    retention::RetentionRule,
};
use std::{io::BufRead, process::ExitCode};

/// Of what a rule would remove at once, so many are named.
const SHOWN: usize = 5;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Say which artifacts are removed, and when
    Add(Add),
    /// All rules
    List,
    /// Remove a rule; artifacts that it removed do not come back
    Rm {
        /// Its id, as list shows it
        id: RuleId,
    },
}

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
All that a rule says must hold of an artifact that it removes. What no rule concerns is kept for ever, and so is what is pinned
(artifact pin) and what a task that has not ended reads. Rules are applied every ten minutes; bytes are deleted an hour after that.
Says what would be removed at once, and asks.

Examples:
  unidesk artifact rule add --name 'nightly-*' --keep-last 7
  unidesk artifact rule add --label scratch --older-than 14d
  unidesk artifact rule add --name resnet --older-than 90d --keep-last 3    old ones, but never the newest three")]
struct Add {
    /// Only of these names: imagenet, nightly-*
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// Only with this label; may be repeated, then with all of them
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Never the newest N versions of a name
    #[arg(long, value_name = "N")]
    keep_last: Option<u32>,
    /// Only what was put in so long ago: 30d, 12h
    #[arg(long, value_name = "TIME", value_parser = read_time)]
    older_than: Option<u64>,
    /// The project it belongs to
    #[arg(long)]
    project: Option<String>,
    /// Do not ask
    #[arg(long, short)]
    yes: bool,
}

fn read_time(text: &str) -> Result<u64, String> {
    parse_duration_ms(text).ok_or_else(|| "a time: 30d, 12h, 90m".to_owned())
}

pub(super) async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    match args.command {
        Command::Add(add) => self::add(add, context, &server).await,
        Command::List => {
            let rules = server.client.artifact_rules().await.or_tell(&server)?;
            if context.out.is_json() {
                context.out.json(&rules)?;
            } else if rules.is_empty() {
                context.out.hint("No rules: artifacts are kept until somebody removes them.");
            } else {
                context.out.data(&render::artifact::rules(
                    &rules,
                    &super::view(context),
                    context.out.stdout_is_terminal,
                ))?;
            }
            Ok(DONE)
        }
        Command::Rm { id } => {
            server.client.delete_artifact_rule(id).await.or_tell(&server)?;
            if !context.out.is_json() {
                context.out.tell(Glyph::Done, "removed", &format!("rule {id}"));
            }
            Ok(DONE)
        }
    }
}

async fn add(add: Add, context: &Context, server: &Server) -> Result<ExitCode, Failure> {
    let labels = add.label.iter().map(|label| match label.split_once('=') {
        Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
        None => (label.clone(), None),
    });
    let rule = RetentionRule {
        name: add.name,
        labels: labels.collect(),
        keep_last: add.keep_last,
        older_than_ms: add.older_than,
    };
    let mut wanted = CreateRule { project: add.project, rule, cursor: None };
    let out = &context.out;
    if !add.yes {
        let lost = lost(&preview(server, &mut wanted).await?);
        if !out.can_ask() {
            return Err(Failure::usage(lost).note("to do it without being asked: --yes"));
        }
        eprint!("{lost}.\nAdd the rule? [y/N] ");
        let mut answer = String::new();
        std::io::stdin().lock().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Err(Failure::usage("no rule was added"));
        }
    }
    let made = server.client.add_artifact_rule(&wanted).await.or_tell(server)?;
    if out.is_json() {
        out.json(&made)?;
    } else {
        out.data(&format!("{}\n", made.id))?;
    }
    Ok(DONE)
}

/// All of what it would remove now.
async fn preview(server: &Server, wanted: &mut CreateRule) -> Result<RulePreview, Failure> {
    let mut whole = RulePreview::default();
    loop {
        let bite = server.client.preview_artifact_rule(wanted).await.or_tell(server)?;
        whole.artifacts.extend(bite.artifacts);
        whole.bytes += bite.bytes;
        wanted.cursor = bite.next_cursor;
        if wanted.cursor.is_none() {
            return Ok(whole);
        }
    }
}

fn lost(preview: &RulePreview) -> String {
    let count = preview.artifacts.len();
    if count == 0 {
        return "it would remove nothing now, and later whatever comes to be so".to_owned();
    }
    let some = preview.artifacts.iter().take(SHOWN).map(|name| clean(name)).collect::<Vec<_>>().join(" ");
    let rest = if count > SHOWN { " ..." } else { "" };
    format!(
        "it removes {} for good within ten minutes, {}: {some}{rest}",
        plural(count as u64, "artifact"),
        show_bytes(preview.bytes)
    )
}
