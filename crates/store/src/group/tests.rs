use super::*;
use std::sync::Mutex;
use tokio::sync::Semaphore;

/// Doubles numbers; refuses a group in which there is a 13.
struct Doubling {
    groups: Arc<Mutex<Vec<Vec<u32>>>>,
    may_write: Arc<Semaphore>,
    trouble: Arc<Mutex<VecDeque<StoreError>>>,
}

impl Operation for Doubling {
    const NAME: &'static str = "doubling";
    type Call = u32;
    type Answer = u32;
    const MAX_WEIGHT: usize = 4;

    fn weight(_: &u32) -> usize {
        1
    }

    async fn write(&self, calls: &[u32]) -> Result<Vec<u32>, StoreError> {
        self.groups.lock().expect("not poisoned").push(calls.to_vec());
        self.may_write.acquire().await.expect("open").forget();
        if let Some(error) = self.trouble.lock().expect("not poisoned").pop_front() {
            return Err(error);
        }
        assert!(!calls.contains(&99), "a mistake in the operation");
        if calls.contains(&13) {
            return Err(StoreError::Corrupt("13".into()));
        }
        Ok(calls.iter().map(|n| 2 * n).collect())
    }
}

struct World {
    group: Group<Doubling>,
    groups: Arc<Mutex<Vec<Vec<u32>>>>,
    may_write: Arc<Semaphore>,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

#[expect(clippy::disallowed_methods, reason = "a test has no service to track its tasks")]
fn world(trouble: Vec<StoreError>) -> World {
    let (groups, may_write) = (Arc::default(), Arc::new(Semaphore::new(0)));
    let stop = CancellationToken::new();
    let operation = Doubling {
        groups: Arc::clone(&groups),
        may_write: may_write.clone(),
        trouble: Arc::new(Mutex::new(trouble.into())),
    };
    let (group, run) = Group::new(operation, stop.clone());
    World { group, groups, may_write, stop, running: tokio::spawn(run) }
}

/// All calls at once, while the writer is held back; their answers, and the groups in which they were written.
async fn call_all(world: World, calls: &[u32]) -> (Vec<Result<u32, String>>, Vec<Vec<u32>>) {
    let asked = futures_of(&world.group, calls);
    world.may_write.add_permits(1_000);
    let answers = asked.await;
    world.stop.cancel();
    world.running.await.expect("it ends");
    (answers, Arc::try_unwrap(world.groups).map(|it| it.into_inner().expect("not poisoned")).unwrap_or_default())
}

async fn futures_of(group: &Group<Doubling>, calls: &[u32]) -> Vec<Result<u32, String>> {
    let mut waiting = tokio::task::JoinSet::new();
    for (place, call) in calls.iter().copied().enumerate() {
        let group = group.clone();
        waiting.spawn(async move { (place, group.call(call).await.map_err(|error| error.to_string())) });
    }
    let mut answers = waiting.join_all().await;
    answers.sort_by_key(|(place, _)| *place);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

#[tokio::test]
async fn calls_that_come_together_are_written_together_and_each_gets_its_own_answer() {
    let (answers, groups) = call_all(world(Vec::new()), &[1, 2, 3, 4, 5, 6]).await;
    assert_eq!(answers, [Ok(2), Ok(4), Ok(6), Ok(8), Ok(10), Ok(12)]);
    assert!(groups.len() < 6 && groups.iter().all(|group| group.len() <= 4), "{groups:?}");
}

#[tokio::test]
async fn only_the_faulty_caller_sees_its_error() {
    let (answers, _) = call_all(world(Vec::new()), &[1, 2, 13, 4, 5]).await;
    let faulty = Err("the database holds something unreadable: 13".to_owned());
    assert_eq!(answers, [Ok(2), Ok(4), faulty, Ok(8), Ok(10)]);
}

#[tokio::test]
async fn an_operation_that_panics_for_one_call_serves_the_others_and_goes_on() {
    let (answers, _) = call_all(world(Vec::new()), &[1, 99, 3, 4, 5]).await;
    assert_eq!(answers, [Ok(2), Err("an operation panicked".to_owned()), Ok(6), Ok(8), Ok(10)]);
}

#[tokio::test]
async fn a_database_that_is_away_is_asked_once_for_all_and_told_to_each() {
    let away = StoreError::Unavailable(sqlx::Error::PoolTimedOut);
    let (answers, groups) = call_all(world(vec![away]), &[1, 2, 3]).await;
    let told: Vec<bool> =
        answers.iter().map(|answer| answer.as_ref().is_err_and(|it| it == "the database is away")).collect();
    assert_eq!(groups[0].len(), told.iter().filter(|is_told| **is_told).count(), "{answers:?} {groups:?}");
    assert!(told[0], "{answers:?}");
}

#[tokio::test]
async fn who_waits_when_the_service_stops_is_served_and_nobody_after() {
    let world = world(Vec::new());
    let group = &world.group;
    let first = futures_of(group, &[1]);
    let stopped = async {
        // The first is being written, the second waits.
        until(|| !world.groups.lock().expect("not poisoned").is_empty()).await;
        let second = futures_of(group, &[2]);
        let released = async {
            until(|| group.queue.capacity() < group.queue.max_capacity()).await;
            world.stop.cancel();
            world.may_write.add_permits(10);
        };
        tokio::join!(second, released).0
    };
    let (first, second) = tokio::join!(first, stopped);
    assert_eq!([first, second], [[Ok(2)], [Ok(4)]]);
    world.running.await.expect("it ends");
    assert!(matches!(group.call(3).await, Err(StoreError::Stopping)));
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_full_queue_refuses_who_would_not_wait() {
    let world = world(Vec::new());
    let mut waiting = tokio::task::JoinSet::new();
    // A group of them is being written, the others wait.
    let many = WAITING + Doubling::MAX_WEIGHT + 1;
    for n in 0..many as u32 {
        let group = world.group.clone();
        waiting.spawn(async move { group.call(n % 10).await.map(drop) });
    }
    until(|| world.group.queue.capacity() == 0).await;
    assert!(matches!(world.group.call_unless_busy(1).await, Err(StoreError::Busy)));
    world.may_write.add_permits(many);
    assert!(waiting.join_all().await.into_iter().all(|answer| answer.is_ok()));
    assert!(matches!(world.group.call_unless_busy(1).await, Ok(2)));
}

/// As [`Doubling`], two groups at once.
struct DoublingByTwo(Doubling);

impl Operation for DoublingByTwo {
    const NAME: &'static str = "doubling";
    type Call = u32;
    type Answer = u32;
    const MAX_WEIGHT: usize = 4;
    const WRITERS: usize = 2;

    fn weight(_: &u32) -> usize {
        1
    }

    async fn write(&self, calls: &[u32]) -> Result<Vec<u32>, StoreError> {
        self.0.write(calls).await
    }
}

#[tokio::test]
async fn two_groups_are_written_at_once_where_that_is_meant_and_the_third_waits_and_grows() {
    let (groups, may_write) = (Arc::new(Mutex::new(Vec::<Vec<u32>>::new())), Arc::new(Semaphore::new(0)));
    let doubling = Doubling { groups: groups.clone(), may_write: may_write.clone(), trouble: Arc::default() };
    let stop = CancellationToken::new();
    let (group, run) = Group::new(DoublingByTwo(doubling), stop.clone());
    let begun = || groups.lock().expect("not poisoned").len();
    let calls = async {
        let first = group.call(1);
        let others = async {
            until(|| begun() == 1).await;
            let second = group.call(2);
            let rest = async {
                until(|| begun() == 2).await;
                let rest = futures::future::join_all([3, 4, 5].map(|n| group.call(n)));
                let release = async {
                    until(|| group.queue.capacity() == group.queue.max_capacity() - 3).await;
                    may_write.add_permits(10);
                };
                tokio::join!(rest, release).0
            };
            tokio::join!(second, rest)
        };
        let (first, (second, rest)) = tokio::join!(first, others);
        stop.cancel();
        [first, second].into_iter().chain(rest).map(|answer| answer.expect("written")).collect::<Vec<_>>()
    };
    let (answers, ()) = tokio::join!(calls, run);
    assert_eq!(answers, [2, 4, 6, 8, 10]);
    assert_eq!(*groups.lock().expect("not poisoned"), [vec![1], vec![2], vec![3, 4, 5]]);
}
