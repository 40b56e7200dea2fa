//! The platform as separate programs against one database, as a server and its machines run it.

use crate::{
    programs::{self, Program, provider},
    until::{until, until_true},
    world::{self, Home, Repositories, SOON},
};
use api_types::task::Task;
use client::Client;
use domain::ids::TaskId;
use local_postgres::Postgres;
use std::{fs, path::PathBuf, process::Command};

pub(crate) struct Deployment {
    // Programs first: they use what comes after.
    pub(crate) agent: Option<Program>,
    pub(crate) gateways: Vec<Option<Program>>,
    pub(crate) schedulers: Vec<Program>,
    registry: Program,
    /// Of the gateways; a restarted one has the same.
    pub(crate) urls: Vec<String>,
    /// Asks the last gateway; the node is on the first.
    pub(crate) client: Client,
    pub(crate) node_token: String,
    pub(crate) repositories: Repositories,
    database: Postgres,
    pub(crate) home: Home,
}

impl Deployment {
    pub(crate) async fn start(gateways: usize) -> Self {
        let home = Home::create();
        // Not the tests' own server: that one does not sync, and the platform refuses it for that.
        let database = Postgres::start(&home.path().join("postgres")).await.expect("PostgreSQL starts");
        let token_file = home.path().join("admin.token");
        let mut migrate = programs::command(&["migrate", "--database-url", &database.url()]);
        let migrated = migrate.arg("--admin-token-file").arg(&token_file).output().expect("it runs");
        assert!(migrated.status.success(), "{}", String::from_utf8_lossy(&migrated.stderr));
        let admin_token = fs::read_to_string(&token_file).expect("the first key").trim().to_owned();

        let mut running = Vec::new();
        for _ in 0..gateways {
            running.push(Program::start(gateway(&database, "127.0.0.1:0")).await);
        }
        let urls: Vec<String> = running.iter().map(Program::url).collect();
        let schedulers = vec![Program::start(service(&database, "scheduler")).await];
        let registry = Program::start(service(&database, "node-registry")).await;
        let client = Client::new(urls.last().expect("a gateway"), &admin_token).expect("a client");
        let node_token = client.create_node_token("node").await.expect("a token").token;
        let mut deployment = Self {
            agent: None,
            gateways: running.into_iter().map(Some).collect(),
            schedulers,
            registry,
            urls,
            client,
            node_token,
            repositories: Repositories::start().await,
            home,
            database,
        };
        // The tests may run in a container, and as anybody: the owner's word is needed for processes there.
        fs::create_dir_all(deployment.agent_dir()).expect("a directory");
        fs::write(deployment.agent_dir().join("policy.toml"), "executors = ['container', 'process']\n")
            .expect("written");
        deployment.start_agent().await;
        deployment
    }

    pub(crate) fn agent_dir(&self) -> PathBuf {
        self.home.path().join("agent")
    }

    pub(crate) async fn start_agent(&mut self) {
        self.agent = Some(Program::start(provider(&self.urls[0], &self.node_token, &self.agent_dir())).await);
    }

    pub(crate) async fn kill_agent(&mut self) {
        self.agent.take().expect("it runs").kill().await;
    }

    pub(crate) async fn kill_gateway(&mut self, which: usize) {
        self.gateways[which].take().expect("it runs").kill().await;
    }

    pub(crate) async fn start_gateway(&mut self, which: usize) {
        let listen = self.urls[which].strip_prefix("http://").expect("a URL");
        self.gateways[which] = Some(Program::start(gateway(&self.database, listen)).await);
    }

    pub(crate) async fn start_scheduler(&mut self) {
        self.schedulers.push(Program::start(service(&self.database, "scheduler")).await);
    }

    pub(crate) async fn submit(&self, body: &crate::task::Body) -> Task {
        self.client.submit(&body.0, None).await.expect("it is taken")
    }

    pub(crate) async fn ended(&self, id: TaskId) -> Task {
        world::task_until(&self.client, id, "it ends", |task| task.state.is_terminal()).await
    }

    /// Nothing of any task is left on the node, and it knows of nothing.
    pub(crate) async fn finish(mut self) {
        until("nothing is reserved", SOON, async || {
            let nodes = self.client.nodes().await.expect("nodes");
            nodes.iter().all(|node| node.tasks == 0).then_some(())
        })
        .await;
        until_true("the attempts' directories are gone", SOON, || self.home.attempts().is_empty()).await;
        assert_eq!(self.home.instances().len(), 1);
        assert_eq!(self.home.containers(), Vec::<String>::new(), "containers are left");
        world::assert_invariants(&self.client).await;
        let agent = self.agent.as_mut().expect("it runs");
        assert!(agent.stop().await.success());
        for program in self.gateways.iter_mut().flatten().chain(&mut self.schedulers).chain([&mut self.registry]) {
            assert!(program.stop().await.success());
        }
        self.database.stop().await;
    }
}

fn gateway(database: &Postgres, listen: &str) -> Command {
    let mut command = service(database, "api-gateway");
    command.args(["--listen", listen]);
    command
}

fn service(database: &Postgres, name: &str) -> Command {
    programs::command(&["server", name, "--database-url", &database.url(), "--database-connections", "8"])
}
