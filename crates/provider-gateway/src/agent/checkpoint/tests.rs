use super::TRY_AGAIN_MS;
use crate::{
    agent::{Action, Agent, Event, Record},
    executor::{Adopted, Signal},
};
use domain::{
    attempt::Report,
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, TaskId},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
    spec::parse_spec,
};
use protocol::Assign;
use serde_json::{Value, json};
use uuid::Uuid;

const EVERY: u64 = 60_000;

fn held() -> Held {
    Held { attempt: AttemptId::from_uuid(Uuid::from_u128(1)), fence: Fence::from_i64(1) }
}

fn id() -> AttemptId {
    held().attempt
}

/// An agent whose one attempt has run since moment 0.
fn running_with(extra: Value) -> Agent {
    let mut body = json!({"command": ["true"], "stop": {"grace": 10}, "checkpoints": {"path": "ckpt", "every": "60s"}});
    body.as_object_mut().expect("a body").extend(extra.as_object().expect("fields").clone());
    let assign = Assign {
        held: held(),
        task: TaskId::from_uuid(Uuid::from_u128(1)),
        project: DEFAULT_PROJECT,
        number: 1,
        ahead: false,
        gpu_ids: vec![],
        lease: None,
        spec: parse_spec(&body).expect("valid"),
    };
    let mut agent = Agent::default();
    agent.step(0, Event::Assigned(Box::new(assign)));
    agent.step(0, Event::Prepared { attempt: id(), outcome: Ok(Default::default()) });
    agent.step(0, Event::Started { attempt: id(), outcome: Ok(()) });
    agent
}

fn running() -> Agent {
    running_with(json!({}))
}

/// One whose first checkpoint is being taken.
fn taking() -> Agent {
    let mut agent = running();
    assert_eq!(agent.step(EVERY, Event::Tick), [Action::Checkpoint(id())]);
    agent
}

fn tried(agent: &mut Agent, now: u64, is_settled: bool) {
    assert_eq!(agent.step(now, Event::CheckpointTried { attempt: id(), is_settled }), []);
}

fn exited(agent: &mut Agent, now: u64, code: i32) -> Vec<Action> {
    let exit = ExitFacts { code: Some(code), duration_ms: now, ..ExitFacts::default() };
    agent.step(now, Event::Collected { attempt: id(), outcome: Ok(exit) })
}

/// Whether a last checkpoint is asked for, and how many outputs. None: nothing is to be stored.
fn asked(actions: &[Action]) -> Option<(bool, u32)> {
    actions.iter().find_map(|action| match action {
        Action::StoreOutputs { exit, last_checkpoint, .. } => Some((*last_checkpoint, exit.outputs_due)),
        _ => None,
    })
}

fn finished(agent: &mut Agent) -> Ending {
    agent.step(90_000, Event::OutputsStored { attempt: id(), outcome: Ok(()) });
    let actions = agent.step(90_000, Event::LogAcknowledged { attempt: id(), totals: LogTotals::default() });
    let ended = actions.into_iter().find_map(|action| match action {
        Action::Report { report: Report::Ended { ending }, .. } => Some(ending),
        _ => None,
    });
    ended.expect("it ended")
}

fn restarted(record: Record, now: u64) -> (Agent, Vec<Action>) {
    let mut agent = Agent::default();
    let actions = agent.step(now, Event::Restored(Box::new(record)));
    (agent, actions)
}

#[test]
fn a_checkpoint_is_taken_every_so_often_counted_from_the_end_of_the_one_before() {
    let mut agent = running();
    assert_eq!(agent.next_deadline(), Some(EVERY));
    assert_eq!(agent.step(EVERY - 1, Event::Tick), []);
    assert_eq!(agent.step(EVERY, Event::Tick), [Action::Checkpoint(id())]);
    assert_eq!(agent.step(5 * EVERY, Event::Tick), [], "one at a time");
    assert_eq!(agent.next_deadline(), None);
    tried(&mut agent, 5 * EVERY, true);
    assert_eq!(agent.next_deadline(), Some(6 * EVERY));
    // What keeps none has none taken.
    let agent = running_with(json!({"checkpoints": null}));
    assert_eq!(agent.next_deadline(), None);
}

#[test]
fn a_directory_that_was_not_still_is_looked_at_again_soon() {
    let mut agent = taking();
    tried(&mut agent, EVERY, false);
    assert_eq!(agent.next_deadline(), Some(EVERY + TRY_AGAIN_MS));
    let mut agent = running_with(json!({"checkpoints": {"path": "ckpt", "every": "10s"}}));
    assert_eq!(agent.step(10_000, Event::Tick), [Action::Checkpoint(id())]);
    tried(&mut agent, 10_000, false);
    assert_eq!(agent.next_deadline(), Some(20_000), "never less often than it is asked for");
}

#[test]
fn none_is_begun_once_it_was_asked_to_stop_for_whatever_reason() {
    for event in [Event::Cancel(held()), Event::Stop(held()), Event::Evict(held()), Event::ShutDown { grace_ms: 5_000 }]
    {
        let mut agent = running();
        agent.step(EVERY - 1, event);
        let actions = agent.step(EVERY, Event::Tick);
        assert!(!actions.contains(&Action::Checkpoint(id())), "{actions:?}");
        assert!(agent.next_deadline().is_some_and(|at| at > EVERY), "nothing is due that is not done");
    }
    let mut agent = running_with(json!({"timeout": 60}));
    let actions = agent.step(EVERY, Event::Tick);
    assert!(actions.contains(&Action::Signal(id(), Signal::Stop)) && !actions.contains(&Action::Checkpoint(id())));
}

#[test]
fn one_that_is_being_taken_is_dropped_at_the_end_a_cancel_and_a_fence_and_goes_on_at_a_planned_stop() {
    assert!(exited(&mut taking(), EVERY + 1, 0).contains(&Action::Abort(id())));
    for event in [Event::Cancel(held()), Event::Stop(held())] {
        let mut agent = taking();
        assert!(agent.step(EVERY + 1, event).contains(&Action::Abort(id())));
        // What was dropped may still have been taken in the last moment.
        tried(&mut agent, EVERY + 2, true);
        let actions = exited(&mut agent, EVERY + 3, 1);
        assert!(!actions.contains(&Action::Abort(id())), "{actions:?}");
    }
    for event in [Event::Evict(held()), Event::ShutDown { grace_ms: 5_000 }] {
        let mut agent = taking();
        let actions = agent.step(EVERY + 1, event);
        assert!(!actions.contains(&Action::Abort(id())), "{actions:?}");
    }
}

#[test]
fn the_agent_that_comes_next_goes_on_counting_from_then() {
    let (mut agent, actions) = restarted(taking().record(id()).expect("kept"), 500_000);
    assert_eq!(actions, [Action::Adopt(id())]);
    agent.step(500_001, Event::Adopted { attempt: id(), found: Adopted::Running });
    assert_eq!(agent.next_deadline(), Some(500_001 + EVERY));
    let (mut agent, _) = restarted(running().record(id()).expect("kept"), 500_000);
    agent.step(500_001, Event::Adopted { attempt: id(), found: Adopted::Exited });
    assert_eq!(agent.next_deadline(), None, "it has ended");
}

#[test]
fn a_failure_leaves_a_last_checkpoint_and_a_success_none() {
    assert_eq!(asked(&exited(&mut running(), 5, 0)), None);
    let mut agent = running();
    assert_eq!(asked(&exited(&mut agent, 5, 3)), Some((true, 0)));
    assert!(agent.record(id()).expect("kept").last_checkpoint, "also for an agent that comes next");
    let (mut next, actions) = restarted(agent.record(id()).expect("kept"), 9);
    assert_eq!(asked(&actions), Some((true, 0)));
    assert_eq!(finished(&mut next).failure, Some(FailureKind::ExitNonzero));
    let (_, actions) = restarted(next.record(id()).expect("kept"), 9);
    assert_eq!(asked(&actions), None, "it was stored");
    // Beside it, outputs are stored as ever.
    let outputs = json!({"outputs": [{"path": "log", "name": "log", "on": "always"}]});
    assert_eq!(asked(&exited(&mut running_with(outputs.clone()), 5, 3)), Some((true, 1)));
    assert_eq!(asked(&exited(&mut running_with(outputs), 5, 0)), Some((false, 1)));
}

#[test]
fn what_is_moved_stores_its_last_checkpoint_and_no_outputs_and_what_goes_down_with_the_agent_nothing() {
    let outputs = json!({"outputs": [{"path": "log", "name": "log", "on": "always"}]});
    let mut agent = running_with(outputs.clone());
    agent.step(5, Event::Evict(held()));
    let actions = exited(&mut agent, 6, 75);
    assert_eq!(asked(&actions), Some((true, 0)));
    assert!(!actions.iter().any(|action| matches!(action, Action::Report { .. })), "no exit of its own: {actions:?}");
    let ending = finished(&mut agent);
    assert_eq!((ending.failure, ending.planned_stop), (Some(FailureKind::NodeError), true));

    let mut agent = running_with(outputs);
    agent.step(5, Event::ShutDown { grace_ms: 5_000 });
    assert_eq!(asked(&exited(&mut agent, 6, 75)), None);
}

#[test]
fn what_is_cancelled_or_fenced_leaves_none_also_while_it_is_being_stored() {
    for event in [Event::Cancel(held()), Event::Stop(held())] {
        let mut agent = running();
        agent.step(5, event.clone());
        assert_eq!(asked(&exited(&mut agent, 6, 1)), None);
        let mut agent = running();
        agent.step(5, Event::Evict(held()));
        exited(&mut agent, 6, 75);
        let actions = agent.step(7, event);
        assert_eq!(actions[0], Action::Abort(id()));
    }
    let mut agent = running();
    agent.step(5, Event::Evict(held()));
    exited(&mut agent, 6, 75);
    agent.step(7, Event::Cancel(held()));
    let ending = finished(&mut agent);
    assert_eq!((ending.failure, ending.planned_stop), (Some(FailureKind::Cancelled), false), "it is not run again");
}
