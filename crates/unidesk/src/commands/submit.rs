//! `unidesk submit`.

use crate::{
    commands::{DONE, run},
    context::{Context, OrTell},
    failure::Failure,
};
use serde_json::Value;
use std::{io::Read, path::PathBuf, process::ExitCode};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  unidesk submit -f task.yaml
  jq '.env.SEED = \"8\"' task.json | unidesk submit -f -")]
pub struct Args {
    /// YAML or JSON; -: standard input
    #[arg(long, short, value_name = "FILE")]
    file: PathBuf,
    /// The same key again gives the same task instead of another one
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let body = read(&args.file)?;
    let server = context.server()?;
    let task = server.client.submit(&body, args.idempotency_key.as_deref()).await.or_tell(&server)?;
    run::tell_submitted(context, &server, &task)?;
    Ok(DONE)
}

fn read(path: &std::path::Path) -> Result<Value, Failure> {
    let mut text = String::new();
    if path.as_os_str() == "-" {
        std::io::stdin()
            .lock()
            .read_to_string(&mut text)
            .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    } else {
        text = std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))?;
    }
    // JSON is nearly YAML, but its own reader knows large numbers and says more about a mistake.
    if text.trim_start().starts_with('{')
        && let Ok(body) = serde_json::from_str(&text)
    {
        return Ok(body);
    }
    serde_yaml_ng::from_str(&text)
        .map_err(|error| Failure::usage(format!("{} is neither YAML nor JSON: {error}", path.display())))
}
