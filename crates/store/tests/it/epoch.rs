//! The database is restored from a backup, and nobody says so.

use crate::world::{Node, World, connect, hello};
use domain::{
    attempt::AttemptState,
    ids::{AttemptId, Fence, Held, TaskId},
    node::NodeMetrics,
    reconcile::HeldAttempt,
    task::TaskState,
};
use serde_json::json;
use store::{DatabaseConfig, OpenSession, Opened, Store};
use test_kit::database::TestDatabase;

const EPOCH: &str = "SELECT epoch::bigint FROM cluster";

async fn connected(database: TestDatabase) -> World {
    World { store: connect(&database).await, database }
}

async fn says(store: &Store, node: Node, held: Held, task: TaskId) -> Opened {
    let attempts = vec![HeldAttempt { task: Some(task), number: 1, ..HeldAttempt::new(held, AttemptState::Running) }];
    store.open_session(&OpenSession { attempts, ..hello(node.id, node.instance, &[]) }).await.expect("opened")
}

/// As whole files that were put back look: the same database as before.
async fn looks_as_before(database: &TestDatabase) {
    let note = "UPDATE cluster SET identity = concat_ws('.', (SELECT system_identifier FROM pg_control_system()),
                  left(pg_walfile_name(pg_current_wal_lsn()), 8), (SELECT oid FROM pg_database WHERE datname = current_database()), tableoid)";
    database.execute(note).await;
}

#[tokio::test]
async fn another_database_with_the_same_rows_begins_one_new_epoch_whoever_comes_first() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let first = world.place(task, node).await;
    assert_eq!(world.count(EPOCH).await, 1, "an installation that was just made begins none");
    drop(connect(&world.database).await);
    assert_eq!(world.count(EPOCH).await, 1, "nor does one that is started again");

    // Its restore, into another database, and all services of it start at once.
    world.store.close().await;
    let copy = world.database.copy().await;
    let services: Vec<Store> = futures::future::join_all((0..4).map(|_| connect(&copy))).await;
    let epoch = copy.number(EPOCH).await;
    assert!(epoch > 1);
    for store in &services {
        store.ping().await.expect("works");
    }
    let world = connected(copy).await;
    assert_eq!(world.count(EPOCH).await, epoch, "one restore, one epoch");

    // Nothing is placed before the node is back; what it does not have any more is leased with a fence of the new epoch.
    assert!(world.heads(64).await.is_empty());
    let Opened::Session { key: session, .. } =
        world.store.open_session(&hello(node.id, node.instance, &[])).await.expect("opened")
    else {
        panic!("refused")
    };
    let again = world.place(task, Node { session, ..node }).await;
    assert!(again.fence > first.fence && i64::from(again.fence.epoch().0) == epoch, "{again:?} after {first:?}");
}

#[tokio::test]
async fn sessions_and_leaders_of_before_count_for_nothing_when_services_run_on() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let leader = world.leads(store::LeaderRole::Scheduler).await;
    // As if another database had come in the place of this one: only connections that are made from now on can see it.
    world.database.execute("UPDATE cluster SET identity = 'another'").await;
    drop(connect(&world.database).await);
    let placed = world.store.commit_placements(&leader, &[crate::world::placement(task, node)]).await;
    assert!(placed.is_err(), "a leader of before places nothing");
    let beats = world.store.heartbeat(&[(node.session, NodeMetrics::default())]).await.expect("answered");
    assert!(beats.is_empty(), "its session is over, so the node says hello again");
}

#[tokio::test]
async fn what_a_node_still_has_shows_that_files_were_put_back_and_then_goes_on() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    world.store.close().await;
    let snapshot = world.database.copy().await;
    let world = World { store: connect(&world.database).await, ..world };
    let held = world.start_on(task, node).await;
    drop(world);

    looks_as_before(&snapshot).await;
    let world = connected(snapshot).await;
    assert_eq!(world.count(EPOCH).await, 1);
    assert_eq!(says(&world.store, node, held, task).await, Opened::Forgotten);
    assert!(world.count(EPOCH).await > 1);
    let Opened::Session { adopted, stop, .. } = says(&world.store, node, held, task).await else { panic!("refused") };
    assert_eq!((adopted, stop), (vec![held], vec![]));
    assert_eq!((world.held(task).await, world.state(task).await), (held, TaskState::Running));
}

#[tokio::test]
async fn an_epoch_that_no_clock_can_have_given_is_not_believed() {
    let world = World::start().await;
    let node = world.node("n").await;
    let task = world.submit(json!({})).await;
    let made_up =
        Held { attempt: AttemptId::from_uuid(uuid::Uuid::now_v7()), fence: Fence::from_i64(((1 << 21) - 2) << 32) };
    assert!(matches!(says(&world.store, node, made_up, task).await, Opened::Session { .. }));
    assert_eq!(world.count(EPOCH).await, 1);
}

#[tokio::test]
async fn a_server_that_does_not_say_which_one_it_is_is_used_all_the_same() {
    let database = TestDatabase::create().await;
    let role = format!("plain_{}", uuid::Uuid::new_v4().simple());
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {role};
             REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC"
        ))
        .await;
    let url = database.url().replacen("unidesk@", &format!("{role}@"), 1);
    let config = DatabaseConfig { url, max_connections: 2, shared: false };
    let store = Store::connect_unchecked(&config).await.expect("connected");
    assert!(store.ping().await.is_ok());
    assert_eq!(database.number("SELECT count(identity) FROM cluster").await, 0);
    // With the rights of a plain owner it says so.
    database.execute("GRANT EXECUTE ON FUNCTION pg_control_system() TO PUBLIC").await;
    Store::connect_unchecked(&config).await.expect("connected").close().await;
    assert_eq!(database.number("SELECT count(identity) FROM cluster").await, 1);
    store.close().await;
    database.execute(&format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}
