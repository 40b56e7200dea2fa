//! `unidesk help`: of a command, or of exit codes.

use crate::{cli::Cli, commands::DONE, context::Context, exit, failure::Failure};
use clap::CommandFactory;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    /// A command, or: exit
    words: Vec<String>,
}

pub fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    if args.words == ["exit"] {
        context.out.data(exit::HELP)?;
        return Ok(DONE);
    }
    let mut root = Cli::command();
    root.build();
    let mut command = &mut root;
    for word in &args.words {
        command = command.find_subcommand_mut(word).ok_or_else(|| {
            Failure::usage(format!("there is no command {word:?}")).note("all of them: unidesk --help")
        })?;
    }
    context.out.data(&command.render_long_help().to_string())?;
    Ok(DONE)
}
