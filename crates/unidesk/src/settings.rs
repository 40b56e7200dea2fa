//! Settings by environment: an empty variable is as good as none, for all of them, as a file of settings that was only half filled in
//! has them; and a setting that must be given is asked for by both its names.

use clap::{
    Command,
    builder::{Resettable, StyledStr},
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::ffi::OsString;

/// Reads the command line, or ends the program in clap's own words: help, version, mistakes.
pub fn read<Cli: clap::Parser>() -> Cli {
    let mut command = without_empty(Cli::command());
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
