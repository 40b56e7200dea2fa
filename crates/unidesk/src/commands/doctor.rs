//! `unidesk doctor`: the way to the server and through its proxy, the server as it sees itself, and this machine as a node.

use crate::{
    context::{Context, Server},
    exit,
    failure::Failure,
    paths::Places,
    render,
    text::clean,
};
use api_types::{
    artifact::{PartAddress, PartsRequest, SignedRequest},
    check::{Check, CheckOutcome, OutsideProbe},
};
use chrono::{TimeDelta, Utc};
use client::ClientError;
use domain::{Timestamp, artifact::Sha256Digest, quantity::show_bytes};
use futures::{FutureExt as _, future::BoxFuture};
use provider_gateway::config::{self, ProviderSettings};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{io, path::PathBuf, process::ExitCode, sync::Arc, time::Duration};
use transfer::{
    AddressError, Content, Downloads, Observer, Options, PartSizes, Silent, Source, Store, TransferError, Uploads,
};

/// The largest frame between a node and the platform.
const LARGEST_FRAME: usize = protocol::MAX_FRAME_BYTES;
/// More than this and a task's times look odd; a credential of 15 minutes still works.
const CLOCKS_APART: TimeDelta = TimeDelta::seconds(5);
/// From here on whatever is signed for 15 minutes may have ended when it comes.
const CLOCKS_FAR_APART: TimeDelta = TimeDelta::minutes(5);
const CERTIFICATE_ENDS_SOON: TimeDelta = TimeDelta::days(14);
const STORE_WITHIN: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
#[command(after_long_help = "\
Looks at the way to the server (address, certificate, clock, WebSocket through the proxy), at the server as it sees itself
(database, scheduler, object store; for administrators), and tries the object store from here.
With --node: at this machine as a node instead (Docker, GPUs, Git, disks), and at the way from here.
Says of each what is wrong and how to mend it. Exits with 0 when nothing has failed, with 1 otherwise.

Examples:
  unidesk doctor
  unidesk doctor --silence 75s             does the proxy cut what says nothing for a while?
  unidesk doctor --node --server https://unidesk.example
  unidesk doctor -o json | jq '.checks[] | select(.outcome != \"ok\")'")]
pub struct Args {
    /// Look at this machine as a node, instead of at the server
    #[arg(long)]
    node: bool,
    /// The agent's data directory; with --node
    #[arg(long, env = "UNIDESK_PROVIDER_DATA_DIR", value_name = "DIR", requires = "node")]
    data_dir: Option<PathBuf>,
    /// Keep a WebSocket silent for so long, to see whether something on the way cuts it
    #[arg(long, default_value = "0s", value_name = "DURATION", value_parser = duration)]
    silence: Duration,
}

fn duration(text: &str) -> Result<Duration, String> {
    match domain::quantity::parse_duration_ms(text) {
        Some(ms) if ms <= 120_000 => Ok(Duration::from_millis(ms)),
        Some(_) => Err("at most 2m: nodes say something every 15 s".to_owned()),
        None => Err("give a duration such as 75s".to_owned()),
    }
}

pub async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let mut checks = Vec::new();
    let server = if args.node { context.server().ok() } else { Some(context.server()?) };
    if args.node {
        let data_dir = args.data_dir.unwrap_or_else(|| Places::from_env().data_dir().join("provider"));
        let settings: ProviderSettings = config::read(&data_dir.join("provider.toml"))
            .map_err(|error| Failure::new(exit::FAULT, format!("{error:#}")))?;
        checks.extend(provider_gateway::doctor::checks(&data_dir, &settings).await);
    }
    match &server {
        Some(server) => {
            let is_there = of_way(server, args.silence, args.node, &mut checks).await;
            if is_there && !args.node {
                of_server(server, &mut checks).await;
            }
        }
        None => checks.push(Check::skipped("server", "no server is named: give --server URL to try the way there")),
    }
    if context.out.is_json() {
        context.out.json(&json!({ "checks": checks }))?;
    } else {
        context.out.data(&render::checks::for_people(&checks, &context.out.style))?;
    }
    let failed = checks.iter().any(|check| check.outcome == CheckOutcome::Failed);
    Ok(if failed { exit::FAULT.into() } else { ExitCode::SUCCESS })
}

/// From here to the server; false: nobody is there. A node has no key of the API, so no socket is tried for it.
async fn of_way(server: &Server, silence: Duration, is_node: bool, checks: &mut Vec<Check>) -> bool {
    let url = &server.connection.url;
    let look = match server.client.look().await {
        Ok(look) => look,
        Err(error) => {
            let advice = "See that the name resolves to the server, that its port is open, and that its proxy and api-gateway run.";
            checks.push(Check::failed("server", error.to_string(), advice));
            return false;
        }
    };
    checks.push(Check::ok("server", format!("{url} answers in {:.0} ms", look.took.as_secs_f64() * 1_000.0)));
    checks.extend(look.certificate_ends.map(|ends| of_certificate(ends, Utc::now())));
    checks.extend(look.their_time.map(|theirs| of_clock(theirs, Utc::now())));
    if !is_node {
        checks.push(of_socket(server.client.echo(LARGEST_FRAME, silence).await, silence));
    }
    true
}

fn of_certificate(ends: Timestamp, now: Timestamp) -> Check {
    let found = format!("the certificate ends on {} (in {} days)", ends.format("%Y-%m-%d"), (ends - now).num_days());
    if ends - now < CERTIFICATE_ENDS_SOON {
        let advice = "Renew it: when it has ended nobody gets in, nodes neither. A proxy that renews by itself needs port 80 or 443 open.";
        Check::warning("certificate", found, advice)
    } else {
        Check::ok("certificate", found)
    }
}

fn of_clock(theirs: Timestamp, now: Timestamp) -> Check {
    // Theirs is cut to the second.
    let apart = (now - theirs - TimeDelta::milliseconds(500)).abs();
    let found = format!("{:.0} s between this machine's clock and the server's", apart.as_seconds_f64());
    let advice = "Let both keep time by NTP (timedatectl set-ntp true).";
    if apart > CLOCKS_FAR_APART {
        Check::failed("clock", found, advice)
    } else if apart > CLOCKS_APART {
        Check::warning("clock", found, advice)
    } else {
        Check::ok("clock", found)
    }
}

fn of_socket(echoed: Result<Duration, ClientError>, silence: Duration) -> Check {
    let size = show_bytes(LARGEST_FRAME as u64);
    match echoed {
        Ok(took) => {
            let after =
                if silence.is_zero() { String::new() } else { format!(", after {} s of silence", silence.as_secs()) };
            Check::ok(
                "websocket",
                format!("a frame of {size} and back in {:.0} ms{after}", took.as_secs_f64() * 1_000.0),
            )
        }
        Err(ClientError::Problem(problem)) => Check::skipped("websocket", problem.detail),
        Err(error) => Check::failed(
            "websocket",
            error.to_string(),
            format!(
                "Nodes need WebSockets: the proxy must pass Upgrade and Connection on, take frames of {size}, and cut nothing that is silent for less than 60 s."
            ),
        ),
    }
}

async fn of_server(server: &Server, checks: &mut Vec<Check>) {
    let ours = env!("CARGO_PKG_VERSION");
    match server.client.server_checks().await {
        Ok(found) => {
            checks.push(if found.version == ours {
                Check::ok("version", format!("the server is {ours}, as this program"))
            } else {
                let advice = "Use the server's version: what it does not know this program may ask for, and the other way round.";
                Check::warning("version", format!("the server is {}, this program {ours}", found.version), advice)
            });
            checks.extend(found.checks);
        }
        Err(error) => return checks.push(not_told("platform", &error)),
    }
    match server.client.probe_store().await {
        Ok(probe) => {
            checks.extend(probe.checks);
            if let Some(outside) = probe.outside {
                checks.push(of_store(&server.store(), outside).await);
            }
        }
        Err(error) => checks.push(not_told("object-store", &error)),
    }
}

fn not_told(id: &str, error: &ClientError) -> Check {
    if error.is_problem("not-permitted") || error.is_problem("not-authenticated") {
        return Check::skipped(id, format!("{} Log in as an administrator to see it.", clean(&error.to_string())));
    }
    Check::failed(id, error.to_string(), "The server's log says why, by the request's id.")
}

/// Puts a small object and gets it again, by the same way as every artifact goes.
async fn of_store(store: &Store, probe: OutsideProbe) -> Check {
    const ID: &str = "object-store-from-here";
    let host = probe.put.url.split('/').nth(2).unwrap_or_default().to_owned();
    match tokio::time::timeout(STORE_WITHIN, put_and_get(store, probe)).await {
        Ok(Ok(())) => Check::ok(ID, format!("{host} takes an object from this machine and gives it back")),
        failed => {
            let why = failed.map_or_else(|_| "no answer in time".to_owned(), |end| end.err().unwrap_or_default());
            Check::failed(
                ID,
                format!("{host}: {why}"),
                "Nodes and people reach the store themselves: UNIDESK_S3_PUBLIC_ENDPOINT must be its address from here, and a proxy before it must keep Host and pass bodies on whole.",
            )
        }
    }
}

async fn put_and_get(store: &Store, probe: OutsideProbe) -> Result<(), String> {
    let words = |error: TransferError| error.to_string();
    let options = Options::default();
    let content = probe.content.into_bytes();
    let size = content.len() as u64;
    let sha256 = Sha256Digest(Sha256::digest(&content).into());
    let reader = Box::new(io::Cursor::new(content));
    let source = Source::Reader { reader, name: "the probe".to_owned() };
    let silent: Arc<dyn Observer> = Arc::new(Silent);
    let put = transfer::upload(store, source, PartSizes::equal(size), &Fixed(probe.put), &options, &silent).await;
    put.map_err(words)?;
    let (content, address) = (Content { size, sha256 }, Fixed(probe.get));
    let read_all = |incoming: &mut transfer::Incoming| {
        io::copy(incoming, &mut io::sink()).map(drop).map_err(|error| TransferError::Broken(error.to_string()))
    };
    transfer::stream(store, content, &address, &options, &Silent, read_all).await.map_err(words)
}

/// The one address that there is.
struct Fixed(SignedRequest);

impl Uploads for Fixed {
    fn parts(&self, request: PartsRequest) -> BoxFuture<'_, Result<Vec<PartAddress>, AddressError>> {
        let parts = request.wanted.iter().map(|part| PartAddress { number: part.number, put: Some(self.0.clone()) });
        let parts = parts.collect();
        async move { Ok(parts) }.boxed()
    }
}

impl Downloads for Fixed {
    fn address(&self) -> BoxFuture<'_, Result<SignedRequest, AddressError>> {
        async move { Ok(self.0.clone()) }.boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_and_certificates_are_judged() {
        let now = Utc::now();
        let clock = |apart: i64| of_clock(now - TimeDelta::milliseconds(apart), now).outcome;
        assert_eq!(clock(900), CheckOutcome::Ok);
        assert_eq!(clock(-20_000), CheckOutcome::Warning);
        assert_eq!(clock(600_000), CheckOutcome::Failed);
        assert_eq!(of_certificate(now + TimeDelta::days(60), now).outcome, CheckOutcome::Ok);
        let ended = of_certificate(now - TimeDelta::days(2), now);
        assert_eq!(ended.outcome, CheckOutcome::Warning);
        assert!(ended.found.contains("(in -2 days)"), "{}", ended.found);
    }
}
