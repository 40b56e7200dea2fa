//! `unidesk artifact list`.

use super::view;
use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    failure::Failure,
    render,
};
use api_types::{artifact::ArtifactList, page::MAX_LIMIT};
use client::ArtifactQuery;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  unidesk artifact list --name imagenet --limit 50
  unidesk artifact list --label split=train -o json | jq -r '.artifacts[].sha256'")]
pub(super) struct Args {
    /// Only of this name
    #[arg(long)]
    name: Option<String>,
    /// Only these states, by comma: uploading, ready, corrupt, expired, deleted; all
    #[arg(long, short)]
    state: Option<String>,
    /// Only with this label; may be repeated
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// At most so many
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: u32,
    /// Only of this project
    #[arg(long)]
    project: Option<String>,
    /// Go on after an earlier page: its next_cursor
    #[arg(long)]
    cursor: Option<String>,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let out = &context.out;
    let query = ArtifactQuery {
        project: args.project,
        name: args.name,
        state: args.state,
        label: Some(args.label.join(",")).filter(|labels| !labels.is_empty()),
        limit: None,
        cursor: args.cursor,
    };
    let page = fetch(&server, query, args.limit).await?;
    if out.is_json() {
        out.json(&page)?;
        return Ok(DONE);
    }
    if !out.stdout_is_terminal {
        out.data(&render::artifact::list_for_programs(&page.artifacts, &view(context)))?;
    } else if !page.artifacts.is_empty() {
        out.data(&render::artifact::list_for_people(&page.artifacts, &view(context)))?;
    }
    out.hint(&render::artifact::list_footer(page.artifacts.len(), page.next_cursor.is_some(), args.limit));
    Ok(DONE)
}

/// As many pages as `limit` needs. A page may be short, even empty, and not the last one.
async fn fetch(server: &Server, mut query: ArtifactQuery, limit: u32) -> Result<ArtifactList, Failure> {
    let mut artifacts = Vec::new();
    loop {
        query.limit = Some((limit - artifacts.len() as u32).clamp(1, MAX_LIMIT));
        let mut page = server.client.artifacts(&query).await.or_tell(server)?;
        artifacts.append(&mut page.artifacts);
        query.cursor.clone_from(&page.next_cursor);
        if query.cursor.is_none() || artifacts.len() as u32 >= limit {
            return Ok(ArtifactList { artifacts, next_cursor: page.next_cursor });
        }
    }
}
