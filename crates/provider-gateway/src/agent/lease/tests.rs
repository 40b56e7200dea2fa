use super::{super::*, REMOVE_AGAIN_MS, SELF_FENCED};
use domain::{
    ids::{DEFAULT_PROJECT, Fence, TaskId},
    lease::Lease,
    spec::parse_spec,
};
use uuid::Uuid;

const PERIOD: Millis = 75_000;
const GRACE: Millis = 8_000;

fn held() -> Held {
    Held { attempt: AttemptId::from_uuid(Uuid::from_u128(1)), fence: Fence::from_i64(1) }
}
fn id() -> AttemptId {
    held().attempt
}
fn assign() -> Box<Assign> {
    let body = serde_json::json!({"command": ["true"], "on_node_loss": {"exclusive": true, "replace_after": 0}, "stop": {"grace": "1h"}});
    let spec = parse_spec(&body).expect("valid");
    let task = TaskId::from_uuid(Uuid::from_u128(1));
    let lease = Some(Lease { period_ms: PERIOD, grace_ms: GRACE });
    Box::new(Assign {
        held: held(),
        task,
        project: DEFAULT_PROJECT,
        number: 1,
        gpu_ids: vec![],
        ahead: false,
        lease,
        spec,
    })
}
fn beat(agent: &mut Agent, sent_at: Millis, now: Millis) -> Vec<Action> {
    agent.step(now, Event::HeartbeatAcknowledged { sent_at })
}
/// Assigned after a heartbeat that was sent at 1,000 and acknowledged at 1,200.
fn assigned() -> Agent {
    let mut agent = Agent::default();
    beat(&mut agent, 1_000, 1_200);
    agent.step(1_300, Event::Assigned(assign()));
    agent
}
fn starting() -> Agent {
    let mut agent = assigned();
    let actions = agent.step(1_400, Event::Prepared { attempt: id(), outcome: Ok(Default::default()) });
    // Its supervisor waits for the lease, so that comes first.
    assert_eq!(actions, [renewal(1_000), Action::Start(id())]);
    agent
}
fn running() -> Agent {
    let mut agent = starting();
    let actions = agent.step(1_500, Event::Started { attempt: id(), outcome: Ok(()) });
    assert!(actions.contains(&renewal(1_000)));
    agent
}
fn renewal(sent_at: Millis) -> Action {
    Action::Renew { attempt: id(), sent_at }
}
fn exited(code: i32, signal: Option<i32>) -> Event {
    Event::Collected { attempt: id(), outcome: Ok(ExitFacts { code: Some(code), signal, ..ExitFacts::default() }) }
}
fn ending(agent: &mut Agent, now: Millis) -> Ending {
    let actions = agent.step(now, Event::LogAcknowledged { attempt: id(), totals: LogTotals::default() });
    match &actions[..] {
        [Action::Persist(_), Action::Report { report: Report::Ended { ending }, .. }, Action::Remove(_)] => {
            ending.clone()
        }
        other => panic!("{other:?}"),
    }
}
fn kinds(actions: &[Action]) -> Vec<&'static str> {
    let kind = |action: &Action| if let Action::Report { report, .. } = action { Some(report.kind()) } else { None };
    actions.iter().filter_map(kind).collect()
}

#[test]
fn a_lease_counts_from_when_the_acknowledged_heartbeat_was_sent() {
    let mut agent = running();
    assert_eq!(agent.next_deadline(), Some(1_000 + PERIOD));
    // Sent at 16,000, and its answer took 40 s.
    assert_eq!(beat(&mut agent, 16_000, 56_000), [Action::Persist(id()), renewal(16_000)]);
    assert_eq!(agent.next_deadline(), Some(16_000 + PERIOD));
    assert_eq!(agent.record(id()).expect("kept").renewed_at, Some(16_000));
    // An older one that is heard later is no news.
    assert!(beat(&mut agent, 12_000, 57_000).is_empty());
}

#[test]
fn without_a_heartbeat_it_is_asked_to_stop_and_killed_within_its_short_grace() {
    let mut agent = running();
    let end = 1_000 + PERIOD;
    assert!(agent.step(end - 1, Event::Tick).is_empty());
    assert_eq!(agent.step(end, Event::Tick), [Action::Signal(id(), Signal::Stop)]);
    assert_eq!(agent.next_deadline(), Some(end + GRACE), "not the hour that its spec allows");
    assert_eq!(agent.step(end + GRACE, Event::Tick), [Action::Signal(id(), Signal::Kill)]);
    let actions = agent.step(end + GRACE + 5, exited(137, Some(9)));
    assert!(kinds(&actions).is_empty(), "no exit of its own: it runs again");
    let ending = ending(&mut agent, end + GRACE + 6);
    assert_eq!((ending.failure, ending.planned_stop), (Some(FailureKind::NodeError), true));
    assert!(ending.message.contains("exclusive") && ending.message.contains("1m 15s"), "{}", ending.message);
}

#[test]
fn a_lease_that_ran_out_never_begins_again() {
    let mut agent = running();
    let end = 1_000 + PERIOD;
    agent.step(end, Event::Tick);
    assert!(beat(&mut agent, end + 1, end + 2).is_empty(), "the server may have placed it elsewhere");
    // Even when the answer to a heartbeat is the first thing that is heard after the end.
    let mut agent = running();
    assert_eq!(beat(&mut agent, end - 1, end), [Action::Signal(id(), Signal::Stop)]);
}

#[test]
fn who_wakes_up_late_has_no_grace_left() {
    let mut agent = running();
    let woken = 1_000 + PERIOD + GRACE;
    assert_eq!(agent.step(woken, Event::Tick), [Action::Signal(id(), Signal::Kill)]);
}

#[test]
fn what_is_not_up_yet_is_not_begun_without_a_lease() {
    let end = 1_000 + PERIOD;
    let mut agent = assigned();
    let actions = agent.step(end, Event::Tick);
    assert!(actions.contains(&Action::Abort(id())), "{actions:?}");
    assert_eq!(ending(&mut agent, end).failure, Some(FailureKind::NodeError));
    // A start is not torn apart: it is stopped once it is up.
    let mut agent = starting();
    assert!(agent.step(end, Event::Tick).is_empty());
    let actions = agent.step(end + 20_000, Event::Started { attempt: id(), outcome: Ok(()) });
    assert!(actions.contains(&Action::Signal(id(), Signal::Kill)), "{actions:?}");
    assert!(!actions.iter().any(|action| matches!(action, Action::Renew { .. })));
}

#[test]
fn nothing_is_said_of_a_failed_start_before_it_is_certain_that_no_process_is_left() {
    let mut agent = starting();
    let failed = Event::Started { attempt: id(), outcome: Err(Failure::node("Docker gave no answer in time")) };
    let actions = agent.step(2_000, failed);
    assert_eq!(actions, [Action::Persist(id()), Action::Remove(id())]);
    assert_eq!(agent.step(2_100, Event::Removed { attempt: id(), outcome: Err(Failure::node("away")) }), []);
    assert_eq!(agent.step(2_100 + REMOVE_AGAIN_MS, Event::Tick), [Action::Remove(id())]);
    let actions = agent.step(8_000, Event::Removed { attempt: id(), outcome: Ok(()) });
    assert_eq!(actions, [Action::Persist(id()), Action::AwaitLog(id())]);
    assert_eq!(ending(&mut agent, 8_001).message, "Docker gave no answer in time");
}

#[test]
fn an_agent_that_comes_next_keeps_the_deadline() {
    let before = running();
    let record = before.record(id()).expect("kept");
    let restored = |now: Millis| {
        let mut agent = Agent::default();
        assert_eq!(agent.step(now, Event::Restored(Box::new(record.clone()))), [Action::Adopt(id())]);
        agent
    };
    let mut agent = restored(30_000);
    assert_eq!(agent.next_deadline(), Some(1_000 + PERIOD));
    let actions = agent.step(30_001, Event::Adopted { attempt: id(), found: Adopted::Running });
    assert!(actions.contains(&renewal(1_000)));
    assert_eq!(agent.step(1_000 + PERIOD, Event::Tick), [Action::Signal(id(), Signal::Stop)]);
    // Found too late.
    let mut agent = restored(200_000);
    let actions = agent.step(200_001, Event::Adopted { attempt: id(), found: Adopted::Running });
    assert!(actions.contains(&Action::Signal(id(), Signal::Kill)), "{actions:?}");
    // Of a boot before this one.
    let mut agent = restored(500);
    let actions = agent.step(501, Event::Adopted { attempt: id(), found: Adopted::Running });
    assert!(actions.iter().any(|action| matches!(action, Action::Signal(..))), "{actions:?}");
    // It had not begun, and the machine was restarted: it is given back.
    let mut agent = restored(500);
    agent.step(501, Event::Adopted { attempt: id(), found: Adopted::NotStarted });
    assert!(ending(&mut agent, 502).planned_stop);
    // It is gone, and what it left must be too before anybody hears of it.
    let mut agent = restored(30_000);
    let actions = agent.step(30_001, Event::Adopted { attempt: id(), found: Adopted::Gone });
    assert_eq!(actions, [Action::Persist(id()), Action::Remove(id())]);
    // Also for the agent after that one.
    let record = agent.record(id()).expect("kept");
    let actions = Agent::default().step(31_000, Event::Restored(Box::new(record)));
    assert_eq!(actions, [Action::Persist(id()), Action::Remove(id())]);
}

#[test]
fn the_supervisors_word_counts_only_when_the_lease_was_about_to_end() {
    // The program's own exit code happens to be that of the supervisor.
    let mut agent = running();
    let actions = agent.step(20_000, exited(SELF_FENCED, None));
    assert_eq!(kinds(&actions), ["exited"]);
    assert_eq!(ending(&mut agent, 20_001).failure, Some(FailureKind::ExitNonzero));
    // The supervisor was a step earlier than the agent.
    let mut agent = running();
    agent.step(1_000 + PERIOD - 3_000, exited(SELF_FENCED, None));
    assert_eq!(ending(&mut agent, 74_000).failure, Some(FailureKind::NodeError));
    // It ended well at the last moment.
    let mut agent = running();
    agent.step(1_000 + PERIOD, Event::Tick);
    agent.step(1_000 + PERIOD + 10, exited(0, None));
    assert_eq!(ending(&mut agent, 80_000).failure, None);
}

#[test]
fn other_work_has_no_lease() {
    let mut agent = Agent::default();
    beat(&mut agent, 1_000, 1_200);
    agent.step(1_300, Event::Assigned(Box::new(Assign { lease: None, ..*assign() })));
    agent.step(1_400, Event::Prepared { attempt: id(), outcome: Ok(Default::default()) });
    agent.step(1_500, Event::Started { attempt: id(), outcome: Ok(()) });
    assert!(beat(&mut agent, 16_000, 16_001).is_empty());
    assert!(agent.step(10_000_000, Event::Tick).is_empty());
    assert_eq!(agent.next_deadline(), None);
}
