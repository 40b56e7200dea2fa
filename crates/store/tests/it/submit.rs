//! Submission and its keys.

use crate::world::{World, connect, keyed, new_task};
use domain::{ids::ProjectId, task::TaskState};
use serde_json::json;
use std::collections::BTreeSet;
use store::{IdempotencyKey, NewTask, Submitted};

#[tokio::test]
async fn each_of_a_batch_has_its_own_answer() {
    let world = World::start().await;
    let batch = [keyed("k", 1), new_task(json!({})), keyed("k", 1), keyed("k", 2), keyed("other", 1)];
    let answers = world.store.submit_tasks(&batch).await.expect("accepted");
    let [
        Submitted::Accepted { id: first },
        Submitted::Accepted { id: plain },
        Submitted::Replayed { id: again },
        Submitted::KeyReused { first: of },
        Submitted::Accepted { id: other },
    ] = answers[..]
    else {
        panic!("{answers:?}")
    };
    assert!(first == again && first == of);
    assert_eq!(BTreeSet::from([first, plain, other]).len(), 3);
    assert_eq!(world.count("SELECT count(*) FROM tasks").await, 3);
    // Later, the same again.
    let answers = world.store.submit_tasks(&batch[3..]).await.expect("answered");
    assert_eq!(answers, [Submitted::KeyReused { first }, Submitted::Replayed { id: other }]);
    assert_eq!(world.state(first).await, TaskState::Pending);
    assert!(world.store.submit_tasks(&[]).await.expect("nothing to do").is_empty());
}

#[tokio::test]
async fn a_key_of_another_project_is_another_key() {
    let world = World::start().await;
    world
        .database
        .execute("INSERT INTO projects (id, slug) VALUES ('00000000-0000-0000-0000-000000000002', 'vision')")
        .await;
    let vision = world.store.project_by_slug("vision").await.expect("read").expect("there");
    assert_eq!(world.store.project_by_slug("vosion").await.expect("read"), None);
    assert_eq!(vision, ProjectId::from_uuid(uuid::Uuid::from_u128(2)));
    let theirs = NewTask { project: vision, ..keyed("k", 2) };
    let answers = world.store.submit_tasks(&[keyed("k", 1), theirs]).await.expect("accepted");
    assert!(matches!(answers[..], [Submitted::Accepted { .. }, Submitted::Accepted { .. }]), "{answers:?}");
}

#[tokio::test]
async fn of_many_that_submit_with_one_key_at_once_one_makes_the_task() {
    let world = World::start().await;
    let stores = futures::future::join_all((0..4).map(|_| connect(&world.database))).await;
    for round in 0..20 {
        let (key, twin) = (format!("k{round}"), format!("l{round}"));
        // Two keys in either order: nobody may wait in a circle.
        let batches = [[keyed(&key, 1), keyed(&twin, 1)], [keyed(&twin, 1), keyed(&key, 1)]];
        let calls = stores.iter().enumerate().map(|(n, store)| store.submit_tasks(&batches[n % 2]));
        let answers: Vec<Submitted> =
            futures::future::join_all(calls).await.into_iter().flat_map(|answer| answer.expect("answered")).collect();
        let accepted = answers.iter().filter(|answer| matches!(answer, Submitted::Accepted { .. })).count();
        let replayed = answers.iter().filter(|answer| matches!(answer, Submitted::Replayed { .. })).count();
        assert_eq!((accepted, replayed), (2, 6), "{answers:?}");
    }
    assert_eq!(world.count("SELECT count(*) FROM tasks").await, 40);
}

#[tokio::test]
async fn old_keys_are_forgotten_and_young_ones_are_not() {
    let world = World::start().await;
    world.store.submit_tasks(&[keyed("old", 1), keyed("young", 1)]).await.expect("accepted");
    world
        .database
        .execute("UPDATE idempotency_keys SET created_at = now() - interval '8 days' WHERE key = 'old'")
        .await;
    assert_eq!(world.store.expire_idempotency_keys(chrono::TimeDelta::days(7)).await.expect("done"), 1);
    let answers = world.store.submit_tasks(&[keyed("old", 2), keyed("young", 1)]).await.expect("answered");
    assert!(matches!(answers[..], [Submitted::Accepted { .. }, Submitted::Replayed { .. }]), "{answers:?}");
}

/// The task at this place of the batch "sweep".
fn placed(place: u32, hash: u8) -> NewTask {
    let key = IdempotencyKey { key: "sweep".into(), place: Some(place), request_hash: [hash; 32] };
    NewTask { idempotency: Some(key), ..new_task(json!({})) }
}

#[tokio::test]
async fn the_key_of_a_batch_stands_for_each_of_its_tasks_by_its_place() {
    let world = World::start().await;
    // Place 1 was refused, and is no task yet. A key of the same text that is no batch's is another.
    let answers = world.store.submit_tasks(&[placed(0, 1), keyed("sweep", 9), placed(2, 3)]).await.expect("accepted");
    let [Submitted::Accepted { id: at_0 }, Submitted::Accepted { id: own }, Submitted::Accepted { id: at_2 }] =
        answers[..]
    else {
        panic!("{answers:?}")
    };
    assert_eq!(world.count("SELECT count(*) FROM idempotency_batches").await, 1);
    let answers = world
        .store
        .submit_tasks(&[placed(0, 1), placed(1, 2), placed(2, 4), keyed("sweep", 9)])
        .await
        .expect("answered");
    let [_, Submitted::Accepted { id: at_1 }, ..] = answers[..] else { panic!("{answers:?}") };
    assert_eq!(answers[0], Submitted::Replayed { id: at_0 });
    assert_eq!(answers[2..], [Submitted::KeyReused { first: at_2 }, Submitted::Replayed { id: own }]);
    // What came later belongs to it from then on.
    let answers = world.store.submit_tasks(&[placed(0, 1), placed(1, 2), placed(2, 3)]).await.expect("answered");
    let replayed = |id| Submitted::Replayed { id };
    assert_eq!(answers, [replayed(at_0), replayed(at_1), replayed(at_2)]);
    assert_eq!(world.count("SELECT count(*) FROM tasks").await, 4);
    world.database.execute("UPDATE idempotency_batches SET created_at = now() - interval '8 days'").await;
    assert_eq!(world.store.expire_idempotency_keys(chrono::TimeDelta::days(7)).await.expect("done"), 1);
}

#[tokio::test]
async fn of_many_that_send_one_batch_at_once_one_makes_the_tasks() {
    let world = World::start().await;
    let stores = futures::future::join_all((0..4).map(|_| connect(&world.database))).await;
    let batch: Vec<NewTask> = (0..50).map(|place| placed(place, 1)).collect();
    let answers = futures::future::join_all(stores.iter().map(|store| store.submit_tasks(&batch))).await;
    let answers: Vec<Vec<Submitted>> = answers.into_iter().map(|answers| answers.expect("answered")).collect();
    let id_of = |answer: &Submitted| match answer {
        Submitted::Accepted { id } | Submitted::Replayed { id } => *id,
        Submitted::KeyReused { .. } | Submitted::InputGone => panic!("{answer:?}"),
    };
    let first: Vec<_> = answers[0].iter().map(id_of).collect();
    assert!(answers.iter().all(|answers| answers.iter().map(id_of).eq(first.iter().copied())));
    assert_eq!(world.count("SELECT count(*) FROM tasks").await, 50);
}
