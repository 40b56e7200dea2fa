use super::{
    attempt::{ADOPT_AGAIN_MS, REMOVE_AGAIN_MS},
    *,
};
use domain::{
    ids::{DEFAULT_PROJECT, Fence, TaskId},
    spec::parse_spec,
};
use uuid::Uuid;

fn held(n: u128) -> Held {
    Held { attempt: AttemptId::from_uuid(Uuid::from_u128(n)), fence: Fence::from_i64(1) }
}
fn assign(n: u128) -> Box<Assign> {
    let spec =
        parse_spec(&serde_json::json!({"command": ["true"], "timeout": 100, "stop": {"grace": 10}})).expect("valid");
    Box::new(Assign {
        held: held(n),
        task: TaskId::from_uuid(Uuid::from_u128(n)),
        project: DEFAULT_PROJECT,
        number: 1,
        ahead: false,
        gpu_ids: vec![],
        lease: None,
        spec,
    })
}
fn reports(actions: &[Action]) -> Vec<&'static str> {
    actions
        .iter()
        .filter_map(|action| if let Action::Report { report, .. } = action { Some(report.kind()) } else { None })
        .collect()
}
fn has(actions: &[Action], wanted: &Action) -> bool {
    actions.contains(wanted)
}
fn exit(code: i32) -> ExitFacts {
    ExitFacts { code: Some(code), ..ExitFacts::default() }
}
fn id(n: u128) -> AttemptId {
    held(n).attempt
}

/// An agent whose one attempt, a process, runs since moment 0.
fn running() -> Agent {
    running_in("process")
}
fn running_in(executor: &str) -> Agent {
    let mut agent = Agent::default();
    let mut assign = assign(1);
    assign.spec.executor = executor.into();
    agent.step(0, Event::Assigned(assign));
    agent.step(0, Event::Prepared { attempt: id(1), outcome: Ok(Default::default()) });
    agent.step(0, Event::Started { attempt: id(1), outcome: Ok(()) });
    agent
}
fn ending_of(actions: &[Action]) -> &Ending {
    actions
        .iter()
        .find_map(|action| match action {
            Action::Report { report: Report::Ended { ending }, .. } => Some(ending),
            _ => None,
        })
        .expect("it ended")
}
fn said_again(agent: &Agent) -> Vec<&'static str> {
    agent.unacknowledged().iter().map(|(_, report)| report.kind()).collect()
}
fn all_logged(agent: &mut Agent) -> Vec<Action> {
    agent.step(0, Event::LogAcknowledged { attempt: id(1), totals: LogTotals::default() })
}

#[test]
fn an_end_that_was_not_heard_calls_a_log_complete_only_while_its_bytes_are_somewhere() {
    let whole = LogTotals { bytes: 300, complete: true };
    for (kept, stored_bytes, is_complete) in [
        // What the server has forgotten is still here, or it has all.
        (Some(whole), 100, true),
        (None, 300, true),
        // It was acknowledged, so let go of here; then the server's database was restored.
        (Some(LogTotals { complete: false, ..whole }), 100, false),
        (None, 100, false),
    ] {
        let mut agent = running();
        let exit = ExitFacts { code: Some(0), ..ExitFacts::default() };
        agent.step(0, Event::Collected { attempt: id(1), outcome: Ok(exit) });
        agent.step(0, Event::LogAcknowledged { attempt: id(1), totals: whole });
        let actions = agent.step(1, Event::LogResumed { attempt: id(1), stored_bytes, kept });
        let unheard = agent.unacknowledged();
        let said = unheard.iter().find_map(|(_, report)| match report {
            Report::Ended { ending } => Some(ending.log),
            _ => None,
        });
        assert_eq!(said, Some(LogTotals { complete: is_complete, ..whole }));
        let record = agent.record(id(1)).and_then(|record| record.ending).expect("on disk");
        assert_eq!((record.log.complete, has(&actions, &Action::Persist(id(1)))), (is_complete, !is_complete));
    }
}

#[test]
fn an_assignment_is_on_disk_before_it_is_answered_or_begun() {
    let actions = Agent::default().step(0, Event::Assigned(assign(1)));
    assert_eq!(actions[0], Action::Persist(id(1)));
    assert_eq!(reports(&actions), ["accepted"]);
    assert_eq!(actions.last(), Some(&Action::Prepare(id(1))));
}

#[test]
fn facts_then_log_then_end_then_removal_then_release() {
    let mut agent = running_in("container");
    let actions = agent.step(5, Event::Collected { attempt: id(1), outcome: Ok(exit(0)) });
    assert_eq!(actions[0], Action::Persist(id(1)));
    assert_eq!(reports(&actions), ["exited"]);
    assert!(has(&actions, &Action::AwaitLog(id(1))));
    let actions = all_logged(&mut agent);
    assert_eq!(ending_of(&actions).failure, None);
    assert!(!has(&actions, &Action::Remove(id(1))), "the container stays until the end is acknowledged");
    let actions = agent.step(6, Event::Acknowledged { attempt: id(1), kind: "ended" });
    assert_eq!(actions, [Action::Remove(id(1))]);
    let actions = agent.step(7, Event::Removed { attempt: id(1), outcome: Ok(()) });
    assert_eq!(reports(&actions), ["released"]);
    let actions = agent.step(8, Event::Acknowledged { attempt: id(1), kind: "released" });
    assert_eq!(actions, [Action::Forget(id(1))]);
    assert!(agent.is_settled());
}

#[test]
fn what_is_not_acknowledged_is_said_again() {
    let mut agent = running();
    agent.step(1, Event::Acknowledged { attempt: id(1), kind: "accepted" });
    assert_eq!(said_again(&agent), ["started"]);
}

#[test]
fn a_timeout_asks_then_kills_and_counts_as_timeout_whatever_the_exit() {
    let mut agent = running();
    assert_eq!(agent.next_deadline(), Some(100_000));
    assert!(agent.step(99_999, Event::Tick).is_empty());
    assert_eq!(agent.step(100_000, Event::Tick), [Action::Persist(id(1)), Action::Signal(id(1), Signal::Stop)]);
    assert_eq!(agent.step(110_000, Event::Tick), [Action::Signal(id(1), Signal::Kill)]);
    agent.step(110_001, Event::Collected { attempt: id(1), outcome: Ok(exit(0)) });
    assert_eq!(ending_of(&all_logged(&mut agent)).failure, Some(FailureKind::Timeout));
}

#[test]
fn a_cancel_works_in_every_state() {
    // While preparing: what is prepared is dropped.
    let mut agent = Agent::default();
    agent.step(0, Event::Assigned(assign(1)));
    let actions = agent.step(1, Event::Cancel(held(1)));
    assert!(has(&actions, &Action::Abort(id(1))));
    assert_eq!(ending_of(&all_logged(&mut agent)).failure, Some(FailureKind::Cancelled));
    // A late answer of the dropped step changes nothing.
    assert!(agent.step(2, Event::Prepared { attempt: id(1), outcome: Ok(Default::default()) }).is_empty());

    // While starting: stopped once it is up.
    let mut agent = Agent::default();
    agent.step(0, Event::Assigned(assign(1)));
    agent.step(0, Event::Prepared { attempt: id(1), outcome: Ok(Default::default()) });
    assert!(agent.step(1, Event::Cancel(held(1))).is_empty());
    let actions = agent.step(2, Event::Started { attempt: id(1), outcome: Ok(()) });
    assert!(has(&actions, &Action::Signal(id(1), Signal::Stop)));

    // While running: asked, then killed.
    let mut agent = running();
    assert_eq!(agent.step(1, Event::Cancel(held(1))), [Action::Signal(id(1), Signal::Stop)]);
    assert!(agent.step(2, Event::Cancel(held(1))).is_empty(), "once is enough");
    assert_eq!(agent.step(10_001, Event::Tick), [Action::Signal(id(1), Signal::Kill)]);

    // Never heard of: answered all the same, so that the task can end.
    let mut agent = Agent::default();
    let actions = agent.step(0, Event::Cancel(held(9)));
    assert_eq!(ending_of(&actions).failure, Some(FailureKind::Cancelled));
    let actions = agent.step(0, Event::Acknowledged { attempt: id(9), kind: "ended" });
    assert_eq!(reports(&actions), ["released"]);
}

#[test]
fn a_fenced_attempt_is_stopped_and_reports_nothing_but_its_release() {
    let mut agent = running();
    assert_eq!(agent.step(1, Event::Stop(held(1))), [Action::Signal(id(1), Signal::Stop)]);
    assert!(agent.unacknowledged().is_empty());
    let actions = agent.step(2, Event::Collected { attempt: id(1), outcome: Ok(exit(0)) });
    assert_eq!(actions, [Action::Remove(id(1))]);
    assert_eq!(reports(&agent.step(3, Event::Removed { attempt: id(1), outcome: Ok(()) })), ["released"]);
    // And one that the agent never had.
    assert_eq!(reports(&Agent::default().step(0, Event::Stop(held(7)))), ["released"]);
}

#[test]
fn a_removal_that_fails_is_tried_again_and_nothing_is_released_before() {
    let mut agent = running();
    agent.step(1, Event::Stop(held(1)));
    agent.step(2, Event::Collected { attempt: id(1), outcome: Ok(exit(0)) });
    assert!(agent.step(3, Event::Removed { attempt: id(1), outcome: Err(Failure::node("docker is away")) }).is_empty());
    assert_eq!(agent.step(3 + REMOVE_AGAIN_MS, Event::Tick), [Action::Remove(id(1))]);
}

#[test]
fn a_planned_stop_ends_as_node_error_without_budget_and_a_finished_task_keeps_its_end() {
    let mut agent = running();
    let actions = agent.step(1, Event::ShutDown { grace_ms: 5_000 });
    assert_eq!(actions, [Action::Persist(id(1)), Action::Signal(id(1), Signal::Stop)]);
    assert_eq!(agent.step(5_001, Event::Tick), [Action::Signal(id(1), Signal::Kill)]);
    let actions = agent.step(5_002, Event::Collected { attempt: id(1), outcome: Ok(exit(143)) });
    assert_eq!(reports(&actions), Vec::<&str>::new(), "an exit caused by us is no exit of the task's own");
    let actions = all_logged(&mut agent);
    assert_eq!((ending_of(&actions).failure, ending_of(&actions).planned_stop), (Some(FailureKind::NodeError), true));

    let mut agent = running();
    agent.step(1, Event::ShutDown { grace_ms: 5_000 });
    agent.step(2, Event::Collected { attempt: id(1), outcome: Ok(exit(0)) });
    assert_eq!(ending_of(&all_logged(&mut agent)).failure, None);
}

#[test]
fn what_is_moved_gets_its_whole_grace_and_ends_as_a_planned_stop() {
    let mut agent = running();
    let actions = agent.step(100, Event::Evict(held(1)));
    assert_eq!(actions, [Action::Persist(id(1)), Action::Signal(id(1), Signal::Stop)]);
    assert!(agent.record(id(1)).expect("kept").planned_stop.is_some(), "also for an agent that comes next");
    let grace_ms = assign(1).spec.stop.grace_ms;
    assert_eq!(agent.next_deadline(), Some(100 + grace_ms));
    assert_eq!(agent.step(101, Event::Evict(held(1))), [], "asked once");
    let stopped = ExitFacts { signal: Some(15), ..exit(143) };
    let actions = agent.step(200, Event::Collected { attempt: id(1), outcome: Ok(stopped) });
    assert!(!reports(&actions).contains(&"exited"), "it will run again");
    let actions = all_logged(&mut agent);
    let ending = ending_of(&actions);
    assert_eq!((ending.failure, ending.planned_stop), (Some(FailureKind::NodeError), true));
    assert!(ending.message.starts_with("moved off its node"), "{}", ending.message);
    // New work is still taken: the agent itself goes on.
    assert!(has(&agent.step(300, Event::Assigned(assign(2))), &Action::Prepare(id(2))));
}

#[test]
fn what_is_moved_before_it_began_ends_at_once_and_what_has_ended_keeps_its_end() {
    let mut agent = Agent::default();
    agent.step(0, Event::Assigned(assign(1)));
    assert!(has(&agent.step(1, Event::Evict(held(1))), &Action::Abort(id(1))));
    assert!(ending_of(&all_logged(&mut agent)).planned_stop);
    // Its assignment never arrived.
    let actions = Agent::default().step(0, Event::Evict(held(7)));
    assert!(ending_of(&actions).planned_stop);
    let mut agent = running();
    agent.step(1, Event::Collected { attempt: id(1), outcome: Ok(exit(0)) });
    assert_eq!(agent.step(2, Event::Evict(held(1))), []);
    assert_eq!(ending_of(&all_logged(&mut agent)).failure, None);
}

#[test]
fn a_restarted_agent_goes_on_where_the_attempt_stands() {
    let record = running().record(id(1)).expect("kept");
    let restore = |record: Record, found: Option<Adopted>| {
        let mut agent = Agent::default();
        let mut actions = agent.step(50, Event::Restored(Box::new(record)));
        if let Some(found) = found {
            assert_eq!(actions, [Action::Adopt(id(1))]);
            actions = agent.step(60, Event::Adopted { attempt: id(1), found });
        }
        (agent, actions)
    };
    let (agent, actions) = restore(record.clone(), Some(Adopted::Running));
    assert_eq!(reports(&actions), ["accepted", "started"]);
    assert!(has(&actions, &Action::Collect(id(1))));
    assert_eq!(agent.next_deadline(), Some(100_000), "the timeout counts from the first start");

    let (_, actions) = restore(record.clone(), Some(Adopted::NotStarted));
    assert!(has(&actions, &Action::Prepare(id(1))));
    let (mut agent, actions) = restore(record.clone(), Some(Adopted::Unknown));
    assert!(actions.is_empty(), "a hung Docker is no verdict");
    assert_eq!(agent.step(60 + ADOPT_AGAIN_MS, Event::Tick), [Action::Adopt(id(1))]);
    let (mut agent, _) = restore(record.clone(), Some(Adopted::Gone));
    assert_eq!(ending_of(&all_logged(&mut agent)).failure, Some(FailureKind::NodeLost));

    // It had ended: said again with the same words.
    let mut ended = running();
    ended.step(1, Event::Collected { attempt: id(1), outcome: Ok(exit(3)) });
    let first = ending_of(&all_logged(&mut ended)).clone();
    let (mut agent, actions) = restore(ended.record(id(1)).expect("kept"), None);
    assert_eq!(reports(&actions), ["exited"]);
    assert_eq!(*ending_of(&all_logged(&mut agent)), first);
    // It was removed: the release is missing, and the end is said once more, since nobody knows whether it arrived.
    ended.step(2, Event::Acknowledged { attempt: id(1), kind: "ended" });
    ended.step(2, Event::Removed { attempt: id(1), outcome: Ok(()) });
    let (agent, _) = restore(ended.record(id(1)).expect("kept"), None);
    assert_eq!(said_again(&agent), ["ended", "released"]);
    // Fenced, it has nothing to say of its end.
    let mut fenced = running();
    fenced.step(1, Event::Collected { attempt: id(1), outcome: Ok(exit(3)) });
    fenced.step(2, Event::Stop(held(1)));
    fenced.step(2, Event::Removed { attempt: id(1), outcome: Ok(()) });
    let (agent, _) = restore(fenced.record(id(1)).expect("kept"), None);
    assert_eq!(said_again(&agent), ["released"]);
}

#[test]
fn a_process_frees_its_resources_without_waiting_for_the_servers_answer() {
    let mut agent = running();
    agent.step(1, Event::Collected { attempt: id(1), outcome: Ok(exit(0)) });
    let actions = all_logged(&mut agent);
    assert_eq!(actions[0], Action::Persist(id(1)), "its end is on disk before its files are gone");
    assert_eq!(reports(&actions), ["ended"]);
    assert_eq!(actions.last(), Some(&Action::Remove(id(1))));
    assert_eq!(reports(&agent.step(2, Event::Removed { attempt: id(1), outcome: Ok(()) })), ["released"]);
    assert_eq!(agent.step(3, Event::Acknowledged { attempt: id(1), kind: "ended" }), []);
    assert_eq!(agent.step(3, Event::Acknowledged { attempt: id(1), kind: "released" }), [Action::Forget(id(1))]);
    assert!(agent.is_settled());
}

/// An agent that keeps its record as the shell does: only when it is told to.
#[derive(Default)]
struct Kept {
    agent: Agent,
    record: Option<Record>,
}

impl Kept {
    fn step(&mut self, now: Millis, event: Event) -> Vec<Action> {
        let actions = self.agent.step(now, event);
        if has(&actions, &Action::Persist(id(1))) {
            self.record = self.agent.record(id(1));
        }
        actions
    }
    fn running() -> Self {
        let mut kept = Self::default();
        kept.step(0, Event::Assigned(assign(1)));
        kept.step(0, Event::Prepared { attempt: id(1), outcome: Ok(Default::default()) });
        kept.step(0, Event::Started { attempt: id(1), outcome: Ok(()) });
        kept
    }
    /// The agent is killed; the next one has its record, and finds this.
    fn killed(self, now: Millis, found: Adopted) -> Self {
        let record = self.record.clone().expect("an accepted attempt is on disk");
        let mut next = Self { agent: Agent::default(), record: self.record };
        next.step(now, Event::Restored(Box::new(record)));
        next.step(now, Event::Adopted { attempt: id(1), found });
        next
    }
    fn ends(mut self, now: Millis, code: i32) -> Ending {
        self.step(now, Event::Collected { attempt: id(1), outcome: Ok(exit(code)) });
        ending_of(&self.step(now, Event::LogAcknowledged { attempt: id(1), totals: LogTotals::default() })).clone()
    }
}

#[test]
fn a_timeout_counts_from_the_first_start_whatever_was_killed_since() {
    let kept = Kept::running().killed(60_000, Adopted::Running);
    assert_eq!(kept.agent.next_deadline(), Some(100_000));
}

#[test]
fn what_was_stopped_at_its_timeout_has_timed_out_also_for_the_next_agent() {
    let mut kept = Kept::running();
    kept.step(100_000, Event::Tick);
    assert_eq!(kept.killed(105_000, Adopted::Exited).ends(105_000, 143).failure, Some(FailureKind::Timeout));
}

#[test]
fn what_ended_by_itself_has_not_timed_out_however_late_that_is_found_out() {
    let mut kept = Kept::running().killed(500_000, Adopted::Exited);
    assert_eq!(kept.agent.next_deadline(), None);
    assert!(kept.step(500_000, Event::Tick).is_empty());
    assert_eq!(kept.ends(500_000, 0).failure, None);
}

#[test]
fn a_planned_stop_is_one_also_when_the_agent_is_killed_before_it_learns_the_exit() {
    let mut kept = Kept::running();
    kept.step(1, Event::ShutDown { grace_ms: 5_000 });
    let ending = kept.killed(50, Adopted::Exited).ends(50, 143);
    assert_eq!((ending.failure, ending.planned_stop), (Some(FailureKind::NodeError), true));
}

#[test]
fn what_an_earlier_agent_left_running_after_all_goes_on_and_ends_by_itself() {
    let mut kept = Kept::running();
    kept.step(1, Event::ShutDown { grace_ms: 5_000 });
    let mut kept = kept.killed(50, Adopted::Running);
    assert_eq!(kept.agent.next_deadline(), Some(100_000), "nothing but its timeout");
    let exit = ExitFacts { duration_ms: 60_000, ..exit(4) };
    kept.step(60_000, Event::Collected { attempt: id(1), outcome: Ok(exit) });
    let actions = kept.step(60_000, Event::LogAcknowledged { attempt: id(1), totals: LogTotals::default() });
    assert_eq!(ending_of(&actions).failure, Some(FailureKind::ExitNonzero));
}

#[test]
fn what_an_earlier_agent_left_running_after_all_can_still_be_cancelled() {
    let mut kept = Kept::running();
    kept.step(1, Event::ShutDown { grace_ms: 5_000 });
    let mut kept = kept.killed(50, Adopted::Running);
    assert!(has(&kept.step(60, Event::Cancel(held(1))), &Action::Signal(id(1), Signal::Stop)));
}

#[test]
fn what_died_of_the_planned_stops_signal_did_so_however_long_it_took() {
    let mut kept = Kept::running();
    kept.step(1_000, Event::ShutDown { grace_ms: 200 });
    let mut kept = kept.killed(60_000, Adopted::Exited);
    let exit = ExitFacts { signal: Some(15), duration_ms: 30_000, ..exit(143) };
    kept.step(60_000, Event::Collected { attempt: id(1), outcome: Ok(exit) });
    let actions = kept.step(60_000, Event::LogAcknowledged { attempt: id(1), totals: LogTotals::default() });
    assert!(ending_of(&actions).planned_stop);
}

#[test]
fn a_planned_stop_that_comes_while_docker_is_asked_holds_for_what_is_found() {
    let found = |found| {
        let record = Kept::running().record.expect("on disk");
        let mut kept = Kept { agent: Agent::default(), record: Some(record.clone()) };
        kept.step(10, Event::Restored(Box::new(record)));
        kept.step(11, Event::ShutDown { grace_ms: 5_000 });
        let actions = kept.step(12, Event::Adopted { attempt: id(1), found });
        (kept, actions)
    };
    let (kept, actions) = found(Adopted::Running);
    assert!(has(&actions, &Action::Signal(id(1), Signal::Stop)));
    assert!(kept.killed(50, Adopted::Exited).ends(50, 143).planned_stop);
    let (_, actions) = found(Adopted::NotStarted);
    assert!(!has(&actions, &Action::Prepare(id(1))), "it would only be torn apart again");
}

#[test]
fn a_stopping_agent_leaves_new_assignments_to_the_next_one() {
    let mut agent = running();
    agent.step(1, Event::ShutDown { grace_ms: 5_000 });
    assert!(agent.step(2, Event::Assigned(assign(2))).is_empty());
    assert_eq!(agent.inventory().len(), 1);
}

#[test]
fn another_reason_to_stop_gives_no_more_time() {
    let mut agent = running();
    agent.step(100_000, Event::Tick);
    assert_eq!(agent.step(109_000, Event::Cancel(held(1))), [Action::Signal(id(1), Signal::Stop)]);
    assert_eq!(agent.step(110_000, Event::Tick), [Action::Signal(id(1), Signal::Kill)]);
}

#[test]
fn what_ended_in_time_has_not_timed_out_though_its_log_came_late() {
    let mut kept = Kept::running();
    kept.step(100_000, Event::Tick);
    let exit = ExitFacts { duration_ms: 60_000, ..exit(0) };
    kept.step(200_000, Event::Collected { attempt: id(1), outcome: Ok(exit) });
    let actions = kept.step(200_000, Event::LogAcknowledged { attempt: id(1), totals: LogTotals::default() });
    assert_eq!(ending_of(&actions).failure, None);
}

#[test]
fn what_the_disk_does_not_take_is_refused_so_that_it_goes_elsewhere() {
    let mut agent = Agent::default();
    let failure = Failure::node("disk: no room");
    let actions = agent.step(0, Event::Refused { held: held(1), failure });
    assert_eq!(reports(&actions), ["ended"]);
    assert!(!actions.iter().any(|action| matches!(action, Action::Persist(_) | Action::Prepare(_))));
    // Sent again, it gets the same answer.
    assert_eq!(reports(&agent.step(1, Event::Assigned(assign(1)))), ["ended"]);
    let actions = agent.step(2, Event::Acknowledged { attempt: id(1), kind: "ended" });
    assert_eq!(reports(&actions), ["released"]);
    agent.step(3, Event::Acknowledged { attempt: id(1), kind: "released" });
    assert!(agent.is_settled());
}

#[test]
fn an_assignment_whose_record_the_disk_does_not_take_is_refused_too() {
    let mut agent = Agent::default();
    agent.step(0, Event::Assigned(assign(1)));
    let actions = agent.step(0, Event::Refused { held: held(1), failure: Failure::node("disk: no room") });
    assert_eq!(reports(&actions), ["ended"]);
    assert_eq!(said_again(&agent), ["ended"]);
    assert_eq!(agent.step(1, Event::Prepared { attempt: id(1), outcome: Ok(Default::default()) }), []);
}
