//! A platform as a careful owner runs it: two gateways, two schedulers, a registry, nodes in networks of their own, one PostgreSQL.
//!
//! All times are a tenth of the product's own where a setting exists for it.

use crate::{
    docker::Docker,
    inside::docker_socket,
    ledger::Ledger,
    network::{NodeNet, PLATFORM_PORT},
    postgres::{self, Postgres},
    program::{self, Program, Usage},
    proxy::{docker::DockerProxy, pg::PgProxy, ws::WsProxy},
    wait::until,
    workload::{Repositories, Submitter, Wanted},
};
use anyhow::Context as _;
use api_types::{node::Node, task::Task};
use client::Client;
use domain::{ids::TaskId, node::Presence};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Set: the product's own times.
static REAL_TIMES: AtomicBool = AtomicBool::new(false);

/// From now on platforms run at the product's own times.
pub fn use_real_times() {
    REAL_TIMES.store(true, Ordering::Relaxed);
}

fn real_times() -> bool {
    REAL_TIMES.load(Ordering::Relaxed)
}

pub fn heartbeat() -> Duration {
    Duration::from_millis(if real_times() { 15_000 } else { 1_500 })
}

/// After so long without a word, both sides give the line up.
pub fn silence() -> Duration {
    3 * heartbeat()
}

/// Ten seconds is the least that the registry takes.
pub fn offline_after() -> Duration {
    Duration::from_secs(if real_times() { 90 } else { 10 })
}

/// Everything is as before within this, or something is wrong.
pub const QUIET_WITHIN: Duration = Duration::from_secs(60);

/// At the product's own times what is begun again may have minutes of work before it.
pub fn work_ends_within() -> Duration {
    if real_times() { 5 * QUIET_WITHIN } else { QUIET_WITHIN }
}

/// What all scenarios of a run share.
pub struct Run {
    pub dir: PathBuf,
    pub docker: Docker,
    pub repositories: Arc<Repositories>,
    template: PathBuf,
    admin_token: String,
}

impl Run {
    pub async fn start(dir: &Path) -> anyhow::Result<Self> {
        let docker = Docker::start(dir).await?;
        let repositories = Arc::new(Repositories::start().await);
        // Made and migrated once, then copied.
        let (template, logs) = (dir.join("template"), dir.join("logs"));
        let mut database = Postgres::init(&template, &logs)?;
        database.start().await?;
        let token_file = dir.join("admin.token");
        let mut migrate = program::command(&["migrate", "--database-url", &database.url()])?;
        let migrated = migrate.arg("--admin-token-file").arg(&token_file).output()?;
        anyhow::ensure!(migrated.status.success(), "migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        database.stop().await?;
        let admin_token = fs::read_to_string(&token_file)?.trim().to_owned();
        Ok(Self { dir: dir.to_owned(), docker, repositories, template, admin_token })
    }

    /// The first administrator's key.
    pub fn admin_token(&self) -> &str {
        &self.admin_token
    }
}

/// What a scenario's platform is like.
#[derive(Clone, Debug)]
pub struct Shape {
    pub nodes: u8,
    /// Services reach the database through a proxy that can misbehave.
    pub pg_proxy: bool,
    /// Agents reach the gateways through a proxy of messages, with this seed.
    pub ws_proxy: Option<u64>,
    /// Environment of PostgreSQL.
    pub postgres_env: Vec<(String, String)>,
    /// Node 0's Docker makes no container, and it offers nothing else.
    pub first_docker_fails: bool,
    /// Environment of node 0's agent.
    pub first_agent_env: Vec<(String, String)>,
}

impl Default for Shape {
    fn default() -> Self {
        Self {
            nodes: 2,
            pg_proxy: false,
            ws_proxy: None,
            postgres_env: Vec::new(),
            first_docker_fails: false,
            first_agent_env: Vec::new(),
        }
    }
}

pub struct NodeHost {
    pub name: String,
    pub net: NodeNet,
    pub agent: Option<Program>,
    pub dir: PathBuf,
    pub token: String,
    env: Vec<(String, String)>,
    executors: &'static [&'static str],
    docker_socket: PathBuf,
}

impl NodeHost {
    pub async fn start_agent(&mut self, logs: &Path) -> anyhow::Result<()> {
        let agent = Program::spawn(&self.name, self.command(&[])?, logs)?;
        self.agent.insert(agent).until_said("ready ").await
    }

    /// The agent's command; `before` goes before it (a tracer, say).
    pub fn command(&self, before: &[&str]) -> anyhow::Result<Command> {
        fs::create_dir_all(&self.dir)?;
        fs::write(self.dir.join("token"), &self.token)?;
        let toml = format!(
            "docker_socket = \"{}\"\nreconnect_cap_ms = {}\n",
            self.docker_socket.display(),
            2 * heartbeat().as_millis()
        );
        fs::write(self.dir.join("provider.toml"), toml)?;
        // In namespaces of its own the agent takes itself for one in a container, where processes would end with it. Here they don't.
        fs::write(self.dir.join("policy.toml"), format!("executors = {:?}\n", self.executors))?;
        let server = format!("http://127.0.0.1:{PLATFORM_PORT}");
        let mut agent = program::prefixed(before, program::command(&["provider", "--server", &server])?);
        agent.arg("--token-file").arg(self.dir.join("token")).arg("--data-dir").arg(&self.dir);
        agent.envs(self.env.iter().map(|(name, value)| (name, value)));
        Ok(self.net.command(&agent))
    }

    pub fn agent(&mut self) -> anyhow::Result<&mut Program> {
        self.agent.as_mut().context("the agent does not run")
    }

    /// By which its containers are known.
    pub fn instance(&self) -> String {
        fs::read_to_string(self.dir.join("instance")).unwrap_or_default().trim().to_owned()
    }

    pub fn attempts(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.dir.join("attempts")).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.is_dir()).collect()
    }
}

pub struct World {
    // Programs first: they use what comes after.
    pub nodes: Vec<NodeHost>,
    pub gateways: Vec<Option<Program>>,
    pub schedulers: Vec<Option<Program>>,
    pub registry: Option<Program>,
    pub pg_proxy: Option<PgProxy>,
    pub ws_proxy: Option<WsProxy>,
    pub docker_proxy: Option<DockerProxy>,
    pub database: Postgres,
    pub clients: Vec<Client>,
    pub submitter: Submitter,
    pub ledger: Arc<Ledger>,
    pub logs: PathBuf,
    pub dir: PathBuf,
    ports: Vec<u16>,
    git_port: u16,
    probes: u32,
}

impl World {
    pub async fn start(run: &Run, name: &str, shape: &Shape) -> anyhow::Result<Self> {
        let dir = run.dir.join(name);
        let logs = dir.join("logs");
        fs::create_dir_all(&logs)?;
        fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
        let mut database =
            Postgres::copy_of(&run.template, &dir.join("pg"), &logs)?.with_env(shape.postgres_env.clone());
        database.start().await?;
        let pg_proxy =
            if shape.pg_proxy { Some(PgProxy::start(&dir.join("pgx"), &database.socket_dir()).await?) } else { None };
        let ports = (0..2).map(|_| free_port()).collect::<anyhow::Result<Vec<u16>>>()?;
        let ws_proxy = match shape.ws_proxy {
            Some(seed) => Some(WsProxy::start(seed, &ports).await?),
            None => None,
        };
        let base: Vec<String> = ports.iter().map(|port| format!("http://127.0.0.1:{port}")).collect();
        let clients = base
            .iter()
            .map(|url| Ok(Client::new(url, &run.admin_token)?.with_pauses(Vec::new())))
            .collect::<anyhow::Result<Vec<Client>>>()?;
        let ledger = Arc::new(Ledger::open(&dir.join("ledger")).await?);
        let mut world = Self {
            nodes: Vec::new(),
            gateways: vec![None, None],
            schedulers: vec![None, None],
            registry: None,
            submitter: Submitter::new(clients.clone(), ledger.clone(), run.repositories.clone()),
            pg_proxy,
            ws_proxy,
            docker_proxy: None,
            database,
            clients,
            ledger,
            logs,
            dir,
            ports,
            git_port: run.repositories.host.address().port(),
            probes: 0,
        };
        for which in 0..2 {
            world.start_gateway(which).await?;
            world.start_scheduler(which).await?;
        }
        world.start_registry().await?;
        for index in 0..shape.nodes {
            let name = format!("node-{index}");
            let token = world.clients[0].create_node_token(&name).await?.token;
            let net = world.lay_cable(index)?;
            let env = if index == 0 { shape.first_agent_env.clone() } else { Vec::new() };
            let (dir, mut docker_socket) = (world.dir.join(&name), docker_socket(&run.dir));
            let mut executors: &[&str] = &["container", "process"];
            if index == 0 && shape.first_docker_fails {
                let proxy = DockerProxy::start(&world.dir.join("broken.sock"), &docker_socket)?;
                docker_socket = proxy.path.clone();
                executors = &["container"];
                world.docker_proxy = Some(proxy);
            }
            let mut node = NodeHost { name, net, agent: None, dir, token, env, executors, docker_socket };
            fs::create_dir_all(&node.dir)?;
            fs::set_permissions(&node.dir, std::os::unix::fs::PermissionsExt::from_mode(0o711))?;
            node.start_agent(&world.logs).await?;
            world.nodes.push(node);
        }
        Ok(world)
    }

    /// A network of its own for one more machine, which goes away when it is dropped.
    pub fn lay_cable(&self, index: u8) -> anyhow::Result<NodeNet> {
        let doors = self.ws_proxy.as_ref().map_or(self.ports.clone(), |proxy| vec![proxy.port]);
        NodeNet::create(index, &doors, self.git_port)
    }

    /// Where new connections of the nodes go from now on.
    pub fn balance(&self, gateways: &[usize]) -> anyhow::Result<()> {
        let ports: Vec<u16> = gateways.iter().map(|which| self.ports[*which]).collect();
        self.nodes.iter().try_for_each(|node| node.net.balance(&ports))
    }

    fn service(&self, name: &str, before: &[&str]) -> anyhow::Result<Command> {
        let url = match &self.pg_proxy {
            Some(proxy) => postgres::url(&proxy.dir),
            None => self.database.url(),
        };
        Ok(program::prefixed(
            before,
            program::command(&["server", name, "--database-url", &url, "--database-connections", "8"])?,
        ))
    }

    pub fn gateway_command(&self, which: usize, before: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.service("api-gateway", before)?;
        command.args(["--heartbeat-ms", &heartbeat().as_millis().to_string()]);
        command.args(["--listen", &format!("0.0.0.0:{}", self.ports[which])]);
        // It gives exclusive work its lease, which must fit what the registry calls offline.
        command.env("UNIDESK_OFFLINE_AFTER", offline_after().as_secs().to_string());
        Ok(command)
    }

    pub fn scheduler_command(&self, before: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.service("scheduler", before)?;
        command.args(["--heartbeat-ms", &heartbeat().as_millis().to_string()]);
        Ok(command)
    }

    pub async fn start_gateway(&mut self, which: usize) -> anyhow::Result<()> {
        let (name, command) = (format!("gateway-{which}"), self.gateway_command(which, &[])?);
        self.gateways[which] = Some(Program::start(&name, command, &self.logs).await?);
        Ok(())
    }

    pub async fn start_scheduler(&mut self, which: usize) -> anyhow::Result<()> {
        let (name, command) = (format!("scheduler-{which}"), self.scheduler_command(&[])?);
        self.schedulers[which] = Some(Program::start(&name, command, &self.logs).await?);
        Ok(())
    }

    pub fn registry_command(&self, before: &[&str]) -> anyhow::Result<Command> {
        let mut command = self.service("node-registry", before)?;
        command.env("UNIDESK_OFFLINE_AFTER", offline_after().as_secs().to_string());
        Ok(command)
    }

    pub async fn start_registry(&mut self) -> anyhow::Result<()> {
        let command = self.registry_command(&[])?;
        self.registry = Some(Program::start("registry", command, &self.logs).await?);
        Ok(())
    }

    pub fn gateway(&mut self, which: usize) -> anyhow::Result<&mut Program> {
        self.gateways[which].as_mut().context("the gateway does not run")
    }

    pub fn scheduler(&mut self, which: usize) -> anyhow::Result<&mut Program> {
        self.schedulers[which].as_mut().context("the scheduler does not run")
    }

    pub async fn start_agent(&mut self, which: usize) -> anyhow::Result<()> {
        self.nodes[which].start_agent(&self.logs).await
    }

    /// Which of the schedulers leads, by what it said last, if one does.
    pub fn leads_now(&self) -> Option<usize> {
        let leads = |program: &Option<Program>| {
            let said = program.as_ref().map(Program::said).unwrap_or_default();
            let mut verdicts =
                said.lines().rev().filter(|line| line.contains("leading the placement") || line.contains("leads now"));
            verdicts.next().is_some_and(|last| last.contains("leading the placement"))
        };
        self.schedulers.iter().position(leads)
    }

    /// The same, once one does.
    pub async fn leading_scheduler(&self) -> anyhow::Result<usize> {
        let (found, _) = until("a scheduler leads", QUIET_WITHIN, async || self.leads_now()).await?;
        Ok(found)
    }

    /// (holder, epoch) of the scheduler's leadership.
    pub fn leader(&self) -> anyhow::Result<String> {
        let rows = self.database.sql("SELECT holder, epoch FROM leader WHERE role = 'scheduler'")?;
        rows.into_iter().next().context("nobody ever led")
    }

    /// Asks whichever gateway answers.
    pub async fn ask<T>(&self, what: impl AsyncFn(&Client) -> Result<T, client::ClientError>) -> Option<T> {
        for client in &self.clients {
            if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(3), what(client)).await {
                return Some(answer);
            }
        }
        None
    }

    pub async fn node(&self, which: usize) -> Option<Node> {
        let nodes = self.ask(async |client| client.nodes().await).await?;
        nodes.into_iter().find(|node| node.name == self.nodes[which].name)
    }

    pub async fn task(&self, id: TaskId) -> Option<Task> {
        self.ask(async |client| client.task(id).await).await
    }

    /// Time until the platform no longer takes the node for connected.
    pub async fn until_missed(&self, which: usize, within: Duration) -> anyhow::Result<Duration> {
        let what = format!("{} is missed", self.nodes[which].name);
        self.until_presence(which, &what, within, |presence| presence != Presence::Connected).await
    }

    pub async fn until_offline(&self, which: usize, within: Duration) -> anyhow::Result<Duration> {
        let what = format!("{} is offline", self.nodes[which].name);
        self.until_presence(which, &what, within, |presence| presence == Presence::Offline).await
    }

    async fn until_presence(
        &self,
        which: usize,
        what: &str,
        within: Duration,
        holds: impl Fn(Presence) -> bool,
    ) -> anyhow::Result<Duration> {
        let (_, took) =
            until(what, within, async || self.node(which).await.filter(|node| holds(node.presence)).map(drop)).await?;
        Ok(took)
    }

    /// Time until all is well: every node connected and a task of a moment's work done.
    pub async fn until_recovered(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        let all = self.nodes.len();
        until("every node is connected", QUIET_WITHIN, async || {
            let nodes = self.ask(async |client| client.nodes().await).await?;
            let connected = nodes.iter().filter(|node| node.presence == Presence::Connected).count();
            (connected == all).then_some(())
        })
        .await?;
        self.probe().await?;
        Ok(began.elapsed())
    }

    /// Time until a new task is done.
    pub async fn probe(&mut self) -> anyhow::Result<Duration> {
        let began = Instant::now();
        self.probes += 1;
        let wanted = Wanted::process(format!("probe-{}", self.probes), 1, Duration::from_millis(10));
        let id = self.submitter.submit(wanted).await?;
        until("a new task is done", QUIET_WITHIN, async || {
            self.task(id).await.filter(|task| task.state.is_terminal()).map(drop)
        })
        .await?;
        Ok(began.elapsed())
    }

    /// What every service and agent holds, by name.
    pub fn usage(&self) -> BTreeMap<String, Usage> {
        let services = self.gateways.iter().chain(&self.schedulers).chain([&self.registry]);
        let all = services.chain(self.nodes.iter().map(|node| &node.agent)).flatten();
        all.map(|program| (program.name.clone(), program.usage())).collect()
    }

    /// Ends everything in the order in which an owner would.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            node.net.heal()?;
            if let Some(mut agent) = node.agent.take() {
                agent.stop().await?;
            }
        }
        for program in self.gateways.iter_mut().chain(&mut self.schedulers).chain([&mut self.registry]).flatten() {
            program.stop().await?;
        }
        self.database.stop().await
    }
}

/// Nobody else is in this network, so it stays free.
fn free_port() -> anyhow::Result<u16> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
