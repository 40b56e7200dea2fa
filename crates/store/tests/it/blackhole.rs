//! A network that swallows everything and says nothing: no answer, no reset.

use crate::world::World;
use std::{fs, path::PathBuf, sync::Arc, time::Duration};
use store::{DatabaseConfig, Store, StoreError};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::{Instant, timeout},
};
use uuid::Uuid;

/// Between a store and its PostgreSQL. What is connected when it is closed is dead for good, without a word; whoever connects while it
/// is closed waits.
struct Line {
    dir: PathBuf,
    is_open: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl Line {
    async fn start(world: &World) -> (Self, String) {
        let dir = std::env::temp_dir().join(format!("unidesk-line-{}", Uuid::new_v4().simple()));
        fs::create_dir(&dir).expect("made");
        let listener = UnixListener::bind(dir.join(".s.PGSQL.5432")).expect("listening");
        let (is_open, opened) = watch::channel(true);
        let server = Arc::new(world.database.options());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut lines = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                let (server, mut opened) = (server.clone(), opened.clone());
                lines.spawn(async move {
                    if opened.wait_for(|is_open| *is_open).await.is_err() {
                        return;
                    }
                    let pass = async {
                        match server.get_socket() {
                            Some(socket) => pass(client, unix(socket).await).await,
                            None => {
                                pass(
                                    client,
                                    TcpStream::connect((server.get_host(), server.get_port())).await.expect("there"),
                                )
                                .await
                            }
                        }
                    };
                    let mut pass = Box::pin(pass);
                    tokio::select! {
                        () = &mut pass => return,
                        _ = opened.wait_for(|is_open| !*is_open) => {}
                    }
                    // Both ends stay open, and nothing passes any more.
                    std::future::pending::<()>().await;
                    drop(pass);
                });
            }
        });
        let url = world.database.url();
        let at = url.find("?host=").unwrap_or(url.len());
        let url = format!("{}?host={}", &url[..at], dir.display());
        (Self { dir, is_open, _serving: serving }, url)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

async fn unix(socket: &std::path::Path) -> UnixStream {
    let file = if socket.is_dir() { socket.join(".s.PGSQL.5432") } else { socket.to_owned() };
    UnixStream::connect(file).await.expect("there")
}

async fn pass(mut client: UnixStream, mut server: impl AsyncRead + AsyncWrite + Unpin) {
    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
}

#[tokio::test]
async fn a_database_that_was_out_of_reach_without_a_word_is_used_again_although_its_old_connections_stay_silent() {
    let world = World::start().await;
    let (line, url) = Line::start(&world).await;
    let store =
        Store::connect_unchecked(&DatabaseConfig { url, max_connections: 2, shared: false }).await.expect("connected");
    // Two at once, so that there are two connections.
    for pinged in futures::future::join_all((0..2).map(|_| store.ping())).await {
        pinged.expect("answered");
    }
    line.is_open.send_replace(false);
    // All connections are in use when whoever waits gives up, as a request and the pass of a loop do.
    let asked = futures::future::join_all((0..2).map(|_| timeout(Duration::from_secs(1), store.ping())));
    assert!(asked.await.iter().all(Result::is_err), "nothing answers");
    line.is_open.send_replace(true);
    let began = Instant::now();
    loop {
        match store.ping().await {
            Ok(()) => break,
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}"),
        }
        assert!(began.elapsed() < Duration::from_secs(20), "the pool counts dead connections as in use");
    }
}

#[tokio::test(start_paused = true)]
async fn an_operation_without_an_answer_ends_as_when_the_database_is_away() {
    let began = Instant::now();
    let ended = store::in_time(std::future::pending::<Result<(), StoreError>>()).await.expect_err("there is no answer");
    assert!(ended.is_temporary(), "{ended:?}");
    assert_eq!(began.elapsed().as_secs(), 30);
}
