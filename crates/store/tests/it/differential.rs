//! The simulation believes its fake store; here the fake is proven equal to PostgreSQL. Random histories run on both. The operations
//! of one group run at once on the real store, over several connections: their answers and the rows that they leave must be those of
//! the fake for *some* order of the group. So it is shown too that operations which race behave as if one came after the other.
//!
//!     DIFF_SEED=77 cargo nextest run -p store differential     one history, and what it did

use crate::{
    outputs::store_output,
    world::{World, keyed, new_node, new_task, origin},
};
use domain::{
    attempt::AttemptState,
    ids::{Held, InstanceId, NodeId, TaskId},
    node::{Admission, NodeFacts, NodeMetrics},
    outcome::FailureKind,
    placement::Placement,
    principal::Scope,
    reconcile::HeldAttempt,
    spec::TaskSpec,
};
use rand::{RngExt as _, SeedableRng, seq::IndexedRandom};
use serde_json::json;
use sim::reference::{AttemptLabel, Group, Op, Reference, UNKNOWN, What, capacity, reservation};
use sqlx::Row as _;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use store::{Holder, LeaderRole, NewTask, NodeReport, OpenSession, Opened, SessionKey, Submitted};
use uuid::Uuid;

/// `DIFF_HISTORIES` asks for more.
const HISTORIES: u64 = 40;
const GROUPS: usize = 14;
const MOST_AT_ONCE: usize = 4;
const NODES: u8 = 3;

/// The real store, with names for what its ids stand for.
struct Real {
    world: World,
    pool: sqlx::PgPool,
    spec: TaskSpec,
    nodes: Vec<NodeId>,
    tasks: BTreeMap<u8, TaskId>,
    attempts: BTreeMap<AttemptLabel, Held>,
    epochs: Vec<i64>,
}

struct Resolved {
    op: Op,
    task: Option<TaskId>,
    held: Vec<Option<Held>>,
    session: Option<SessionKey>,
}

impl Real {
    async fn start() -> Self {
        let world = World::start().await;
        let mut nodes: Vec<NodeId> = (0..NODES).map(|_| NodeId::from_uuid(Uuid::now_v7())).collect();
        nodes.sort();
        for (label, node) in nodes.iter().enumerate() {
            assert!(
                world.store.create_node_token(&new_node(*node, &format!("n{label}")), &origin()).await.expect("made")
            );
        }
        let pool = world.database.pool().await;
        let epochs = vec![0; nodes.len()];
        Self { world, pool, spec: spec(), nodes, tasks: BTreeMap::new(), attempts: BTreeMap::new(), epochs }
    }

    /// All operations at once; their answers in the order of the group.
    async fn apply(&mut self, group: &Group) -> Vec<String> {
        let resolved: Vec<Resolved> = group.iter().map(|op| self.resolve(op)).collect();
        let answers = futures::future::join_all(resolved.iter().map(|resolved| self.step(resolved))).await;
        self.learn(&resolved, answers).await
    }

    /// Two operations that both want the task's row: the second comes while the first waits for it, so that the first has it first.
    async fn apply_in_turn(&mut self, first: &Op, second: &Op) -> Vec<String> {
        let resolved = [self.resolve(first), self.resolve(second)];
        let mut holder = self.pool.begin().await.expect("begun");
        sqlx::query("SELECT FROM task_state FOR UPDATE").execute(&mut *holder).await.expect("locked");
        let (first, second, ()) = tokio::join!(
            self.step(&resolved[0]),
            async {
                self.waiting(1).await;
                self.step(&resolved[1]).await
            },
            async {
                self.waiting(2).await;
                holder.rollback().await.expect("let go");
            }
        );
        self.learn(&resolved, vec![first, second]).await
    }

    /// Until so many statements wait for a lock.
    async fn waiting(&self, count: i64) {
        let waits =
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        while self.world.count(waits).await < count {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn learn(&mut self, resolved: &[Resolved], answers: Vec<(String, Option<TaskId>)>) -> Vec<String> {
        for (resolved, (_, made)) in resolved.iter().zip(&answers) {
            if let (Op::Submit { task, .. }, Some(id)) = (&resolved.op, made) {
                self.tasks.insert(*task, *id);
            }
        }
        self.world.database.execute("UPDATE task_state SET not_before = NULL WHERE not_before IS NOT NULL").await;
        self.look().await;
        answers.into_iter().map(|(answer, _)| self.named(answer)).collect()
    }

    fn resolve(&self, op: &Op) -> Resolved {
        let (mut task, mut held, mut session) = (None, Vec::new(), None);
        match op {
            Op::Submit { .. } | Op::Replace | Op::FinishDrains | Op::Silence { .. } | Op::Admit { .. } => {}
            Op::Cancel { task: label } | Op::Retry { task: label } | Op::Place { task: label, .. } => {
                task = self.tasks.get(label).copied();
            }
            Op::Open { holds, .. } => held = holds.iter().map(|label| self.attempts.get(label).copied()).collect(),
            Op::Store { attempt, .. } => held = vec![self.attempts.get(attempt).copied()],
            Op::Report { node, back, attempt, .. } => {
                (held, session) = (vec![self.attempts.get(attempt).copied()], Some(self.session(*node, *back)));
            }
            Op::Beat { node, back } | Op::Close { node, back } => session = Some(self.session(*node, *back)),
        }
        Resolved { op: op.clone(), task, held, session }
    }

    fn session(&self, node: u8, back: i64) -> SessionKey {
        SessionKey { node: self.nodes[usize::from(node)], epoch: self.epochs[usize::from(node)] - back }
    }

    /// The answer, and the id of a task that it made.
    async fn step(&self, resolved: &Resolved) -> (String, Option<TaskId>) {
        let store = &self.world.store;
        let node_id = |node: &u8| self.nodes[usize::from(*node)];
        let session = || resolved.session.expect("looked up");
        let answer = match &resolved.op {
            Op::Submit { key, .. } => {
                let idempotency = key.and_then(|(key, body)| keyed(&format!("k{key}"), body).idempotency);
                let new = NewTask { idempotency, spec: self.spec.clone(), ..new_task(json!({})) };
                match store.submit_tasks(&[new]).await.expect("answered")[0] {
                    Submitted::Accepted { id } => return ("accepted".into(), Some(id)),
                    Submitted::Replayed { id } => format!("replayed {id}"),
                    Submitted::KeyReused { first } => format!("key of {first}"),
                    Submitted::InputGone => panic!("it reads nothing"),
                }
            }
            Op::Cancel { .. } => match resolved.task {
                Some(task) => {
                    word(&format!("{:?}", store.cancel_task(Scope::All, task, &origin()).await.expect("answered")))
                }
                None => "NotFound".into(),
            },
            Op::Retry { .. } => match resolved.task {
                Some(task) => {
                    word(&format!("{:?}", store.retry_task(Scope::All, task, &origin()).await.expect("answered")))
                }
                None => "NotFound".into(),
            },
            Op::Place { node, .. } => match resolved.task {
                Some(task) => {
                    let leader = self.world.leads(LeaderRole::Scheduler).await;
                    let plan = [Placement { task, node: node_id(node), reservation: reservation() }];
                    format!("placed {}", store.commit_placements(&leader, &plan).await.expect("committed").placed)
                }
                None => "placed 0".into(),
            },
            Op::Open { node, instance, .. } => {
                let boot = Some(Uuid::from_u128(0x2000 + u128::from(*instance)));
                let instance = Uuid::from_u128(0x1000 + u128::from(*node) * 16 + u128::from(*instance % 2));
                let hello = OpenSession {
                    node: node_id(node),
                    instance: InstanceId::from_uuid(instance),
                    facts: NodeFacts {
                        capacity: capacity(),
                        executors: [("process".to_owned(), "1".to_owned())].into(),
                        boot,
                        ..NodeFacts::default()
                    },
                    metrics: NodeMetrics::default(),
                    attempts: resolved
                        .held
                        .iter()
                        .flatten()
                        .map(|held| HeldAttempt::new(*held, AttemptState::Running))
                        .collect(),
                    complete_executors: BTreeSet::from(["process".to_owned()]),
                    newest_epoch: i64::MAX,
                };
                // As a gateway does: those that have nothing are let in together.
                let idle = store.open_idle_sessions(std::slice::from_ref(&hello)).await.expect("answered");
                let opened = match idle.into_iter().next().flatten() {
                    Some(opened) => opened,
                    None => store.open_session(&hello).await.expect("answered"),
                };
                match opened {
                    Opened::Session { key, draining, stop, .. } => {
                        let unknown: Vec<String> = stop.iter().map(|held| self.attempt_label(held)).collect();
                        format!("session {} draining {draining} unknown {unknown:?}", key.epoch)
                    }
                    Opened::OtherInstance => "other instance".into(),
                    Opened::OtherBoot => "other boot".into(),
                    Opened::Superseded => "superseded".into(),
                    Opened::Forgotten => "forgotten".into(),
                    Opened::Revoked => "revoked".into(),
                }
            }
            Op::Report { report, .. } => {
                let held = resolved.held[0].unwrap_or(UNKNOWN);
                let batch = [NodeReport { held, report: report.report() }];
                format!("{:?}", store.record_reports(session(), &batch).await.expect("answered")[0])
            }
            Op::Store { node, index, .. } => {
                let who = Holder { node: node_id(node), held: resolved.held[0].unwrap_or(UNKNOWN) };
                format!("stored {}", store_output(&self.world, who, *index).await.is_some())
            }
            Op::Beat { .. } => {
                // As a gateway does: what is offline is let back in on another way.
                let metrics = NodeMetrics::default();
                let counted = store.heartbeat(&[(session(), metrics.clone())]).await.expect("answered");
                let is_back = counted.is_empty() && store.end_offline(session(), &metrics).await.expect("answered");
                format!("counted {}", u8::from(!counted.is_empty() || is_back))
            }
            Op::Close { .. } => {
                store.close_session(session()).await.expect("closed");
                "closed".into()
            }
            Op::Silence { node } => {
                let id = node_id(node);
                self.world
                    .database
                    .execute(&format!(
                        "UPDATE node_live SET offline_since = now() - interval '1 hour', offline_at_ms = -3600000, connected = false WHERE node_id = '{id}'"
                    ))
                    .await;
                "silent".into()
            }
            Op::Replace => {
                let leader = self.world.leads(LeaderRole::Sweeper).await;
                format!("queued {}", store.queue_replaceable(&leader, 100).await.expect("answered"))
            }
            Op::Admit { node, admission } => {
                let set = match admission {
                    Admission::Open => store.resume_node(node_id(node), &origin()).await,
                    _ => store.drain_node(node_id(node), "", None, &origin()).await,
                };
                assert!(set.expect("answered"));
                "admitted".into()
            }
            Op::FinishDrains => {
                store.finish_drains().await.expect("answered");
                "looked".into()
            }
        };
        (answer, None)
    }

    fn attempt_label(&self, held: &Held) -> String {
        let known = self.attempts.iter().find(|(_, known)| known.attempt == held.attempt);
        known.map_or_else(|| held.attempt.to_string(), |((task, number), _)| format!("t{task}#{number}"))
    }

    /// Ids of tasks in an answer become labels.
    fn named(&self, answer: String) -> String {
        self.tasks.iter().fold(answer, |answer, (label, id)| answer.replace(&id.to_string(), &format!("t{label}")))
    }

    /// Learns which attempts and sessions there are.
    async fn look(&mut self) {
        let labels: BTreeMap<Uuid, u8> = self.tasks.iter().map(|(label, id)| (id.as_uuid(), *label)).collect();
        for row in
            sqlx::query("SELECT id, task_id, number, fence FROM attempts").fetch_all(&self.pool).await.expect("read")
        {
            let held = Held {
                attempt: domain::ids::AttemptId::from_uuid(row.get("id")),
                fence: domain::ids::Fence::from_i64(row.get("fence")),
            };
            let number: i32 = row.get("number");
            self.attempts.insert((labels[&row.get::<Uuid, _>("task_id")], number as u32), held);
        }
        for row in
            sqlx::query("SELECT node_id, session_epoch FROM node_live").fetch_all(&self.pool).await.expect("read")
        {
            let at = self.nodes.iter().position(|node| node.as_uuid() == row.get::<Uuid, _>("node_id"));
            self.epochs[at.expect("one of ours")] = row.get("session_epoch");
        }
    }

    /// The rows as the reference writes them.
    async fn rows(&self) -> Vec<String> {
        let labels: BTreeMap<Uuid, u8> = self.tasks.iter().map(|(label, id)| (id.as_uuid(), *label)).collect();
        let name = |node: Uuid| self.nodes.iter().position(|known| known.as_uuid() == node).expect("one of ours");
        let mut lines = Vec::new();
        let tasks = sqlx::query(
            "SELECT s.*, a.number AS live FROM task_state s LEFT JOIN attempts a ON a.id = s.live_attempt_id",
        );
        let mut tasks: Vec<(u8, String)> = tasks
            .fetch_all(&self.pool)
            .await
            .expect("read")
            .iter()
            .map(|row| {
                let label = labels[&row.get::<Uuid, _>("task_id")];
                let dash = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
                let line = format!(
                    "task t{label}: {} queued {} live {} fence {} attempts {} failures {} {} {} cancel {} failure {} exit {}",
                    row.get::<String, _>("state"),
                    row.get::<bool, _>("queued"),
                    dash(row.get::<Option<i32>, _>("live").map(|number| number.to_string())),
                    row.get::<i64, _>("fence"),
                    row.get::<i32, _>("attempts"),
                    row.get::<i32, _>("user_failures"),
                    row.get::<i32, _>("infra_failures"),
                    row.get::<i32, _>("node_losses"),
                    row.get::<bool, _>("cancel_requested"),
                    dash(row.get("failure")),
                    dash(row.get::<Option<i32>, _>("exit_code").map(|code| code.to_string())),
                );
                (label, line)
            })
            .collect();
        tasks.sort();
        lines.extend(tasks.into_iter().map(|(_, line)| line));
        let mut attempts: Vec<String> = sqlx::query("SELECT * FROM attempts")
            .fetch_all(&self.pool)
            .await
            .expect("read")
            .iter()
            .map(|row| {
                let is_set = |column: &str| row.get::<Option<chrono::DateTime<chrono::Utc>>, _>(column).is_some();
                format!(
                    "attempt t{}#{} on n{}: fence {} {} reserved {} accepted {} started {} exited {} ended {} stored {}",
                    labels[&row.get::<Uuid, _>("task_id")],
                    row.get::<i32, _>("number"),
                    name(row.get("node_id")),
                    row.get::<i64, _>("fence"),
                    row.get::<String, _>("state"),
                    row.get::<bool, _>("reserved"),
                    is_set("accepted_at"),
                    is_set("started_at"),
                    is_set("exited_at"),
                    is_set("ended_at"),
                    row.get::<Option<i32>, _>("outputs_stored").unwrap_or(0),
                )
            })
            .collect();
        attempts.sort();
        lines.extend(attempts);
        let nodes = sqlx::query(
            "SELECT n.name, n.admission, l.session_epoch, l.connected, l.offline_since IS NOT NULL AS offline
             FROM nodes n JOIN node_live l ON l.node_id = n.id ORDER BY n.name",
        );
        lines.extend(nodes.fetch_all(&self.pool).await.expect("read").iter().map(|row| {
            format!(
                "node {}: {} session {} connected {} offline {}",
                row.get::<String, _>("name"),
                row.get::<String, _>("admission"),
                row.get::<i64, _>("session_epoch"),
                row.get::<bool, _>("connected"),
                row.get::<bool, _>("offline"),
            )
        }));
        lines
    }
}

/// `NotEnded(Running)` and the like differ in what they carry; the word counts.
fn word(answer: &str) -> String {
    answer.split(['(', ' ', '{']).next().unwrap_or_default().to_owned()
}

/// One retry of a user's own failure, and of an infrastructure failure.
fn spec() -> TaskSpec {
    new_task(json!({"executor": "process", "retry": {"max_retries": 1, "max_infra_retries": 1}})).spec
}

/// Both stores, in step.
struct Pair {
    real: Real,
    /// What happened, each group in the order that explains it.
    history: Vec<Group>,
}

impl Pair {
    async fn start() -> Self {
        Self { real: Real::start().await, history: Vec::new() }
    }

    fn replay(&self) -> Reference {
        let mut reference = Reference::new(NODES, &spec());
        for group in &self.history {
            reference.apply(group).expect("it was applied before");
        }
        reference
    }

    /// Runs a group on both. Panics when no order of it explains what the real store did.
    async fn run(&mut self, group: Group) {
        let answers = self.real.apply(&group).await;
        self.explain(group, answers).await;
    }

    /// Runs two on both, and the first has the task's row first.
    async fn run_in_turn(&mut self, first: Op, second: Op) {
        let answers = self.real.apply_in_turn(&first, &second).await;
        self.explain(vec![first, second], answers).await;
    }

    async fn explain(&mut self, group: Group, answers: Vec<String>) {
        let rows = self.real.rows().await;
        let mut nearest: Option<(usize, Vec<String>, Vec<String>)> = None;
        for order in orders(group.len()) {
            let ordered: Group = order.iter().map(|at| group[*at].clone()).collect();
            let mut reference = self.replay();
            let Ok(said) = reference.apply(&ordered) else { continue };
            let expected: Vec<String> = order.iter().map(|at| answers[*at].clone()).collect();
            let became = reference.rows();
            if said == expected && became == rows {
                self.history.push(ordered);
                return;
            }
            let differences = became.iter().zip(&rows).filter(|(a, b)| a != b).count() + usize::from(said != expected);
            if nearest.as_ref().is_none_or(|(fewest, ..)| differences < *fewest) {
                nearest = Some((differences, said, became));
            }
        }
        let before: Vec<String> = self.history.iter().map(|group| format!("  {group:?}")).collect();
        let (_, said, became) = nearest.expect("there is an order");
        let rows_differ: Vec<String> = became
            .iter()
            .zip(&rows)
            .filter(|(a, b)| a != b)
            .map(|(fake, real)| format!("  fake: {fake}\n  real: {real}"))
            .collect();
        panic!(
            "no order of {group:?} explains what PostgreSQL did\nafter:\n{}\nreal answers {answers:?}\nnearest      {said:?}\n{}",
            before.join("\n"),
            rows_differ.join("\n")
        );
    }
}

fn orders(count: usize) -> Vec<Vec<usize>> {
    if count == 0 {
        return vec![Vec::new()];
    }
    let mut all = Vec::new();
    for shorter in orders(count - 1) {
        for at in 0..=shorter.len() {
            let mut order = shorter.clone();
            order.insert(at, count - 1);
            all.push(order);
        }
    }
    all
}

struct Generator {
    dice: rand_chacha::ChaCha8Rng,
    labels: u8,
}

impl Generator {
    fn group(&mut self, so_far: &Reference) -> Group {
        let count = self.dice.random_range(1..=MOST_AT_ONCE);
        let mut group: Group = Vec::new();
        while group.len() < count {
            let op = self.op(so_far);
            // A lease after a failure in the same moment depends on the wait, which is drawn by chance.
            let fails = |op: &Op| matches!(op, Op::Report { report: What::Ended(Some(_)), .. });
            let places = |op: &Op| matches!(op, Op::Place { .. });
            let collide = (places(&op) && group.iter().any(fails)) || (fails(&op) && group.iter().any(places));
            if !collide {
                group.push(op);
            }
        }
        group
    }

    fn op(&mut self, so_far: &Reference) -> Op {
        let attempts = so_far.attempts();
        let node = self.dice.random_range(0..NODES);
        let task = self.dice.random_range(0..self.labels.max(1));
        let back = i64::from(self.dice.random_ratio(1, 12));
        // Few tasks, so that much happens to each.
        let submits = if self.labels < 4 { 0..12 } else { 0..1 };
        match self.dice.random_range(0..100) {
            choice if submits.contains(&choice) => {
                self.labels += 1;
                let key =
                    self.dice.random_ratio(1, 3).then(|| (self.dice.random_range(0..2), self.dice.random_range(0..2)));
                Op::Submit { task: self.labels - 1, key }
            }
            0..26 => Op::Place { task, node },
            26..54 => match attempts.choose(&mut self.dice) {
                Some((attempt, node)) => {
                    let reports = [
                        What::Accepted,
                        What::Started,
                        What::Exited(0),
                        What::Exited(3),
                        What::Owes(1),
                        What::Owes(2),
                        What::Ended(None),
                        What::Ended(Some(FailureKind::ExitNonzero)),
                        What::Ended(Some(FailureKind::NodeError)),
                        What::Ended(Some(FailureKind::Cancelled)),
                        What::PlannedStop,
                        What::Released,
                        What::Released,
                    ];
                    let report = *reports.choose(&mut self.dice).expect("not empty");
                    Op::Report { node: *node, back, attempt: *attempt, report }
                }
                None => Op::Beat { node, back },
            },
            54..68 => {
                let has = attempts.iter().filter(|(_, on)| *on == node).map(|(label, _)| *label);
                let holds = has.filter(|_| self.dice.random_ratio(3, 4)).collect();
                let instance = *[0, 0, 0, 0, 1, 2].choose(&mut self.dice).expect("not empty");
                Op::Open { node, instance, holds }
            }
            68..71 => match attempts.choose(&mut self.dice) {
                Some((attempt, on)) => {
                    // Mostly whoever has it.
                    let node = if self.dice.random_ratio(1, 8) { node } else { *on };
                    Op::Store { node, attempt: *attempt, index: self.dice.random_range(0..2) }
                }
                None => Op::Beat { node, back },
            },
            71..73 => Op::Beat { node, back },
            73..75 => Op::Close { node, back },
            75..81 => Op::Silence { node },
            81..90 => Op::Replace,
            90..93 => Op::Cancel { task },
            93..95 => Op::Retry { task },
            95..98 => {
                let admissions = [Admission::Open, Admission::Open, Admission::Draining];
                Op::Admit { node, admission: *admissions.choose(&mut self.dice).expect("not empty") }
            }
            _ => Op::FinishDrains,
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

#[tokio::test]
async fn random_histories_leave_the_same_rows_in_the_fake_and_in_postgresql() {
    let many = number("DIFF_HISTORIES").unwrap_or(HISTORIES);
    for seed in number("DIFF_SEED").map_or(0..many, |seed| seed..seed + 1) {
        let mut pair = Pair::start().await;
        let mut generator = Generator { dice: rand_chacha::ChaCha8Rng::seed_from_u64(seed), labels: 0 };
        // Everybody is there, or nothing could be placed.
        pair.run((0..NODES).map(|node| Op::Open { node, instance: 0, holds: Vec::new() }).collect()).await;
        for _ in 0..GROUPS {
            let group = generator.group(&pair.replay());
            pair.run(group).await;
        }
    }
}

/// A node comes back with its work at the moment when it is placed elsewhere: who has the task's row first wins, either way.
#[tokio::test]
async fn a_return_and_a_replacement_that_race_have_one_winner_and_either_may_win() {
    for returns_first in [true, false] {
        let mut pair = Pair::start().await;
        pair.run(vec![
            Op::Open { node: 0, instance: 0, holds: vec![] },
            Op::Open { node: 1, instance: 0, holds: vec![] },
        ])
        .await;
        pair.run(vec![Op::Submit { task: 0, key: None }]).await;
        pair.run(vec![Op::Place { task: 0, node: 0 }]).await;
        pair.run(vec![Op::Report { node: 0, back: 0, attempt: (0, 1), report: What::Started }]).await;
        pair.run(vec![Op::Silence { node: 0 }]).await;
        pair.run(vec![Op::Replace]).await;
        let comes_back = Op::Open { node: 0, instance: 0, holds: vec![(0, 1)] };
        let is_replaced = Op::Place { task: 0, node: 1 };
        if returns_first {
            pair.run_in_turn(comes_back, is_replaced).await;
        } else {
            pair.run_in_turn(is_replaced, comes_back).await;
        }
        let has_second = pair.real.attempts.contains_key(&(0, 2));
        assert_eq!(has_second, !returns_first, "after {:?}", pair.history.last());
    }
}

/// A node comes back at the moment when its work is queued for replacement: it is not left queued beside a node that has it.
#[tokio::test]
async fn a_return_that_races_the_queueing_for_replacement_leaves_nothing_queued() {
    for round in 0..30 {
        let mut pair = Pair::start().await;
        pair.run(vec![Op::Open { node: 0, instance: 0, holds: vec![] }]).await;
        let tasks: Vec<u8> = (0..2).collect();
        pair.run(tasks.iter().map(|task| Op::Submit { task: *task, key: None }).collect()).await;
        pair.run(tasks.iter().map(|task| Op::Place { task: *task, node: 0 }).collect()).await;
        pair.run(vec![Op::Silence { node: 0 }]).await;
        let holds = tasks.iter().map(|task| (*task, 1)).collect();
        let mut race = vec![Op::Replace, Op::Open { node: 0, instance: 0, holds }, Op::Replace];
        race.rotate_left(round % 3);
        pair.run(race).await;
    }
}
