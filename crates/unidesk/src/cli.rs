//! The command line as clap reads it.

use crate::commands;
use clap::{Parser, Subcommand, ValueEnum};

#[derive(Debug, Parser)]
#[command(
    name = "unidesk",
    version = crate::version::text(),
    about = "Run a commit on a machine that fits, and know years later exactly what ran.",
    override_help = HELP,
    disable_help_subcommand = true,
    max_term_width = 100
)]
pub struct Cli {
    #[command(flatten)]
    pub globals: Globals,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Clone, Debug, clap::Args)]
pub struct Globals {
    /// Form of what is printed on stdout
    // `--output` stays free for what a task leaves.
    #[arg(
        short = 'o',
        long = "format",
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        help_heading = "Everywhere"
    )]
    pub output: Format,
    /// Colour; auto: on a terminal, unless NO_COLOR is set
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN", help_heading = "Everywhere")]
    pub color: ColourChoice,
    /// What is shown of work in progress; plain: finished phases, a line each; build: with the build's output
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "HOW",
        env = "UNIDESK_PROGRESS",
        hide_env_values = true,
        help_heading = "Everywhere"
    )]
    pub progress: ProgressChoice,
    /// Address of the server; else UNIDESK_URL, the stored login, or a local `unidesk up`
    #[arg(long, global = true, value_name = "URL", help_heading = "Everywhere")]
    pub server: Option<String>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ColourChoice {
    #[default]
    Auto,
    Always,
    Never,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum ProgressChoice {
    #[default]
    Auto,
    Plain,
    Build,
    Off,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Submit a task, follow its log, exit with its code
    Run(Box<commands::run::Args>),
    /// Submit a task from a YAML or JSON file; prints its id
    Submit(commands::submit::Args),
    /// Tasks: those that live first, then the newest
    List(commands::list::Args),
    /// One task: what it is, where it runs, what became of its attempts
    Status(commands::status::Args),
    /// A task's log, byte for byte
    Logs(commands::logs::Args),
    /// What happens to all tasks, a line each
    Events(commands::events::Args),
    /// Why a task is waiting, or what ended it
    Why(commands::why::Args),
    /// Wait for a task's end, exit with its code
    Wait(commands::wait::Args),
    /// Fetch what a task has left
    Get(commands::get::Args),
    /// End tasks
    Cancel(commands::cancel::Args),
    /// Queue an ended task once more
    Retry(commands::retry::Args),
    /// Machines: list, show, drain, resume, revoke
    Node(commands::node::Args),
    /// Tokens with which machines join
    NodeToken(commands::node_token::Args),
    /// Keys of people and programs
    ApiKey(commands::api_key::Args),
    /// Large files and directories: put, get, list, show, diff, rm, fsck
    Artifact(commands::artifact::Args),
    /// Check that all holds in the live database that always should
    Audit(commands::audit::Args),
    /// Check an installation: the way to the server, the server, this machine as a node
    Doctor(commands::doctor::Args),
    /// Backups of the database: list, now, verify, restore
    Backup(commands::backup::Args),
    /// Store a credential for a server
    Login(commands::login::Args),
    /// Who the server takes you for
    Whoami,
    /// Everything on this machine, in one process
    Up(Box<commands::up::Args>),
    /// One service of the platform
    Server(Box<commands::server::Args>),
    /// The agent that offers this machine to a server
    Provider(Box<commands::provider::Args>),
    /// Bring the database to this version
    Migrate(Box<commands::migrate::Args>),
    /// Whether a service or an agent on this machine is well, for health checks
    Health(commands::health::Args),
    /// Help on a command, or on exit codes: help exit
    Help(commands::help::Args),
}

pub const HELP: &str = "\
Run a commit on a machine that fits, and know years later exactly what ran.

  unidesk up                               everything on this machine, in seconds
  unidesk run \"ls -la /tmp\"                run, follow, exit with the task's own code
  unidesk why last                         why is it waiting, or what ended it

Tasks      run  submit  list  status  logs  events  why  wait  cancel  retry
Machines   node  node-token  provider
Data       artifact  get
Access     login  whoami  api-key
Platform   up  server  migrate  backup  doctor  health  audit

Everywhere: -o json, --color, --progress, --server, -h short help, --help with examples
Exit codes: unidesk help exit
";
