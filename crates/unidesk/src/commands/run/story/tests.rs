use super::*;
use api_types::task::Attempt;
use domain::{
    attempt::AttemptState,
    ids::{AttemptId, Fence, TaskId},
    task::TaskState,
};
use serde_json::{Value, json};

const ID: &str = "01a20390-8054-7c41-9d2f-6b0e41c7a93d";

fn at(ms: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_780_000_000_000 + ms).expect("a moment")
}

fn task(attempts: &[(u32, &str, Option<Value>)]) -> Task {
    let mut task: Task = serde_json::from_value(json!({
        "id": ID, "name": "train", "state": "pending", "outcome": null, "exit_code": null, "signal": null, "message": "",
        "project": "default", "project_id": ID, "created_by": "ana", "created_at": at(0), "started_at": null, "ended_at": null,
        "duration_ms": null, "cpu_ms": null, "peak_memory_bytes": null, "node": null, "attempt": 0, "cancel_requested": false,
        "log": {"bytes": 0, "complete": false}, "image": null,
    }))
    .expect("a task");
    let attempt = |(number, node, provenance): &(u32, &str, Option<Value>)| Attempt {
        id: AttemptId::from_uuid(uuid::Uuid::from_u128((*number).into())),
        number: *number,
        state: AttemptState::Preparing,
        node_id: NodeId::from_uuid(uuid::Uuid::nil()),
        node: (*node).to_owned(),
        fence: Fence::NONE.get(),
        reserved: true,
        placed_at: at(0),
        accepted_at: None,
        preparing_at: None,
        started_at: None,
        exited_at: None,
        ended_at: None,
        failure: None,
        message: String::new(),
        exit: None,
        provenance: provenance.clone(),
    };
    task.attempts = Some(attempts.iter().map(attempt).collect());
    task
}

struct Told {
    story: Story,
    began: Instant,
    seq: i64,
}

impl Told {
    fn new() -> Self {
        let began = Instant::now();
        Self { story: Story::new(&task(&[]), "Dockerfile", Style::PLAIN, began), began, seq: 0 }
    }
    fn now(&self, ms: u64) -> Instant {
        self.began + Duration::from_millis(ms)
    }
    fn event(&mut self, ms: u64, event: Event) -> Want {
        self.seq += 1;
        let task: TaskId = ID.parse().expect("valid");
        let told = TaskEvent { seq: self.seq, task, at: at(ms as i64), state: TaskState::Running, event };
        self.story.on_event(&told, self.now(ms))
    }
    fn due(&mut self, ms: u64) -> Vec<String> {
        let now = self.now(ms);
        self.story.due(now)
    }
}

fn attempt(number: u128) -> AttemptId {
    AttemptId::from_uuid(uuid::Uuid::from_u128(number))
}

fn placed(number: u32) -> Event {
    Event::Placed { attempt: attempt(number.into()), number, node: NodeId::from_uuid(uuid::Uuid::from_u128(0xa3)) }
}

fn built(warm: bool) -> Option<Value> {
    Some(json!({"image": {"warm": warm, "id": "sha256:9f2c51aa77", "build_ms": 5000}}))
}

#[test]
fn a_warm_start_is_one_line() {
    let mut told = Told::new();
    assert_eq!(told.event(100, placed(1)), Want::Task);
    told.story.on_task(&task(&[(1, "lab-3", None)]));
    assert_eq!(told.due(200), [""; 0], "it may still become one line");
    assert_eq!(told.event(500, Event::Prepared { attempt: attempt(1) }), Want::Task);
    told.event(510, Event::Started { attempt: attempt(1) });
    assert!(!told.story.is_settled(1), "what was prepared is not known yet");
    told.story.on_task(&task(&[(1, "lab-3", built(true))]));
    assert_eq!(told.due(520), ["✓ placed     on lab-3 after 0.1 s; image is there (prepared in 0.4 s)"]);
    assert!(told.story.is_settled(1));
    assert_eq!(told.due(9_000), [""; 0], "each line once");
}

#[test]
fn a_cold_start_tells_of_the_placement_first_and_of_each_phase_when_it_is_over() {
    let mut told = Told::new();
    assert!(told.story.status(told.now(50)).expect("it waits").contains("pending"));
    told.event(100, placed(1));
    told.story.on_task(&task(&[(1, "lab-3", None)]));
    assert_eq!(told.due(1_200), ["✓ placed     on lab-3 after 0.1 s"]);
    told.story.on_build_line("Step 2/7 : RUN make");
    assert!(told.story.status(told.now(2_000)).expect("it prepares").contains("step 2/7  RUN make"));
    told.event(6_000, Event::Prepared { attempt: attempt(1) });
    told.story.on_task(&task(&[(1, "lab-3", built(false))]));
    assert_eq!(told.due(6_100).len(), 1);
    told.event(6_200, Event::Started { attempt: attempt(1) });
    assert!(told.story.is_settled(1) && told.story.status(told.now(7_000)).is_none());
}

#[test]
fn a_server_that_answers_no_questions_holds_up_no_line_for_ever() {
    let mut told = Told::new();
    told.event(100, placed(1));
    told.event(200, Event::Prepared { attempt: attempt(1) });
    told.event(300, Event::Started { attempt: attempt(1) });
    assert_eq!(told.due(400), [""; 0]);
    assert_eq!(told.due(1_300), ["✓ placed     on 000000a3 after 0.1 s"]);
    assert!(told.story.is_settled(1));
}

#[test]
fn a_task_that_moves_starts_a_new_story() {
    let mut told = Told::new();
    told.event(100, placed(1));
    told.story.on_task(&task(&[(1, "lab-3", None)]));
    told.event(
        150,
        Event::Requeued { not_before: None, because: "its node\u{1b}[2J is gone\nmore".into(), silent_since: None },
    );
    assert_eq!(told.due(160), ["✓ placed     on lab-3 after 0.1 s", "! requeued   its node\\x1b[2J is gone"]);
    assert!(told.story.is_waiting());
    assert_eq!(told.event(400, placed(2)), Want::AnotherAttempt(2));
    assert!(told.story.is_settled(1) && !told.story.is_settled(2));
}

#[test]
fn the_end_lets_everything_through() {
    let mut told = Told::new();
    told.event(100, placed(1));
    told.story.on_task(&task(&[(1, "lab-3", None)]));
    told.event(200, Event::Finished { state: TaskState::Failed, failure: None });
    assert_eq!(told.due(210), ["✓ placed     on lab-3 after 0.1 s"]);
    assert_eq!(told.story.status(told.now(300)), None);
}

#[test]
fn a_node_that_is_offline_is_told_once_with_the_time_until_which_it_is_waited_for_and_so_is_its_return() {
    let mut told = Told::new();
    told.event(100, placed(1));
    told.story.on_task(&task(&[(1, "lab-3", None)]));
    told.event(200, Event::Started { attempt: attempt(1) });
    told.due(300);
    let mut away = task(&[(1, "lab-3", None)]);
    (away.state, away.node) = (TaskState::Running, Some("lab-3".into()));
    (away.condition, away.replaceable_at) = (Some("node_offline".into()), Some(at(3_600_000)));
    let clock = |ms: i64| at(ms).fixed_offset();
    told.story.on_condition(&away, clock(10_000));
    told.story.on_condition(&away, clock(20_000));
    let until = crate::text::show_clock(at(3_600_000), clock(0));
    let line = format!("! waiting    for lab-3, which is offline, until {until}; then for any node that fits");
    assert_eq!(told.due(20_000), [line]);
    // The time is over, and no other node has it yet.
    told.story.on_condition(&away, clock(3_600_001));
    assert_eq!(told.due(20_000), ["! waiting    for lab-3, which is offline, or for any node that fits"]);
    (away.condition, away.replaceable_at) = (None, None);
    told.story.on_condition(&away, clock(3_700_000));
    told.story.on_condition(&away, clock(3_710_000));
    assert_eq!(told.due(30_000), ["✓ back       lab-3 is connected again"]);
}
