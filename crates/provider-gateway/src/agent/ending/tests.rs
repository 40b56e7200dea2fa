use crate::{
    agent::{Action, Agent, Event, Record},
    executor::{Adopted, Failure},
};
use domain::{
    attempt::{AttemptState, Report},
    ids::{AttemptId, DEFAULT_PROJECT, Fence, Held, TaskId},
    outcome::{Ending, ExitFacts, FailureKind, LogTotals},
    spec::parse_spec,
};
use protocol::Assign;
use uuid::Uuid;

fn held() -> Held {
    Held { attempt: AttemptId::from_uuid(Uuid::from_u128(1)), fence: Fence::from_i64(1) }
}

fn id() -> AttemptId {
    held().attempt
}

/// An agent whose one attempt runs, with an output after success and one after any end.
fn running() -> Agent {
    let body = serde_json::json!({"command": ["true"], "timeout": 100, "stop": {"grace": 10}, "outputs": [
        {"path": "model.pt", "name": "model"}, {"path": "log", "name": "log", "on": "always"},
    ]});
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

fn exited(agent: &mut Agent, code: i32) -> Vec<Action> {
    let exit = ExitFacts { code: Some(code), duration_ms: 5, ..ExitFacts::default() };
    agent.step(5, Event::Collected { attempt: id(), outcome: Ok(exit) })
}

/// How many outputs are asked to be stored. None: nothing is.
fn stored(actions: &[Action]) -> Option<u32> {
    actions.iter().find_map(|action| match action {
        Action::StoreOutputs { exit, .. } => Some(exit.outputs_due),
        _ => None,
    })
}

fn finished(agent: &mut Agent) -> Ending {
    let actions = agent.step(9, Event::LogAcknowledged { attempt: id(), totals: LogTotals::default() });
    let ended = actions.into_iter().find_map(|action| match action {
        Action::Report { report: Report::Ended { ending }, .. } => Some(ending),
        _ => None,
    });
    ended.expect("it ended")
}

fn all_stored(agent: &mut Agent) -> Vec<Action> {
    agent.step(8, Event::OutputsStored { attempt: id(), outcome: Ok(()) })
}

/// The agent that comes next, with what is on disk.
fn restarted(record: Record) -> (Agent, Vec<Action>) {
    let mut agent = Agent::default();
    let actions = agent.step(20, Event::Restored(Box::new(record)));
    (agent, actions)
}

#[test]
fn an_exit_is_on_disk_and_told_before_outputs_travel_and_the_end_waits_for_them() {
    let mut agent = running();
    let actions = exited(&mut agent, 0);
    let at = |wanted: fn(&Action) -> bool| actions.iter().position(wanted).expect("it is there");
    let persisted = at(|action| matches!(action, Action::Persist(_)));
    let told =
        at(|action| matches!(action, Action::Report { report: Report::Exited { exit }, .. } if exit.outputs_due == 2));
    let storing = at(|action| matches!(action, Action::StoreOutputs { .. }));
    assert!(persisted < told && told < storing, "{actions:?}");
    assert!(!actions.contains(&Action::AwaitLog(id())));
    let said = &agent.inventory()[0];
    assert_eq!((said.state, said.exit.as_ref().map(|exit| exit.outputs_due)), (AttemptState::Finishing, Some(2)));
    assert!(said.ending.is_none());

    let actions = all_stored(&mut agent);
    assert_eq!(actions, [Action::Persist(id()), Action::AwaitLog(id())]);
    let ending = finished(&mut agent);
    assert_eq!((ending.failure, ending.exit.map(|exit| exit.outputs_due)), (None, Some(2)));
}

#[test]
fn after_a_failure_only_what_is_stored_always_is_due() {
    let mut agent = running();
    assert_eq!(stored(&exited(&mut agent, 3)), Some(1));
    all_stored(&mut agent);
    let ending = finished(&mut agent);
    assert_eq!((ending.failure, ending.message.as_str()), (Some(FailureKind::ExitNonzero), "exit 3"));
}

#[test]
fn an_output_that_can_not_be_stored_fails_a_task_that_succeeded_and_adds_nothing_to_one_that_failed() {
    for (code, failure) in [(0, FailureKind::OutputFailed), (3, FailureKind::ExitNonzero)] {
        let mut agent = running();
        exited(&mut agent, code);
        let failed = Failure::new(FailureKind::OutputFailed, "nothing matches model.pt");
        agent.step(8, Event::OutputsStored { attempt: id(), outcome: Err(failed) });
        let record = agent.record(id()).expect("kept");
        assert_eq!((record.stored, record.ending.and_then(|ending| ending.failure)), (true, Some(failure)));
        let ending = finished(&mut agent);
        assert_eq!(ending.failure, Some(failure));
        assert_eq!(ending.message == "nothing matches model.pt", code == 0);
    }
}

#[test]
fn a_cancel_drops_what_is_being_stored_and_is_how_it_ends() {
    let mut agent = running();
    exited(&mut agent, 0);
    let actions = agent.step(6, Event::Cancel(held()));
    assert_eq!(actions, [Action::Abort(id()), Action::Persist(id()), Action::AwaitLog(id())]);
    assert_eq!(all_stored(&mut agent), [], "what was stored in the last moment changes nothing");
    assert_eq!(finished(&mut agent).failure, Some(FailureKind::Cancelled));
}

#[test]
fn what_was_cancelled_while_it_ran_leaves_nothing() {
    let mut agent = running();
    agent.step(2, Event::Cancel(held()));
    let actions = exited(&mut agent, 0);
    assert_eq!(stored(&actions), None);
    assert_eq!(finished(&mut agent).exit.map(|exit| exit.outputs_due), Some(0));
}

#[test]
fn a_fenced_attempt_stores_nothing_more_and_is_removed() {
    let mut agent = running();
    exited(&mut agent, 0);
    assert_eq!(agent.step(6, Event::Stop(held())), [Action::Abort(id()), Action::Remove(id())]);
    assert_eq!(all_stored(&mut agent), []);
    assert!(agent.unacknowledged().is_empty());
}

#[test]
fn neither_a_drain_nor_the_end_of_the_agent_stops_what_is_being_stored() {
    for event in [Event::Evict(held()), Event::ShutDown { grace_ms: 1_000 }] {
        let mut agent = running();
        exited(&mut agent, 0);
        assert_eq!(agent.step(6, event), []);
        assert_eq!(agent.step(1_000_000, Event::Tick), [], "and no time does");
        all_stored(&mut agent);
        assert_eq!(finished(&mut agent).failure, None);
    }
}

#[test]
fn what_was_stopped_on_purpose_leaves_nothing_since_it_runs_again() {
    let mut agent = running();
    agent.step(2, Event::ShutDown { grace_ms: 1_000 });
    let actions = exited(&mut agent, 143);
    assert_eq!(stored(&actions), None);
    let ending = finished(&mut agent);
    assert!(ending.planned_stop && ending.exit.is_some_and(|exit| exit.outputs_due == 0));
}

#[test]
fn the_agent_that_comes_next_goes_on_with_what_is_due_and_not_with_what_is_stored() {
    let mut agent = running();
    exited(&mut agent, 0);
    let (mut next, actions) = restarted(agent.record(id()).expect("kept"));
    assert_eq!(stored(&actions), Some(2));
    assert_eq!(next.inventory()[0].state, AttemptState::Finishing);
    all_stored(&mut next);
    let (mut last, actions) = restarted(next.record(id()).expect("kept"));
    assert_eq!(stored(&actions), None);
    assert!(actions.contains(&Action::AwaitLog(id())));
    assert_eq!(finished(&mut last).failure, None);
}

#[test]
fn an_exit_that_is_found_after_a_restart_has_its_outputs_stored() {
    let (mut agent, actions) = restarted(running().record(id()).expect("kept"));
    assert_eq!(actions, [Action::Adopt(id())]);
    agent.step(21, Event::Adopted { attempt: id(), found: Adopted::Exited });
    assert_eq!(stored(&exited(&mut agent, 0)), Some(2));
}
