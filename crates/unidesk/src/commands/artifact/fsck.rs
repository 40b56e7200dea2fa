//! `unidesk artifact fsck`.

use crate::{
    commands::DONE,
    context::{Context, OrTell},
    exit,
    failure::Failure,
    output::Progress,
    render,
    text::plural,
};
use api_types::artifact::{FsckReport, FsckRequest};
use domain::quantity::show_bytes;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Looks for what is known and not stored, or stored with another size; and for what is stored and not known, older than a day.
Changes nothing without --repair. Safe to interrupt and to repeat. Exits with 1 when it finds something.

Examples:
  unidesk artifact fsck --read
  unidesk artifact fsck --repair -o json | jq '.findings'")]
pub(super) struct Args {
    /// Also read every byte, and compare the checksums
    #[arg(long)]
    read: bool,
    /// Mark what is damaged as corrupt, and delete what belongs to nothing
    #[arg(long)]
    repair: bool,
}

pub(super) async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let out = &context.out;
    let mut request = FsckRequest { read: args.read, repair: args.repair, cursor: None };
    let mut whole = FsckReport::default();
    loop {
        // A bite each time, so that no answer takes long.
        let report = server.client.fsck_artifacts(&request).await.or_tell(&server)?;
        whole.objects += report.objects;
        whole.bytes += report.bytes;
        if !out.is_json() {
            out.redraw("");
            for finding in &report.findings {
                out.data(&(render::artifact::finding(finding, &out.style) + "\n"))?;
            }
        }
        whole.findings.extend(report.findings);
        request.cursor = report.next_cursor;
        if request.cursor.is_none() {
            break;
        }
        if out.progress == Progress::Live {
            out.redraw(&format!("{}, {} so far", plural(whole.objects, "object"), show_bytes(whole.bytes)));
        }
    }
    if out.is_json() {
        out.json(&whole)?;
    } else {
        out.redraw("");
        out.data(&render::artifact::fsck_sum(whole.objects, whole.bytes, &whole.findings, args.read, args.repair))?;
    }
    Ok(if whole.findings.is_empty() { DONE } else { exit::FAULT.into() })
}
