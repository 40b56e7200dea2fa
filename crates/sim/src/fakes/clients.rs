//! People and programs: submit, ask again when no answer came, cancel, retry.

use crate::{
    Sometimes,
    dice::Dice,
    fakes::{
        database::{Answer, Call, ReplyTo},
        store::{NewTask, Retried, StoreError, Submitted},
    },
    world::{Event, World},
};
use domain::{
    ids::{DEFAULT_PROJECT, ProjectId, TaskId},
    resources::Amounts,
    spec::{Checkpoints, Output, OutputOn, TaskSpec, parse_spec},
};
use std::{collections::BTreeMap, rc::Rc};
use uuid::Uuid;

/// The name of tasks that take their machine down.
pub(crate) const POISON: &str = "poison";

/// The name of tasks of which many come at one time, most of them short.
pub(crate) const HERD: &str = "herd";

/// Tasks are of two projects, so that they take turns.
const SECOND_PROJECT: ProjectId = ProjectId::from_uuid(Uuid::from_u128(2));

/// One request of one client, said again until it is answered.
pub(crate) struct ClientOp {
    ask: Ask,
    is_answered: bool,
}

#[derive(Clone)]
enum Ask {
    Submit(NewTask),
    Cancel(TaskId),
    Retry(TaskId),
}

#[derive(Default)]
pub(crate) struct Clients {
    pub(crate) ops: Vec<ClientOp>,
    /// The task that each idempotency key was answered with.
    keys: BTreeMap<String, TaskId>,
}

fn an_output(at: u64, is_always_due: bool) -> Output {
    let on = if is_always_due { OutputOn::Always } else { OutputOn::Success };
    Output { path: format!("/out/{at}"), name: format!("out-{at}"), on }
}

impl World {
    /// All submissions of the seed, spread over the chaos.
    pub(crate) fn plan_clients(&mut self) {
        let mut dice = Dice::new(self.plan.seed, 2);
        // By itself, so that older seeds keep their plans.
        let mut exclusive = Dice::new(self.plan.seed, 6);
        let mut leaving = Dice::new(self.plan.seed, 8);
        let mut keeping = Dice::new(self.plan.seed, 9);
        for number in 0..self.plan.tasks {
            let mut spec = self.a_spec(&mut dice);
            spec.on_node_loss.exclusive = exclusive.chance(0.25);
            let count = if leaving.chance(0.3) { leaving.between(1, 2) } else { 0 };
            spec.outputs = (0..count).map(|at| an_output(at, leaving.chance(0.3))).collect();
            spec.checkpoints = keeping
                .chance(0.5)
                .then(|| Checkpoints { path: "/ckpt".into(), every_ms: keeping.log_uniform(500, 20_000) });
            let spec = Rc::new(spec);
            let project = if number % 3 == 0 { SECOND_PROJECT } else { DEFAULT_PROJECT };
            let hash = number;
            let idempotency = dice.chance(0.5).then(|| (format!("key-{number}"), hash));
            let at = dice.between(0, self.plan.chaos_ms * 3 / 4);
            self.plan_op(at, Ask::Submit(NewTask { project, spec: spec.clone(), idempotency: idempotency.clone() }));
            // The same request once more, as an impatient program sends it.
            if idempotency.is_some() && dice.chance(0.3) {
                self.plan_op(at + dice.log_uniform(1, 20_000), Ask::Submit(NewTask { project, spec, idempotency }));
            }
        }
        // These came later, too.
        let mut herd = Dice::new(self.plan.seed, 7);
        if herd.chance(0.3) {
            self.plan_herd(&mut herd);
        }
    }

    /// Many of one kind at one time: what waits behind such tasks may be sent ahead.
    fn plan_herd(&mut self, dice: &mut Dice) {
        let begins_at = dice.between(0, self.plan.chaos_ms / 2);
        for number in 0..dice.between(10, 30) {
            let mut spec = self.a_spec(dice);
            spec.name = HERD.into();
            spec.requirements.amounts = Amounts { cpu_millis: 1_000, memory_bytes: 1 << 29, ..Amounts::default() };
            spec.queue_timeout_ms = None;
            let at = begins_at + dice.log_uniform(1, 20_000);
            let idempotency = Some((format!("herd-{number}"), number));
            self.plan_op(at, Ask::Submit(NewTask { project: DEFAULT_PROJECT, spec: Rc::new(spec), idempotency }));
        }
    }

    fn a_spec(&self, dice: &mut Dice) -> TaskSpec {
        let mut spec = parse_spec(&serde_json::json!({"command": ["true"], "executor": "container", "image": "x"}))
            .or_else(|_| parse_spec(&serde_json::json!({"command": ["true"]})))
            .expect("a command is a whole spec");
        spec.executor = "container".into();
        let gpus = if dice.chance(0.2) { dice.between(1, 2) as u32 } else { 0 };
        spec.requirements.amounts = Amounts {
            cpu_millis: *dice.pick(&[100, 500, 1_000, 2_000]),
            memory_bytes: dice.between(1, 4) << 29,
            disk_bytes: 1 << 30,
            gpus,
            gpu_memory_bytes: 0,
        };
        if dice.chance(0.05) {
            // The machine goes down with it, where that fault is on.
            spec.name = POISON.into();
        }
        spec.priority = *dice.pick(&[-50, 0, 0, 50, 100]);
        spec.timeout_ms = dice.chance(0.4).then(|| dice.log_uniform(1_000, 60_000));
        spec.queue_timeout_ms = dice.chance(0.05).then(|| dice.log_uniform(5_000, 120_000));
        spec.stop.grace_ms = dice.log_uniform(200, 15_000);
        spec.retry.max_retries = dice.between(0, 2) as u32;
        spec.retry.max_infra_retries = *dice.pick(&[5, 5, 5, 1, 0]);
        spec.on_node_loss.replace_after_ms = if dice.chance(0.3) { dice.log_uniform(1_000, 120_000) } else { 0 };
        spec
    }

    fn plan_op(&mut self, at: u64, ask: Ask) {
        self.clients.ops.push(ClientOp { ask, is_answered: false });
        let op = self.clients.ops.len() - 1;
        self.at(at, Event::ClientAsks { op });
    }

    pub(crate) fn client_asks(&mut self, op: usize) {
        if self.clients.ops[op].is_answered {
            return;
        }
        let call = match self.clients.ops[op].ask.clone() {
            Ask::Submit(new) => Call::Submit(Box::new(new)),
            Ask::Cancel(task) => Call::Cancel(task),
            Ask::Retry(task) => Call::Retry(task),
        };
        self.call(ReplyTo::Client { op }, call);
    }

    pub(crate) fn client_answered(&mut self, op: usize, answer: Result<Answer, StoreError>) {
        let ask = self.clients.ops[op].ask.clone();
        match answer {
            Err(_) => {
                // Without a key the outcome is not known and a program that must not do it twice stops here; half of them ask again.
                let may_repeat = !matches!(&ask, Ask::Submit(new) if new.idempotency.is_none());
                if may_repeat || self.dice.chance(0.5) {
                    let wait = self.dice.log_uniform(100, 5_000);
                    self.after(wait, Event::ClientAsks { op });
                }
                return;
            }
            Ok(Answer::Submitted(submitted)) => {
                let Ask::Submit(new) = ask else { return };
                let (Submitted::Accepted(task) | Submitted::Replayed(task) | Submitted::KeyReused(task)) = submitted;
                if matches!(submitted, Submitted::Replayed(_)) {
                    self.hit(Sometimes::KeyReplayed);
                }
                if let Some((key, _)) = new.idempotency {
                    // A restore forgets keys with their tasks.
                    let is_there = |first: &TaskId| self.store.tasks.contains_key(first);
                    let first = self.clients.keys.get(&key).copied().filter(is_there).unwrap_or(task);
                    self.clients.keys.insert(key, first);
                    let same = self.checker.same_task_for_key(first, task);
                    same.into_iter().for_each(|violation| self.violate(violation));
                }
                if self.now < self.plan.chaos_ms && matches!(submitted, Submitted::Accepted(_)) {
                    self.plan_what_follows(task);
                }
            }
            Ok(Answer::Retried(retried)) => {
                if retried == Retried::Queued {
                    self.hit(Sometimes::UserRetry);
                }
            }
            Ok(_) => {}
        }
        self.clients.ops[op].is_answered = true;
    }

    fn plan_what_follows(&mut self, task: TaskId) {
        if self.dice.chance(0.35) {
            let at = self.now + self.dice.log_uniform(10, 60_000);
            self.plan_op(at, Ask::Cancel(task));
            if self.dice.chance(0.3) {
                let again = at + self.dice.log_uniform(10, 30_000);
                self.plan_op(again, Ask::Cancel(task));
            }
        }
        if self.dice.chance(0.2) {
            let at = self.now + self.dice.log_uniform(1_000, 180_000);
            self.plan_op(at, Ask::Retry(task));
        }
    }
}
