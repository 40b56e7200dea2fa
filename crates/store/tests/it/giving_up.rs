//! Callers that give up: a viewer hangs up, a node's connection breaks. Their futures are dropped wherever they stand.

use crate::world::{World, new_task};
use domain::principal::Scope;
use serde_json::json;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// On a connection that was given back with its transaction open, the next write would be told to be done and then be undone.
#[tokio::test]
async fn a_caller_that_gives_up_at_any_point_leaves_no_transaction_open() {
    let world = World::start().await;
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in transaction%'";
    for round in 0..40 {
        let tasks = [new_task(json!({}))];
        let mut call = Box::pin(world.store.submit_tasks(&tasks));
        // Further each time, so that every await is given up at once.
        for _ in 0..=round / 4 {
            if futures::poll!(&mut call).is_ready() {
                break;
            }
            sleep(Duration::from_micros(300)).await;
        }
        drop(call);
        let deadline = Instant::now() + Duration::from_secs(2);
        while world.count(open).await > 0 {
            assert!(Instant::now() < deadline, "a transaction is still open 2 s after round {round}");
            sleep(Duration::from_millis(20)).await;
        }
    }
    let task = world.submit(json!({})).await;
    assert!(world.store.get_task(Scope::All, task).await.expect("read").is_some());
}
