use super::*;

fn task(n: u128) -> Topic {
    Topic::Task(TaskId::from_uuid(Uuid::from_u128(n)))
}

#[test]
fn every_topic_travels_and_many_share_a_payload_that_postgresql_takes() {
    let id = Uuid::from_u128(7);
    let mut all: BTreeSet<Topic> = (0..1_000).map(task).collect();
    all.extend([Topic::Queue, Topic::Access, Topic::Room(NodeId::from_uuid(id)), Topic::Leased(NodeId::from_uuid(id))]);
    all.extend([
        Topic::Node(NodeId::from_uuid(id)),
        Topic::Freed(AttemptId::from_uuid(id)),
        Topic::Log(AttemptId::from_uuid(id)),
    ]);
    let payloads = payloads("someone", &all);
    assert!(payloads.len() <= 5, "{}", payloads.len());
    let mut heard = BTreeSet::new();
    for payload in payloads {
        assert!(payload.len() < 8_000);
        let (sender, topics) = payload.split_once(':').expect("a sender");
        assert_eq!(sender, "someone");
        heard.extend(topics.split(',').map(|topic| Topic::decode(topic).expect("a topic")));
    }
    assert_eq!(heard, all);
    assert_eq!((Topic::decode(""), Topic::decode("x"), Topic::decode("t7")), (None, None, None));
}

#[tokio::test]
async fn a_listener_that_is_busy_while_thousands_of_tasks_change_misses_nothing() {
    let wakeups = Wakeups::new(None);
    let mut listener = wakeups.subscribe();
    for n in 0..100 {
        wakeups.publish((0..1_000).map(|task_of| task(n * 1_000 + task_of)));
    }
    for n in 0..100_000 {
        assert_eq!(listener.recv().await, Ok(task(n)));
    }
    wakeups.publish([Topic::Queue, Topic::Access]);
    assert_eq!(listener.recv().await, Ok(Topic::Queue));
    wakeups.publish([Topic::Queue]);
    listener.skip();
    wakeups.publish([Topic::Access]);
    assert_eq!(listener.recv().await, Ok(Topic::Access));
}

#[test]
fn hints_of_a_lone_task_are_sent_at_once_and_a_flood_of_them_two_hundred_times_a_second() {
    let begin = Instant::now();
    let mut pace = Pace { due: begin };
    let few: Vec<_> = (0..AT_ONCE).map(|_| (pace.waits_until(begin), pace.sends(begin)).0).collect();
    assert!(few.iter().all(Option::is_none), "{few:?}");
    // Ten seconds, in which something is told all the time.
    let (mut now, mut sent) = (begin, 0);
    while now < begin + Duration::from_secs(10) {
        now = pace.waits_until(now).unwrap_or(now);
        pace.sends(now);
        sent += 1;
    }
    assert!((1_990..=2_010).contains(&sent), "{sent}");
    // And after a pause a lone one waits for nothing again.
    assert_eq!(pace.waits_until(now + NOTIFIED_EVERY * AT_ONCE), None);
}
