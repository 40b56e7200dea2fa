//! What one process tells another.

use crate::world::{World, keyed, placement};
use std::time::Duration;
use store::{DatabaseConfig, LeaderRole, Store, Submitted, Subscription, Topic};
use tokio_util::sync::CancellationToken;

async fn process(world: &World) -> Store {
    let config = DatabaseConfig { url: world.database.url().to_owned(), max_connections: 4, shared: true };
    Store::connect_unchecked(&config).await.expect("connected")
}

async fn next(heard: &mut Subscription) -> Topic {
    tokio::time::timeout(Duration::from_secs(20), heard.recv()).await.expect("it is told").expect("somebody tells")
}

#[tokio::test]
async fn what_is_done_for_a_lone_task_is_told_to_other_processes_with_the_commit() {
    let world = World::start().await;
    let node = world.node("n").await;
    let leader = world.leads(LeaderRole::Scheduler).await;
    let (teller, listener) = (process(&world).await, process(&world).await);
    let (mut heard, mut at_home) = (listener.wakeups().subscribe(), teller.wakeups().subscribe());
    let stop = CancellationToken::new();
    // The teller's own bridge does not run: what is heard travelled with what was committed.
    let bridge = listener.wakeups().run_bridge(stop.clone());
    let story = async {
        assert_eq!(next(&mut heard).await, Topic::Queue, "what every listener begins with");
        let answers = teller.submit_tasks(&[keyed("k", 1)]).await.expect("accepted");
        let [Submitted::Accepted { id: task }] = answers[..] else { panic!("{answers:?}") };
        assert_eq!((next(&mut heard).await, next(&mut at_home).await), (Topic::Queue, Topic::Queue));
        // Where nothing was made, nothing is told: the next that is heard is the lease.
        let answers = teller.submit_tasks(&[keyed("k", 1)]).await.expect("answered");
        assert_eq!(answers, [Submitted::Replayed { id: task }]);
        assert_eq!(teller.lease_tasks(&leader, &[placement(task, node)]).await.expect("committed").len(), 1);
        for heard in [&mut heard, &mut at_home] {
            assert_eq!([next(heard).await, next(heard).await], [Topic::Leased(node.id), Topic::Task(task)]);
        }
        stop.cancel();
    };
    tokio::join!(bridge, story);
}
