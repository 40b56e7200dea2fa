//! `unidesk health`: for health checks of containers, so that an image needs no other program for that.

use crate::{commands::DONE, context::Context, exit, failure::Failure, paths::Places};
use std::{path::PathBuf, process::ExitCode, time::Duration};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const WITHIN: Duration = Duration::from_secs(4);

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Exits with 0 if it is well, else with 1 and the reason.

Examples:
  unidesk health                    the service that listens where UNIDESK_HEALTH_LISTEN or UNIDESK_LISTEN says
  unidesk health 127.0.0.1:7701     the service that listens there
  unidesk health --agent            the agent of this machine: it lives, and is connected")]
pub struct Args {
    /// Address and port of a service
    #[arg(conflicts_with = "agent")]
    address: Option<String>,
    /// The agent instead of a service
    #[arg(long)]
    agent: bool,
    /// Data directory of the agent
    #[arg(long, env = "UNIDESK_PROVIDER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let said = if args.agent {
        let data_dir = args.data_dir.unwrap_or_else(|| Places::from_env().data_dir().join("provider"));
        provider_gateway::pulse::look(&data_dir).map(|()| "connected".to_owned())
    } else {
        let address = args.address.unwrap_or_else(listening);
        let asked = tokio::time::timeout(WITHIN, ask(&address)).await;
        asked.unwrap_or_else(|_| Err(format!("nothing was answered within {} s", WITHIN.as_secs())))
    };
    match said {
        Ok(said) => {
            context.out.data(&format!("{said}\n"))?;
            Ok(DONE)
        }
        Err(reason) => Err(Failure::new(exit::FAULT, reason)),
    }
}

/// Where the service of this environment listens; one that listens everywhere is asked by loopback.
fn listening() -> String {
    let set = |name: &&str| std::env::var(name).ok().filter(|address| !address.is_empty());
    let named = ["UNIDESK_HEALTH_LISTEN", "UNIDESK_LISTEN"].iter().find_map(set);
    let address = named.unwrap_or_else(|| "127.0.0.1:7700".to_owned());
    address.replacen("0.0.0.0", "127.0.0.1", 1).replacen("[::]", "[::1]", 1)
}

/// What `/readyz` says. One request by hand: it goes to this machine, in plain text.
async fn ask(address: &str) -> Result<String, String> {
    let unreachable = |error| format!("{address}: {error}");
    let mut stream = TcpStream::connect(address).await.map_err(unreachable)?;
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(unreachable)?;
    let mut answer = Vec::new();
    stream.take(64 * 1024).read_to_end(&mut answer).await.map_err(unreachable)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split_whitespace().nth(1).unwrap_or("nothing");
    match status {
        "200" => Ok(body.trim().to_owned()),
        "503" => Err(body.trim().to_owned()),
        other => Err(format!("{address} answers {other} to /readyz; is this a service of UniDesk?")),
    }
}
