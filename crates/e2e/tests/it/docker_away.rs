//! Docker is not there, when the agent starts or while it runs: what needs it waits, the rest goes on.

use crate::{
    story::{self, Stories},
    task::Body,
    until::until,
    world::{SOON, World},
};
use domain::{node::Condition, task::TaskState};
use std::{
    path::{Path, PathBuf},
    time::Duration,
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
    time::Instant,
};

/// A way to Docker that can be cut: a socket that hands everything on.
struct Way {
    path: PathBuf,
    open: watch::Sender<bool>,
    _serving: JoinSet<()>,
}

impl Way {
    fn new(path: &Path, is_open: bool) -> Self {
        let (open, mut changed) = watch::channel(is_open);
        let mut serving = JoinSet::new();
        let at = path.to_owned();
        serving.spawn(async move {
            loop {
                let _ = changed.wait_for(|open| *open).await;
                let listener = UnixListener::bind(&at).expect("a socket");
                let mut connections = JoinSet::new();
                loop {
                    tokio::select! {
                        _ = changed.wait_for(|open| !*open) => break,
                        accepted = listener.accept() => {
                            let (mut near, _) = accepted.expect("a connection");
                            connections.spawn(async move {
                                let Ok(mut far) = UnixStream::connect("/var/run/docker.sock").await else { return };
                                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                            });
                        }
                    }
                }
                // As when the daemon is killed: every connection ends, and the socket's file is gone.
                drop((connections, listener));
                std::fs::remove_file(&at).expect("the socket's file");
            }
        });
        Self { path: path.to_owned(), open, _serving: serving }
    }

    async fn cut(&self) {
        self.open.send_replace(false);
        until("the socket is gone", SOON, async || (!self.path.exists()).then_some(())).await;
    }

    async fn mend(&self) {
        self.open.send_replace(true);
        until("the socket is there", SOON, async || self.path.exists().then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_needs_docker_waits_for_it_and_the_rest_goes_on() {
    let sockets = tempfile::Builder::new().prefix("ud-").tempdir_in("/tmp").expect("a directory");
    let way = Way::new(&sockets.path().join("docker.sock"), false);
    let world = World::start_with(&format!("docker_socket = \"{}\"\n", way.path.display())).await;
    let mut stories = Stories::default();

    // Not there when the agent starts.
    let away = |node: &api_types::node::Node| node.metrics.conditions.contains(&Condition::DockerUnavailable);
    world.node_until("the node says that Docker is away", away).await;
    let waiting = world.submit(&world.container("echo at last").named("early")).await;
    stories.tell("at the start", &wait_story(&world, &waiting).await);
    assert_eq!(world.run(&Body::process("true")).await.state, TaskState::Succeeded);
    way.mend().await;
    assert_eq!(world.ended(waiting.id).await.state, TaskState::Succeeded);
    assert_eq!(world.log(waiting.id).await, b"at last\n");

    // Gone while a container runs: it goes on, and not a byte of its log is lost.
    let line = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.1; done; echo end; exit 5";
    let running = world.submit(&world.container(line).named("running")).await;
    world.log_until(running.id, "line 5\n").await;
    way.cut().await;
    let cut = Instant::now();
    // Before the platform knows.
    let hasty = world.submit(&world.container("echo hasty").named("hasty")).await;
    world.node_until("the node says that Docker is away", away).await;
    println!("the platform knows {:?} after Docker went", cut.elapsed());
    assert!(
        cut.elapsed() < Duration::from_secs(10),
        "work is sent there meanwhile, and each failure costs it an attempt"
    );
    let held_up = world.submit(&world.container("echo later").named("later")).await;
    stories.tell("while it runs", &wait_story(&world, &held_up).await);
    assert_eq!(world.run(&Body::process("true")).await.state, TaskState::Succeeded);
    assert_eq!(world.client.task(running.id).await.expect("a task").state, TaskState::Running);
    way.mend().await;
    assert_eq!(world.ended(held_up.id).await.state, TaskState::Succeeded);
    assert_eq!(world.ended(hasty.id).await.state, TaskState::Succeeded);
    let ended = world.ended(running.id).await;
    assert_eq!((ended.attempt, ended.exit_code), (1, Some(5)), "{ended:#?}");
    let log = String::from_utf8(world.log(running.id).await).expect("text");
    let lines: String = (0..200).map(|n| format!("line {n}\n")).chain(["end\n".to_owned()]).collect();
    assert_eq!(log, lines);
    stories.assert("docker_away");
    world.finish().await;
}

/// Why it waits, as soon as that is known.
async fn wait_story(world: &World, task: &api_types::task::Task) -> String {
    until("why it waits is known", Duration::from_secs(30), async || {
        let why = world.why(task.id).await;
        why.summary.contains("Docker").then(|| story::of_why(&why))
    })
    .await
}
