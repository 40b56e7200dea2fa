//! `unidesk api-key`.

use crate::{
    commands::DONE,
    context::{Context, OrTell},
    failure::Failure,
    output::local_now,
    render::{self, View},
    style::Glyph,
};
use api_types::access::{ApiKeyList, CreateApiKey};
use domain::{ids::ApiKeyId, principal::Role};
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Make a key; prints the secret, which is shown once
    Create {
        /// What people call it: it stands beside every task that it submits
        #[arg(long)]
        name: String,
        /// admin, member (submit, cancel, look) or viewer (look)
        #[arg(long, default_value = "member", value_parser = read_role)]
        role: Role,
        /// The project that it acts in; default when left out
        #[arg(long)]
        project: Option<String>,
        /// Days until it expires; never when left out
        #[arg(long, value_name = "DAYS")]
        expires_in_days: Option<u32>,
    },
    /// All keys, without their secrets
    List,
    /// Take a key away, at once
    Revoke {
        /// Id of the key, as list shows it
        id: ApiKeyId,
    },
}

fn read_role(text: &str) -> Result<Role, String> {
    Role::parse(text).ok_or_else(|| "admin, member or viewer".to_owned())
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let out = &context.out;
    match args.command {
        Command::Create { name, role, project, expires_in_days } => {
            let wanted = CreateApiKey { name, role, project, expires_in_days };
            let created = server.client.create_api_key(&wanted).await.or_tell(&server)?;
            if out.is_json() {
                out.json(&created)?;
            } else {
                out.data(&format!("{}\n", created.key))?;
                out.hint(&format!(
                    "This secret is shown once. Use it: unidesk login {}   or UNIDESK_TOKEN",
                    server.connection.url
                ));
            }
        }
        Command::List => {
            let keys = server.client.api_keys().await.or_tell(&server)?;
            let view = View { style: out.style, width: out.width(), now: local_now() };
            let table = render::access::keys(&keys, &view);
            if out.is_json() {
                out.json(&ApiKeyList { api_keys: keys, next_cursor: None })?;
            } else if out.stdout_is_terminal {
                out.data(&table.for_people(&out.style, out.width()))?;
            } else {
                out.data(&table.for_programs())?;
            }
        }
        Command::Revoke { id } => {
            server.client.revoke_api_key(id).await.or_tell(&server)?;
            out.tell(Glyph::Done, "revoked", &id.to_string());
        }
    }
    Ok(DONE)
}
