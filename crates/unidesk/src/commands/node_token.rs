//! `unidesk node-token`.

use crate::{
    commands::DONE,
    context::{Context, OrTell, Server},
    failure::Failure,
    output::{Progress, local_now},
    render::{self, View},
    style::Glyph,
    text::{clean, show_cpus},
};
use api_types::node::{CreatedNodeToken, Node, NodeTokenList};
use domain::{
    ids::NodeTokenId,
    node::Presence,
    quantity::{show_bytes, show_duration_ms},
};
use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a token for a machine; prints the secret, which is shown once
    #[command(after_long_help = "\
Examples:
  unidesk node-token create --name lab-8
  unidesk node-token create --name lab-8 > token          the secret and nothing else")]
    Create {
        /// Of the node: 1 to 63 letters, digits, -, _ and .
        #[arg(long)]
        name: String,
        /// Do not wait for the machine to call
        #[arg(long)]
        no_wait: bool,
    },
    /// All tokens, without their secrets
    List,
    /// Take a token away: its machine is cut off at once
    Revoke {
        /// Id of the token, as list shows it
        id: NodeTokenId,
    },
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let out = &context.out;
    match args.command {
        Command::Create { name, no_wait } => create(context, &server, &name, no_wait).await?,
        Command::List => {
            let tokens = server.client.node_tokens().await.or_tell(&server)?;
            let view = View { style: out.style, width: out.width(), now: local_now() };
            let table = render::node::tokens(&tokens, &view);
            if out.is_json() {
                out.json(&NodeTokenList { tokens, next_cursor: None })?;
            } else if !out.stdout_is_terminal {
                out.data(&table.for_programs())?;
            } else if table.is_empty() {
                out.hint("No tokens yet. Make one: unidesk node-token create --name NAME");
            } else {
                out.data(&table.for_people(&out.style, out.width()))?;
            }
        }
        Command::Revoke { id } => {
            server.client.revoke_node_token(id, false).await.or_tell(&server)?;
            out.tell(Glyph::Done, "revoked", &id.to_string());
        }
    }
    Ok(DONE)
}

async fn create(context: &Context, server: &Server, name: &str, no_wait: bool) -> Result<(), Failure> {
    let out = &context.out;
    let created = server.client.create_node_token(name).await.or_tell(server)?;
    if out.is_json() {
        return out.json(&created);
    }
    out.data(&format!("{}\n", created.token))?;
    for line in hints(&created, &server.connection.url, out.stdout_is_terminal) {
        out.hint(&line);
    }
    if no_wait || !out.stderr_is_terminal || !out.stdout_is_terminal {
        return Ok(());
    }
    tokio::select! {
        result = wait_for(context, server, &created) => result,
        _ = tokio::signal::ctrl_c() => {
            out.redraw("");
            Ok(())
        }
    }
}

/// Where the agent's image is, in the version of this program.
const PROVIDER_IMAGE: &str = concat!("ghcr.io/unidesk/provider:", env!("CARGO_PKG_VERSION"));

/// What to do with the secret: whole lines, for any POSIX shell, so that nothing is left to fill in.
fn hints(created: &CreatedNodeToken, url: &str, shown: bool) -> Vec<String> {
    let name = clean(&created.name);
    let url = clean(url);
    let mut lines = vec!["This secret is shown once and never expires until revoked.".to_owned()];
    if shown {
        lines.push(format!("On {name}, keep it in a file:"));
        lines.push(format!("  (umask 077; echo {} > node.token)", created.token));
    } else {
        // It went into a file or another program: that is where it stays.
        lines.push(format!("Copy it to {name} as the file node.token."));
    }
    // The agent speaks plain HTTP to its own machine only, and that is not its container.
    let network = if is_loopback(&url) { "--network host " } else { "" };
    lines.extend([
        "Then there, with Docker (for container tasks; it comes back after a reboot):".to_owned(),
        format!("  docker run -d --name unidesk-node --init --restart unless-stopped --stop-timeout 20 {network}\\"),
        "    -v unidesk-node:/var/lib/unidesk-provider -v /var/run/docker.sock:/var/run/docker.sock \\".to_owned(),
        format!("    -v \"$PWD/node.token:/run/secrets/node.token:ro\" -e UNIDESK_URL={url} {PROVIDER_IMAGE}"),
        "or with the program alone (for processes too; from boot on: deploy/systemd/unidesk-provider.service):"
            .to_owned(),
        format!("  unidesk provider --server {url} --token-file node.token"),
    ]);
    lines
}

fn is_loopback(url: &str) -> bool {
    let authority = url.split_once("://").map_or(url, |(_, rest)| rest);
    ["127.", "localhost", "[::1]"].iter().any(|host| authority.starts_with(host))
}

/// Looks until the machine has called. Only a convenience: the token is made, whatever becomes of this.
async fn wait_for(context: &Context, server: &Server, created: &CreatedNodeToken) -> Result<(), Failure> {
    let out = &context.out;
    let began = Instant::now();
    let name = clean(&created.name);
    if out.progress != Progress::Live {
        out.hint(&format!("waiting for {name} to call (Ctrl-C stops the waiting only)"));
    }
    loop {
        let waited = show_duration_ms(began.elapsed().as_millis() as u64);
        out.redraw(&out.people.phase(
            Glyph::Busy,
            "waiting",
            &format!("for {name} to call, {waited} (Ctrl-C stops the waiting only)"),
        ));
        match server.client.node(created.node_id).await {
            Ok(node) if node.presence == Presence::Connected => {
                out.redraw("");
                out.hint(&out.people.phase(
                    Glyph::Done,
                    &name,
                    &format!("connected after {waited}: {}. It takes tasks now.", machine(&node)),
                ));
                return Ok(());
            }
            Ok(_) => {}
            Err(error) if error.is_passing() => {}
            // Some other program's node, gone, or a server that shows it only once it has called.
            Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => {}
            Err(error) => return Err(server.failure(&error)),
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn machine(node: &Node) -> String {
    let capacity = &node.facts.capacity;
    let mut parts = vec![format!("{} cores", show_cpus(capacity.cpu_millis)), show_bytes(capacity.memory_bytes)];
    parts.extend(capacity.gpus.iter().map(|gpu| clean(&gpu.model)));
    parts.extend(node.facts.docker_version.iter().map(|version| format!("Docker {}", clean(version))));
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use domain::ids::NodeId;
    use uuid::Uuid;

    #[test]
    fn the_lines_to_paste_are_whole_and_a_secret_that_was_not_shown_is_not_shown_here_either() {
        let created = CreatedNodeToken {
            id: NodeTokenId::from_uuid(Uuid::nil()),
            node_id: NodeId::from_uuid(Uuid::nil()),
            name: "lab-8".into(),
            token: "ud_node_Hk3v9".into(),
        };
        let lines = hints(&created, "https://unidesk.example", true).join("\n");
        insta::assert_snapshot!(lines.replace(env!("CARGO_PKG_VERSION"), "VERSION"), @r#"
        This secret is shown once and never expires until revoked.
        On lab-8, keep it in a file:
          (umask 077; echo ud_node_Hk3v9 > node.token)
        Then there, with Docker (for container tasks; it comes back after a reboot):
          docker run -d --name unidesk-node --init --restart unless-stopped --stop-timeout 20 \
            -v unidesk-node:/var/lib/unidesk-provider -v /var/run/docker.sock:/var/run/docker.sock \
            -v "$PWD/node.token:/run/secrets/node.token:ro" -e UNIDESK_URL=https://unidesk.example ghcr.io/unidesk/provider:VERSION
        or with the program alone (for processes too; from boot on: deploy/systemd/unidesk-provider.service):
          unidesk provider --server https://unidesk.example --token-file node.token
        "#);
        let unseen = hints(&created, "http://127.0.0.1:7700", false).join("\n");
        assert!(!unseen.contains("Hk3v9") && unseen.contains(" --network host "), "{unseen}");
    }
}
