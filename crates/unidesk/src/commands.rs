//! One file a command: its arguments, and what it does with them.

pub mod api_key;
pub mod artifact;
pub mod audit;
pub mod backup;
pub mod cancel;
pub mod doctor;
pub mod events;
pub mod get;
pub mod health;
pub mod help;
pub mod list;
pub mod login;
pub mod logs;
pub mod migrate;
pub mod node;
pub mod node_token;
pub mod provider;
pub mod retry;
pub mod run;
pub mod server;
pub mod status;
pub mod submit;
pub mod up;
pub mod wait;
pub mod whoami;
pub mod why;

use crate::{cli::Command, context::Context, exit, failure::Failure};
use std::process::ExitCode;

pub const DONE: ExitCode = ExitCode::SUCCESS;

pub async fn dispatch(context: &Context, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Run(args) => run::run(*args, context).await,
        Command::Submit(args) => submit::run(args, context).await,
        Command::List(args) => list::run(args, context).await,
        Command::Status(args) => status::run(args, context).await,
        Command::Logs(args) => logs::run(args, context).await,
        Command::Events(args) => events::run(args, context).await,
        Command::Why(args) => why::run(args, context).await,
        Command::Wait(args) => wait::run(args, context).await,
        Command::Get(args) => get::run(args, context).await,
        Command::Cancel(args) => cancel::run(args, context).await,
        Command::Retry(args) => retry::run(args, context).await,
        Command::Node(args) => node::run(args, context).await,
        Command::NodeToken(args) => node_token::run(args, context).await,
        Command::ApiKey(args) => api_key::run(args, context).await,
        Command::Artifact(args) => artifact::run(args, context).await,
        Command::Audit(args) => audit::run(args, context).await,
        Command::Doctor(args) => doctor::run(args, context).await,
        Command::Backup(args) => backup::run(args, context).await,
        Command::Login(args) => login::run(args, context).await,
        Command::Whoami => whoami::run(context).await,
        Command::Up(args) => up::run(*args).await.map_err(of_service),
        Command::Server(args) => server::run(*args).await.map_err(of_service),
        Command::Provider(args) => provider::run(*args, context.server_flag()).await.map_err(of_service),
        Command::Migrate(args) => migrate::run(*args).await.map_err(of_service),
        Command::Health(args) => health::run(args, context).await,
        Command::Help(args) => help::run(args, context),
    }
}

/// A service that could not start or go on: the whole chain of causes, one below the other.
fn of_service(error: anyhow::Error) -> Failure {
    let failure = Failure::new(exit::FAULT, error.to_string());
    error.chain().skip(1).fold(failure, |failure, cause| failure.note(crate::text::clean(&cause.to_string())))
}
