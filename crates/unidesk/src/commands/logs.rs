//! `unidesk logs`.

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    cuts::Cuts,
    exit,
    failure::Failure,
    ids,
    style::Glyph,
    text::{clean, plural, show_count},
};
use api_types::log::{LogEnd, LogQuery};
use base64::{Engine, prelude::BASE64_STANDARD};
use client::{Followed, LogItem, Piece};
use domain::{ids::TaskId, quantity::show_bytes};
use futures::StreamExt;
use serde_json::json;
use std::{io::Write, process::ExitCode};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  unidesk logs last --follow
  unidesk logs 41c7a93d --attempt 1 > attempt1.log
  unidesk logs 41c7a93d --stream build")]
pub struct Args {
    /// Full id, its last 6 or more digits, or: last
    #[arg(add = clap_complete::ArgValueCompleter::new(crate::complete::tasks))]
    id: String,
    /// Go on until the task has ended; Ctrl-C stops the looking only
    #[arg(long, short)]
    follow: bool,
    /// Of this attempt; the last one by default
    #[arg(long)]
    attempt: Option<u32>,
    /// stdout, stderr, build or system, several by comma
    #[arg(long, value_name = "NAMES", default_value = "stdout,stderr")]
    stream: String,
    /// From this byte of the one named stream on
    #[arg(long)]
    offset: Option<u64>,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let id = ids::resolve(context, &server, &args.id).await?;
    let query = LogQuery { attempt: args.attempt, stream: Some(args.stream), offset: args.offset, follow: args.follow };
    if args.follow || context.out.is_json() {
        // What is not there is said at once, not waited for.
        server.client.task(id).await.or_tell(&server)?;
        follow(context, &server, id, &query).await
    } else {
        copy(&server, id, &query).await
    }
}

async fn copy(server: &Server, id: TaskId, query: &LogQuery) -> Result<ExitCode, Failure> {
    let mut bytes = server.client.log_bytes(id, query).await.or_tell(server)?;
    let mut written: u64 = 0;
    while let Some(chunk) = bytes.next().await {
        let chunk = chunk.map_err(|error| {
            server.failure(&error).note(format!("the log was cut after {}", plural(written, "byte")))
        })?;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(&chunk)?;
        stdout.flush()?;
        written += chunk.len() as u64;
    }
    Ok(DONE)
}

async fn follow(context: &Context, server: &Server, id: TaskId, query: &LogQuery) -> Result<ExitCode, Failure> {
    let out = &context.out;
    let mut log = std::pin::pin!(if query.follow {
        server.client.follow_log(id, query).left_stream()
    } else {
        server.client.log_pieces(id, query).right_stream()
    });
    let mut cuts = Cuts::default();
    let (mut seen, mut gaps) = (0, 0);
    loop {
        let item = tokio::select! {
            item = log.next() => item,
            () = cuts.due() => {
                if let Some(text) = cuts.tell(seen) {
                    out.hint(&format!("{} {text}", out.people.glyph(Glyph::Warning)));
                }
                continue;
            }
        };
        match item {
            Some(Ok(Followed::Event(LogItem::Piece(piece)))) => {
                seen += piece.bytes.len() as u64;
                gaps += u64::from(piece.gap.is_some());
                write(context, &piece)?;
            }
            Some(Ok(Followed::Event(LogItem::Attempt(number)))) => {
                if out.is_json() {
                    out.json(&json!({"attempt": number}))?;
                } else {
                    out.tell(Glyph::Warning, &format!("attempt {number}"), "begins here");
                }
                seen = 0;
            }
            Some(Ok(Followed::Event(LogItem::End(end)))) => {
                if out.is_json() {
                    out.json(&end)?;
                } else {
                    out.hint(&end_line(&end, gaps, context));
                }
                return Ok(DONE);
            }
            Some(Ok(Followed::Disconnected { since, why })) => cuts.lost(since, why),
            Some(Ok(Followed::Resumed { after })) => {
                if let Some(text) = cuts.back(after, seen) {
                    out.hint(&format!("{} back {text}", out.people.glyph(Glyph::Done)));
                }
            }
            Some(Err(error)) => return Err(server.failure(&error)),
            None => return Err(Failure::new(exit::UNREACHABLE, "the log stopped without an end")),
        }
    }
}

fn write(context: &Context, piece: &Piece) -> Result<(), Failure> {
    let out = &context.out;
    if out.is_json() {
        return out.json(&json!({
            "attempt": piece.attempt, "stream": piece.stream, "offset": piece.offset, "ordinal": piece.ordinal,
            "data": BASE64_STANDARD.encode(&piece.bytes), "gap": piece.gap,
        }));
    }
    if let Some(bytes) = piece.gap {
        let next = piece.offset + bytes;
        out.tell(
            Glyph::Warning,
            "gap",
            &format!("{} are missing here; the log goes on at byte {}", plural(bytes, "byte"), show_count(next)),
        );
    }
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(&piece.bytes)?;
    Ok(stdout.flush()?)
}

fn end_line(end: &LogEnd, gaps: u64, context: &Context) -> String {
    let missing = match (gaps, end.complete) {
        (0, true) => String::new(),
        (0, false) => ", not complete".to_owned(),
        (gaps, _) => format!(", {}", plural(gaps, "gap")),
    };
    let out = &context.out;
    format!("{} end of log: {}, {}{missing}", out.people.glyph(Glyph::Done), clean(&end.state), show_bytes(end.bytes))
}
