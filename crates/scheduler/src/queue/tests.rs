use super::*;
use domain::{
    ids::{DEFAULT_PROJECT, NodeId, TaskId},
    placement::Strategy,
    resources::Reservation,
    spec::Requirements,
};
use uuid::Uuid;

fn head(class: i64, n: u128) -> Head {
    let needs = Needs {
        executor: "process".into(),
        requirements: Requirements::default(),
        exclusive: false,
        artifacts: false,
        checkpoints: false,
    };
    Head {
        task: TaskId::from_uuid(Uuid::from_u128(n)),
        project: DEFAULT_PROJECT,
        class,
        needs: Arc::new(needs),
        priority: 0,
        queued_at: Timestamp::UNIX_EPOCH,
        avoid_node: None,
        warm_keys: BTreeSet::new(),
    }
}
/// A look that finds `waiting` tasks of each of these classes at most, of which so many are placed.
fn pass(queue: &mut Queue, classes: impl Iterator<Item = (i64, i64)>, room: i64) -> (QueueLook, bool) {
    let look = queue.look(&mut Watched::new(Strategy::LeastLoaded), None, queue.began_at);
    let mut found = QueueHeads::default();
    for (class, waiting) in classes.filter(|(class, _)| *class > look.after_class).take(CLASSES_PER_LOOK) {
        let read = waiting.min(look.wanted.get(&class).copied().unwrap_or(look.wanted_otherwise));
        found.read.insert(class, read as usize);
        found.heads.extend((0..read).map(|n| head(class, (class as u128) << 64 | n as u128)));
    }
    let placed = found.heads.iter().take(room as usize).map(|head| Placement {
        task: head.task,
        node: NodeId::from_uuid(Uuid::nil()),
        reservation: Reservation::default(),
    });
    let plan: Vec<Placement> = placed.collect();
    let more = queue.learn(&look, &found, &plan);
    (look, more)
}

#[test]
fn looks_grow_while_all_that_is_seen_is_placed_and_shrink_with_the_room() {
    let mut queue = Queue::new(Instant::now());
    let mut wanted = Vec::new();
    for _ in 0..4 {
        let (look, more) = pass(&mut queue, [(1, 1_000_000)].into_iter(), i64::MAX);
        wanted.push(look.wanted.get(&1).copied().unwrap_or(look.wanted_otherwise));
        assert!(more);
    }
    assert_eq!(wanted, [32, 128, 512, 512]);
    let (_, more) = pass(&mut queue, [(1, 1_000_000)].into_iter(), 30);
    assert!(!more, "the room is used up: whoever gives some back rings");
    let (look, _) = pass(&mut queue, [(1, 1_000_000)].into_iter(), 0);
    assert_eq!(look.wanted[&1], 60);
}

#[test]
fn a_look_asks_for_no_more_than_is_leased_while_an_urgent_task_may_wait() {
    let mut queue = Queue::new(Instant::now());
    let mut wanted_after = |tasks: usize, millis: u64| {
        for _ in 0..20 {
            pass(&mut queue, [(1, 1_000_000)].into_iter(), i64::MAX);
            queue.took(tasks, Duration::from_millis(millis));
        }
        let (look, more) = pass(&mut queue, [(1, 1_000_000)].into_iter(), i64::MAX);
        assert!(more, "the rest follows at once");
        look.wanted[&1]
    };
    assert_eq!(wanted_after(512, 10), MOST);
    assert_eq!(wanted_after(512, 40), 256);
    assert_eq!(wanted_after(256, 2_000), LEAST_MOST, "a commit by itself costs something too");
    assert_eq!(wanted_after(3, 100), LEAST_MOST, "few tell nothing");
    assert_eq!(wanted_after(128, 4), MOST);
}

#[test]
fn an_idle_queue_is_looked_at_once() {
    let mut queue = Queue::new(Instant::now());
    assert!(!pass(&mut queue, [].into_iter(), 10).1);
    assert!(!pass(&mut queue, [(1, 1)].into_iter(), 10).1);
    assert!(!pass(&mut queue, [].into_iter(), 10).1);
    assert!(queue.classes.is_empty(), "what is not there is forgotten");
}

#[test]
fn of_more_classes_than_one_look_visits_each_is_visited_and_then_it_rests() {
    let mut queue = Queue::new(Instant::now());
    let classes = || (0..5_000).map(|class| (class, 1));
    let (mut visited, mut passes) = (BTreeSet::new(), 0);
    loop {
        let (look, more) = pass(&mut queue, classes(), 0);
        visited
            .extend(classes().map(|(class, _)| class).filter(|class| *class > look.after_class).take(CLASSES_PER_LOOK));
        passes += 1;
        if !more {
            break;
        }
        assert!(passes < 20, "it never rests");
    }
    assert_eq!(visited.len(), 5_000);
}

#[test]
fn where_much_was_placed_the_look_begins_behind_it_and_once_a_second_at_the_beginning() {
    let mut queue = Queue::new(Instant::now());
    let began = queue.began_at;
    let mut nodes = Watched::new(Strategy::LeastLoaded);
    let many = || [(1, 1_000_000)].into_iter();
    let (look, _) = pass(&mut queue, many(), 20);
    assert!(look.begin_at.is_empty());
    assert!(queue.look(&mut nodes, None, began).begin_at.is_empty(), "a few dead entries do not matter");
    for _ in 0..5 {
        pass(&mut queue, many(), i64::MAX);
    }
    pass(&mut queue, many(), 20);
    let place = queue.look(&mut nodes, None, began).begin_at[&1];
    assert_eq!(place.task.as_uuid().as_u128() as u64, 20, "the first that was not placed");
    assert!(queue.look(&mut nodes, None, began + BEGIN_EVERY).begin_at.is_empty());
    pass(&mut queue, many(), 20);
    assert!(!queue.look(&mut nodes, None, queue.began_at).begin_at.is_empty());
    queue.begin_anew();
    assert!(queue.look(&mut nodes, None, queue.began_at).begin_at.is_empty(), "what was refused waits before it");
}
