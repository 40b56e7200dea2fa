//! `unidesk doctor` against a real `up`: as it should be, and behind a proxy that knows no WebSockets.

use crate::{
    programs::{self, Program},
    world::Home,
};
use serde_json::Value;
use std::{fs, net::Ipv4Addr, path::Path};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

async fn up(dir: &Path) -> Program {
    let mut command = programs::command(&["up", "--listen", "127.0.0.1:0"]);
    command.arg("--data-dir").arg(dir);
    Program::start(command).await
}

/// Its exit code, and of each check what came of it, what was found, and what is advised.
async fn doctor(dir: &Path, url: &str) -> (Option<i32>, Vec<[String; 4]>) {
    let token = fs::read_to_string(dir.join("admin.token")).expect("the first key");
    let mut command = programs::command(&["doctor", "-o", "json", "--server", url]);
    command.env("UNIDESK_TOKEN", token.trim());
    let said = tokio::process::Command::from(command).output().await.expect("it ends");
    let answer: Value = serde_json::from_slice(&said.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&said.stderr)));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let checks = answer["checks"].as_array().expect("checks").iter();
    let checks = checks.map(|check| ["id", "outcome", "found", "advice"].map(|field| text(&check[field])));
    (said.status.code(), checks.collect())
}

/// Passes bytes on, and asks nobody for an upgrade, as proxies do that were not told to. It ends with what is returned beside its address.
async fn without_upgrades(to: String) -> (String, JoinSet<()>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let mut proxy = JoinSet::new();
    proxy.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((client, _)) = listener.accept().await {
            let server = TcpStream::connect(&to).await.expect("the server");
            connections.spawn(pass_on(client, server));
        }
    });
    (url, proxy)
}

async fn pass_on(client: TcpStream, server: TcpStream) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asked = async {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(read @ 1..) = from_client.read(&mut buffer).await {
            let text = String::from_utf8_lossy(&buffer[..read]);
            let passed = text.replace("upgrade: websocket", "x-grade: websocket");
            if to_server.write_all(passed.as_bytes()).await.is_err() {
                break;
            }
        }
    };
    let answered = async { drop(tokio::io::copy(&mut from_server, &mut to_client).await) };
    tokio::join!(asked, answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_installation_as_it_should_be_has_nothing_to_complain_of() {
    let dir = Home::create();
    let program = up(dir.path()).await;
    let (code, checks) = doctor(dir.path(), &program.url()).await;
    let wrong: Vec<_> = checks.iter().filter(|[_, outcome, ..]| outcome != "ok").collect();
    assert!(wrong.is_empty() && code == Some(0), "{code:?} {wrong:#?}");
    for id in ["websocket", "clock", "database-settings", "scheduler", "object-store", "object-store-from-here"] {
        assert!(checks.iter().any(|[of, ..]| of == id), "{id}: {checks:#?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_knows_no_websockets_is_found_and_the_rest_goes_on() {
    let dir = Home::create();
    let program = up(dir.path()).await;
    let (proxy, _running) = without_upgrades(program.url().trim_start_matches("http://").to_owned()).await;
    let (code, checks) = doctor(dir.path(), &proxy).await;
    assert_eq!(code, Some(1));
    let wrong: Vec<_> = checks.iter().filter(|[_, outcome, ..]| outcome == "failed").collect();
    let [[id, _, found, advice]] = wrong[..] else { panic!("{wrong:#?}") };
    assert_eq!(id, "websocket");
    assert!(found.contains("in place of a WebSocket") && advice.contains("must pass Upgrade"), "{found} {advice}");
}
