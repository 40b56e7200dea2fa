//! `unidesk run`: submit, follow, exit with the task's own code.

mod body;
mod follow;
mod story;

pub(super) use body::read_pair;

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    failure::Failure,
    last_task,
    output::Progress,
    render::phases,
    style::Glyph,
};
use api_types::task::Task;
use std::process::ExitCode;

#[derive(Debug, Default, clap::Args)]
#[command(after_long_help = "\
Examples:
  unidesk run \"ls -la /tmp\" --timeout 30s                 one line, given to a shell
  unidesk run --gpus 1 --memory 16GiB \\
    --code-repo-url https://git.example/lab/resnet.git --code-commit-id $(git rev-parse HEAD) \\
    --env-repo-url https://git.example/lab/envs.git --env-commit-id 0123...4567 \\
    --dockerfile-path torch/Dockerfile -- python train.py --lr 0.1
  unidesk run --input imagenet-mini:data --output 'out/*.pt:resnet' \"python train.py data out\"
  unidesk run --checkpoint ckpt --timeout 7d \"python train.py --resume ckpt\"
  id=$(unidesk run --detach \"make all\"); unidesk wait $id

Exits with the task's own code; 124 timeout, 125 no server, 126 lost or cancelled, 120 any other end.")]
pub struct Args {
    /// One line for a shell
    #[arg(value_name = "LINE")]
    line: Option<String>,
    /// A program and its arguments, given to no shell
    #[arg(last = true, value_name = "PROGRAM", conflicts_with = "line")]
    argv: Vec<String>,

    /// Repository of the code
    #[arg(long, value_name = "URL", help_heading = "Source")]
    code_repo_url: Option<String>,
    /// Its commit, by full id
    #[arg(long, value_name = "COMMIT", help_heading = "Source")]
    code_commit_id: Option<String>,
    /// Repository of the environment
    #[arg(long, value_name = "URL", help_heading = "Source")]
    env_repo_url: Option<String>,
    /// Its commit, by full id
    #[arg(long, value_name = "COMMIT", help_heading = "Source")]
    env_commit_id: Option<String>,
    /// Path of the Dockerfile in the environment's repository
    #[arg(long, value_name = "PATH", help_heading = "Source")]
    dockerfile_path: Option<String>,
    /// An argument of the build; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = body::read_pair, help_heading = "Source")]
    build_arg: Vec<(String, String)>,
    /// container, process, or a task type that a node offers
    #[arg(long, value_name = "NAME", help_heading = "Source")]
    executor: Option<String>,

    /// An artifact that lies there, read-only, before it starts; may be repeated: imagenet@3:/data/imagenet
    #[arg(long = "input", value_name = "NAME:PATH", value_parser = body::read_input, help_heading = "Files")]
    inputs: Vec<(String, String)>,
    /// What is kept of what it leaves, as the next version of an artifact; may be repeated: 'out/**/*.pt:resnet'
    #[arg(long = "output", value_name = "GLOB:NAME", value_parser = body::read_output, help_heading = "Files")]
    outputs: Vec<(String, String)>,
    /// The same, also when it fails
    #[arg(long = "output-always", value_name = "GLOB:NAME", value_parser = body::read_output, help_heading = "Files")]
    outputs_always: Vec<(String, String)>,
    /// A directory that is stored every 10 minutes while it runs, from which the next attempt goes on; with another time: ckpt:5m
    #[arg(long, value_name = "PATH[:TIME]", value_parser = body::read_checkpoint, help_heading = "Files")]
    checkpoint: Option<(String, Option<String>)>,

    /// CPUs, may be a fraction
    #[arg(long, value_name = "N", help_heading = "Needs")]
    cpus: Option<String>,
    /// Memory: 16GiB, 512MiB
    #[arg(long, value_name = "SIZE", help_heading = "Needs")]
    memory: Option<String>,
    /// Disk
    #[arg(long, value_name = "SIZE", help_heading = "Needs")]
    disk: Option<String>,
    /// GPUs
    #[arg(long, value_name = "N", help_heading = "Needs")]
    gpus: Option<u32>,
    /// At least so much memory on each GPU
    #[arg(long, value_name = "SIZE", help_heading = "Needs")]
    gpu_memory: Option<String>,
    /// Only nodes with this label; may be repeated
    #[arg(long, value_name = "KEY=VALUE", value_parser = body::read_pair, help_heading = "Needs")]
    label: Vec<(String, String)>,
    /// This node and no other
    #[arg(long, value_name = "NODE", add = clap_complete::ArgValueCompleter::new(crate::complete::nodes), help_heading = "Needs")]
    node: Option<String>,

    /// A variable of its environment; may be repeated. KEY alone: as it is set here
    #[arg(long, short, value_name = "KEY[=VALUE]", value_parser = body::read_variable)]
    env: Vec<(String, String)>,
    /// Running time of one attempt: 30s, 6h
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// How long it may wait for a node
    #[arg(long, value_name = "TIME")]
    queue_timeout: Option<String>,
    /// urgent, high, normal, low, or an integer
    #[arg(long, allow_negative_numbers = true)]
    priority: Option<String>,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// The project it belongs to
    #[arg(long)]
    project: Option<String>,
    /// default or none
    #[arg(long)]
    network: Option<String>,
    /// User in the container: 1000, 1000:1000, or a name that the image knows
    #[arg(long)]
    user: Option<String>,
    /// Where it starts
    #[arg(long, value_name = "PATH")]
    workdir: Option<String>,
    /// Further attempts after failures of its own
    #[arg(long, value_name = "N")]
    retries: Option<u32>,
    /// Log bytes kept of one attempt
    #[arg(long, value_name = "SIZE")]
    log_limit: Option<String>,
    /// Print the id and do not wait
    #[arg(long, short)]
    detach: bool,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    submit_and_follow(args, context).await.map_err(Failure::of_run)
}

async fn submit_and_follow(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let task = server.client.submit(&body::body(&args), None).await.or_tell(&server)?;
    if args.detach {
        tell_submitted(context, &server, &task)?;
        return Ok(DONE);
    }
    last_task::remember(&context.places, &server.connection.url, task.id);
    let out = &context.out;
    out.redraw("");
    if out.progress != Progress::Off {
        out.line(&phases::submitted(&task, &out.people));
    }
    tell_warnings(context, &task);
    follow::follow(context, &server, task, &args).await
}

/// The id on stdout, whole unless a person reads it; what to do next for people.
pub fn tell_submitted(context: &Context, server: &Server, task: &Task) -> Result<(), Failure> {
    last_task::remember(&context.places, &server.connection.url, task.id);
    let out = &context.out;
    out.redraw("");
    tell_warnings(context, task);
    if out.is_json() {
        return out.json(task);
    }
    let id = if out.stdout_is_terminal { task.id.short() } else { task.id.to_string() };
    out.data(&format!("{id}\n"))?;
    if out.stdout_is_terminal {
        out.hint(&format!("  follow it: unidesk logs {id} --follow      wait for it: unidesk wait {id}"));
    }
    Ok(())
}

fn tell_warnings(context: &Context, task: &Task) {
    let out = &context.out;
    if !out.is_json() {
        for warning in phases::warnings(task) {
            out.tell(Glyph::Warning, "warning", &warning);
        }
    }
}
