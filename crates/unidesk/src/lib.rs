//! The command line, and everything in one process.
//!
//! Owns: what people type and what they see. Rendering is pure (values and the time in, text out) and stands in [`render`];
//! commands fetch, render and write. Begin at [`cli`]; [`commands::run`] is the one with the most to say.

pub mod cli;
pub mod commands;
pub mod complete;
pub mod connection;
pub mod context;
pub mod cuts;
pub mod exit;
pub mod failure;
pub mod ids;
pub mod last_task;
pub mod output;
pub mod paths;
pub mod render;
pub mod settings;
pub mod sink;
pub mod standalone;
pub mod style;
pub mod table;
pub mod terminal;
pub mod text;
pub mod version;
pub mod vitals;

use clap::CommandFactory;
use context::Context;
use failure::Failure;
use std::process::ExitCode;

/// Reads the command line and does it.
pub fn main() -> ExitCode {
    clap_complete::CompleteEnv::with_factory(cli::Cli::command).complete();
    // Help, version and mistakes end here, in clap's own words.
    let cli: cli::Cli = settings::read();
    let context = Context::new(cli.globals);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            return finish(&context, Err(Failure::new(exit::FAULT, format!("threads can't be started: {error}"))));
        }
    };
    let result = runtime.block_on(commands::dispatch(&context, cli.command));
    // A thread that still waits for a key must not hold up the end.
    runtime.shutdown_background();
    finish(&context, result)
}

fn finish(context: &Context, result: Result<ExitCode, Failure>) -> ExitCode {
    match result {
        Ok(code) => code,
        Err(Failure::Closed) => ExitCode::from(exit::DONE),
        Err(Failure::Told(told)) => {
            context.out.redraw("");
            context.out.error(&told);
            ExitCode::from(told.exit)
        }
    }
}
