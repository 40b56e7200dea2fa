//! `unidesk login`.

use crate::{
    commands::DONE,
    connection::{Connection, Credentials, Inputs, Login},
    context::Context,
    exit,
    failure::Failure,
    style::Glyph,
    terminal::Quiet,
    text::clean,
};
use std::{io::BufRead, path::PathBuf, process::ExitCode};

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Examples:
  unidesk login https://unidesk.lab.example        asks for the key
  unidesk login URL --token-file key.txt
  pass unidesk | unidesk login URL")]
pub struct Args {
    /// Address of the server
    url: String,
    /// Read the API key from this file instead of asking
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let token = read_token(&args, context)?;
    let path = context.places.credentials();
    let inputs =
        Inputs { flag_url: Some(args.url), env_token: Some(token.clone()), ..Inputs::gather(None, &context.places)? };
    let connection: Connection = inputs.choose()?;
    let me = connection.client()?.who_am_i().await.map_err(|error| match error.problem() {
        Some(problem) if problem.status == 401 => {
            Failure::new(exit::REFUSED, format!("{} does not know this key: {}", connection.url, problem.detail))
        }
        _ => Failure::of_client(&error, &connection),
    })?;
    let mut credentials = Credentials::read(&path).map_err(Failure::usage)?;
    credentials.servers.insert(connection.url.clone(), Login { token });
    credentials.current = Some(connection.url.clone());
    credentials
        .write(&path)
        .map_err(|error| Failure::new(exit::FAULT, format!("{}: {error}", context.places.show(&path))))?;
    if context.out.is_json() {
        context.out.json(&me)?;
    } else {
        let rest = format!("as {} ({}), kept in {}", clean(&me.name), me.role.as_str(), context.places.show(&path));
        context.out.tell(Glyph::Done, "logged in", &rest);
    }
    if std::env::var_os("UNIDESK_TOKEN").is_some() || std::env::var_os("UNIDESK_URL").is_some() {
        context.out.hint("  UNIDESK_URL and UNIDESK_TOKEN win over this login as long as they are set");
    }
    Ok(DONE)
}

fn read_token(args: &Args, context: &Context) -> Result<String, Failure> {
    let token = if let Some(file) = &args.token_file {
        std::fs::read_to_string(file).map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?
    } else {
        let quiet = context.out.can_ask().then(Quiet::enter);
        if quiet.is_some() {
            eprint!("API key for {}: ", clean(&args.url));
        }
        let mut line = String::new();
        std::io::stdin().lock().read_line(&mut line)?;
        if quiet.is_some() {
            eprintln!();
        }
        line
    };
    let token = token.trim().to_owned();
    if token.is_empty() {
        return Err(Failure::usage("no key was given")
            .note("an admin makes one: unidesk api-key create --name NAME --role member"));
    }
    Ok(token)
}
