//! Settings by environment: an empty variable is as good as none, for all of them, as a file of settings that was only half filled in
//! has them; a secret may stand in a file, so that nobody reads it in a list of processes or containers; and a setting that must be
//! given is asked for by both its names.

use clap::{
    Command,
    builder::{Resettable, StyledStr},
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{ffi::OsString, path::PathBuf};

/// Each of these is also read from the file that `NAME_FILE` names.
const SECRETS: [&str; 4] =
    ["UNIDESK_DATABASE_URL", "UNIDESK_DATABASE_PASSWORD", "UNIDESK_S3_ACCESS_KEY_ID", "UNIDESK_S3_SECRET_ACCESS_KEY"];

/// Reads the command line, or ends the program in clap's own words: help, version, mistakes.
pub fn read<Cli: clap::Parser>() -> Cli {
    let mut command = without_empty(Cli::command());
    for name in SECRETS {
        match secret_of_file(name) {
            Ok(None) => {}
            Ok(Some(secret)) => command = with_secret(command, name, &secret),
            Err(reason) => Cli::command().error(ErrorKind::ValueValidation, reason).exit(),
        }
    }
    let read = command
        .try_get_matches_from_mut(std::env::args_os())
        .and_then(|matches| Cli::from_arg_matches(&matches).map_err(|error| error.format(&mut command)));
    read.unwrap_or_else(|error| with_variables(error, &Cli::command()).exit())
}

fn without_empty(command: Command) -> Command {
    command
        .mut_args(|arg| {
            let is_empty = arg.get_env().and_then(std::env::var_os).is_some_and(|value| value.is_empty());
            if is_empty { arg.env(Resettable::<clap::builder::OsStr>::Reset) } else { arg }
        })
        .mut_subcommands(without_empty)
}

/// The secret that a file has, where one is named.
fn secret_of_file(name: &str) -> Result<Option<String>, String> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let Some(file) = set(&format!("{name}_FILE")).map(PathBuf::from) else { return Ok(None) };
    if set(name).is_some() {
        return Err(format!("both {name} and {name}_FILE are set; leave one out"));
    }
    let text = std::fs::read_to_string(&file).map_err(|error| format!("{name}_FILE={}: {error}", file.display()))?;
    match text.trim_end_matches(['\r', '\n']) {
        "" => Err(format!("{name}_FILE={}: the file is empty", file.display())),
        secret => Ok(Some(secret.to_owned())),
    }
}

/// The secret as what counts unless the command line has another.
fn with_secret(command: Command, name: &str, secret: &str) -> Command {
    command
        .mut_args(|arg| {
            if arg.get_env().is_some_and(|variable| variable == name) {
                arg.default_value(secret.to_owned()).hide_default_value(true).required(false)
            } else {
                arg
            }
        })
        .mut_subcommands(|command| with_secret(command, name, secret))
}

/// With the variables that would do as well as the arguments that are missing.
fn with_variables(mut error: clap::Error, command: &Command) -> clap::Error {
    if error.kind() != ErrorKind::MissingRequiredArgument {
        return error;
    }
    let Some(ContextValue::Strings(missing)) = error.get(ContextKind::InvalidArg) else { return error };
    let tips: Vec<StyledStr> = missing
        .iter()
        .filter_map(|missing| missing.strip_prefix("--")?.split_whitespace().next())
        .filter_map(|long| Some(format!("--{long} is also read from {}", variable(command, long)?.display()).into()))
        .collect();
    error.insert(ContextKind::Suggested, ContextValue::StyledStrs(tips));
    error
}

/// The variable of the argument of this name, of whatever command.
fn variable(command: &Command, long: &str) -> Option<OsString> {
    let own = command.get_arguments().find(|arg| arg.get_long() == Some(long)).and_then(|arg| arg.get_env());
    own.map(OsString::from).or_else(|| command.get_subcommands().find_map(|command| variable(command, long)))
}
