//! How many tasks are in which state, and lists that are read page by page.

use crate::world::{World, exited, new_task, origin, other_project, succeeded};
use domain::{
    ids::{DEFAULT_PROJECT, TaskId},
    principal::Scope,
    task::TaskState,
};
use serde_json::json;
use std::cmp::Reverse;
use store::{Submitted, TaskFilter};

const ALL: Scope = Scope::All;

/// As the store counts, checked against the rows.
async fn counted(world: &World) -> Vec<(TaskState, u64)> {
    let counts = world.store.count_tasks(ALL).await.expect("counted");
    for state in TaskState::ALL {
        let rows = world.count(&format!("SELECT count(*) FROM task_state WHERE state = '{state}'")).await;
        let told = counts.iter().find(|(told, _)| *told == state).map_or(0, |(_, count)| *count);
        assert_eq!(told, rows as u64, "{state}");
    }
    counts
}

#[tokio::test]
async fn counts_follow_every_change_and_stay_when_they_are_summed_up() {
    let world = World::start().await;
    let node = world.node("n").await;
    assert_eq!(counted(&world).await, []);
    let (task, other) = (world.submit(json!({})).await, world.submit(json!({})).await);
    assert_eq!(counted(&world).await, [(TaskState::Pending, 2)]);
    let held = world.start_on(task, node).await;
    assert_eq!(counted(&world).await, [(TaskState::Pending, 1), (TaskState::Running, 1)]);
    world.report(node, held, exited(0)).await;
    world.report(node, held, succeeded()).await;
    world.store.cancel_task(ALL, other, &origin()).await.expect("cancelled");
    let ended = [(TaskState::Succeeded, 1), (TaskState::Cancelled, 1)];
    assert_eq!(counted(&world).await, ended);
    assert_eq!(world.store.count_tasks(Scope::Project(DEFAULT_PROJECT)).await.expect("counted"), ended);
    assert_eq!(world.store.count_tasks(other_project()).await.expect("counted"), []);

    // Few changes are left where they are; many are summed up, by one of those who try.
    assert!(!world.store.sum_up_counts().await.expect("looked"));
    assert!(world.count("SELECT count(*) FROM task_count_changes").await > 0);
    let more = "INSERT INTO task_count_changes SELECT id, 'succeeded', change FROM projects, generate_series(1, 200), (VALUES (1), (-1)) v(change)";
    world.database.execute(more).await;
    let (one, two) = tokio::join!(world.store.sum_up_counts(), world.store.sum_up_counts());
    assert_eq!((one.expect("summed up"), two.expect("summed up")), (false, false));
    assert_eq!(world.count("SELECT count(*) FROM task_count_changes").await, 0);
    assert_eq!(counted(&world).await, ended);
    world.store.retry_task(ALL, task, &origin()).await.expect("queued");
    assert_eq!(counted(&world).await, [(TaskState::Pending, 1), (TaskState::Cancelled, 1)]);
}

#[tokio::test]
async fn counters_that_are_wrong_are_put_right_while_tasks_come_and_go() {
    let world = World::start().await;
    let (task, _) = (world.submit(json!({})).await, world.submit(json!({})).await);
    assert_eq!(world.store.repair_counts().await.expect("counted"), 0, "nothing was wrong");
    world.store.cancel_task(ALL, task, &origin()).await.expect("cancelled");
    // One that is too low, one that is there no more, one of what nothing is.
    let damage = "UPDATE task_count_changes SET change = 40 WHERE state = 'pending'; DELETE FROM task_count_changes WHERE state = 'cancelled';
                  INSERT INTO task_counts SELECT id, 'running', 7 FROM projects LIMIT 1";
    world.database.execute(damage).await;
    let coming = async {
        for _ in 0..30 {
            world.submit(json!({})).await;
        }
    };
    let ((), one, two) = tokio::join!(coming, world.store.repair_counts(), world.store.repair_counts());
    // Both may have had their turn, one after the other: what was right is not corrected again.
    let repaired = one.expect("counted") + two.expect("counted");
    assert_eq!(repaired, 3);
    assert_eq!(counted(&world).await, [(TaskState::Pending, 31), (TaskState::Cancelled, 1)]);
    assert_eq!(world.store.repair_counts().await.expect("counted"), 0);
}

/// All pages of so many, one after another.
async fn pages(world: &World, filter: &TaskFilter, limit: u32) -> Vec<TaskId> {
    let (mut found, mut after) = (Vec::new(), None);
    loop {
        let page = world.store.list_tasks(ALL, filter, after, limit).await.expect("listed");
        assert!(page.tasks.len() <= limit as usize);
        found.extend(page.tasks.iter().map(|task| task.id));
        after = page.next;
        if after.is_none() {
            return found;
        }
    }
}

#[tokio::test]
async fn pages_of_any_size_make_up_the_same_list() {
    let world = World::start().await;
    let (one, two) = (world.node("one").await, world.node("two").await);
    let mut tasks = Vec::new();
    for number in 0..24 {
        tasks.push(
            world.submit(json!({"name": format!("task-{}", number % 5), "metadata": {"third": number % 3}})).await,
        );
    }
    // Old and new ones live, old and new ones ended; of some the node has not yet said that it is free.
    for (number, task) in tasks.iter().enumerate().filter(|(number, _)| number % 2 == 0) {
        let node = if number % 4 == 0 { one } else { two };
        let held = world.start_on(*task, node).await;
        if number % 6 == 0 {
            world.report(node, held, exited(0)).await;
            world.report(node, held, succeeded()).await;
        }
    }
    let is_ended = |number: &usize| number.is_multiple_of(6);
    let listed = |fits: &dyn Fn(usize) -> bool| -> Vec<TaskId> {
        let (ended, live): (Vec<usize>, Vec<usize>) = (0..24).rev().filter(|number| fits(*number)).partition(is_ended);
        live.into_iter().chain(ended).map(|number| tasks[number]).collect()
    };
    let none = TaskFilter::default();
    let filters: [(TaskFilter, Vec<TaskId>); 9] = [
        (none.clone(), listed(&|_| true)),
        (TaskFilter { states: vec![TaskState::Succeeded], ..none.clone() }, listed(&|n| n % 6 == 0)),
        (TaskFilter { states: vec![TaskState::Running], ..none.clone() }, listed(&|n| n % 2 == 0 && n % 6 != 0)),
        (
            TaskFilter { states: vec![TaskState::Pending, TaskState::Succeeded], ..none.clone() },
            listed(&|n| n % 2 == 1 || n % 6 == 0),
        ),
        (TaskFilter { name: Some("task-3".into()), ..none.clone() }, listed(&|n| n % 5 == 3)),
        (TaskFilter { name: Some("task-".into()), name_is_prefix: true, ..none.clone() }, listed(&|_| true)),
        (TaskFilter { name: Some("TASK-".into()), name_is_prefix: true, ..none.clone() }, Vec::new()),
        (TaskFilter { node: Some("one".into()), ..none.clone() }, listed(&|n| n % 4 == 0)),
        (
            TaskFilter { project: Some("default".into()), node: Some("two".into()), ..none.clone() },
            listed(&|n| n % 4 == 2),
        ),
    ];
    for (filter, expected) in &filters {
        let whole = world.store.list_tasks(ALL, filter, None, 1_000).await.expect("listed");
        assert_eq!((whole.found, whole.counts_are_minimum), (expected.len() as u64, false), "{filter:?}");
        let live = whole.tasks.iter().filter(|task| !task.state.is_terminal()).count();
        assert_eq!(whole.live, live as u64, "{filter:?}");
        for limit in [1, 3, 24, 100] {
            assert_eq!(&pages(&world, filter, limit).await, expected, "{limit} of {filter:?}");
        }
    }
}

/// Many tasks at once, each of this name, the oldest first; those whose number `is_ended` have come to their end.
async fn crowd(world: &World, names: &[String], is_ended: impl Fn(usize) -> bool) -> Vec<TaskId> {
    let mut tasks = Vec::new();
    for names in names.chunks(1_000) {
        let news: Vec<_> =
            names.iter().map(|name| new_task(json!({"name": name, "metadata": {"by": "crowd"}}))).collect();
        for answer in world.store.submit_tasks(&news).await.expect("accepted") {
            let Submitted::Accepted { id } = answer else { panic!("{answer:?}") };
            tasks.push(id);
        }
    }
    tasks.sort_unstable();
    let ended: Vec<String> =
        tasks.iter().enumerate().filter(|(number, _)| is_ended(*number)).map(|(_, id)| format!("'{id}'")).collect();
    let end = "UPDATE task_state SET queued = false, state = 'succeeded', ended_at = now() WHERE task_id = ANY (ARRAY[";
    world.database.execute(&format!("{end}{}]::uuid[])", ended.join(","))).await;
    world.database.execute("VACUUM ANALYZE").await;
    tasks
}

#[tokio::test]
async fn a_list_by_name_is_whole_wherever_live_tasks_lie_among_many() {
    let world = World::start().await;
    // By age: live ones far apart, only ended ones, many live ones, the newest ended.
    let is_ended = |number: usize| match number {
        0..2_000 => number % 100 != 5,
        2_000..4_000 => true,
        4_000..5_500 => number.is_multiple_of(7),
        _ => true,
    };
    let name = |number: usize| match number % 3 {
        0 => "train-a".to_owned(),
        1 => format!("train-{number}"),
        _ => format!("other-{}", number % 4),
    };
    let names: Vec<String> = (0..6_000).map(name).collect();
    let tasks = crowd(&world, &names, is_ended).await;
    // Numbers go by age, but what was submitted at one time is in any order: the names are asked for.
    let named: Vec<(uuid::Uuid, String)> = sqlx::query_as("SELECT id, name FROM tasks ORDER BY id")
        .fetch_all(&world.database.pool().await)
        .await
        .expect("read");
    assert_eq!(named.len(), tasks.len());
    let mut listed: Vec<(bool, TaskId, String)> = named
        .into_iter()
        .enumerate()
        .map(|(number, (id, name))| (!is_ended(number), TaskId::from_uuid(id), name))
        .collect();
    listed.sort_unstable_by_key(|(is_live, id, _)| Reverse((*is_live, *id)));
    let of = |fits: &dyn Fn(&str) -> bool| -> Vec<TaskId> {
        listed.iter().filter(|(_, _, name)| fits(name)).map(|(_, id, _)| *id).collect()
    };
    let none = TaskFilter::default();
    for (filter, expected) in [
        (TaskFilter { name: Some("train-a".into()), ..none.clone() }, of(&|name| name == "train-a")),
        (
            TaskFilter { name: Some("train-".into()), name_is_prefix: true, ..none.clone() },
            of(&|name| name.starts_with("train-")),
        ),
        (
            TaskFilter { name: Some("other-".into()), name_is_prefix: true, ..none.clone() },
            of(&|name| name.starts_with("other-")),
        ),
        (TaskFilter { label: Some(("by".into(), "crowd".into())), ..none.clone() }, of(&|_| true)),
    ] {
        for limit in [37, 1_000] {
            let found = pages(&world, &filter, limit).await;
            assert_eq!(found.len(), expected.len(), "{limit} of {filter:?}");
            assert_eq!(found, expected, "{limit} of {filter:?}");
        }
    }
}

#[tokio::test]
async fn a_first_page_by_name_is_full_though_thousands_of_others_wait_before_it() {
    let world = World::start().await;
    let names: Vec<String> =
        (0..8_000).map(|number| if number < 3_000 { "ended" } else { "waiting" }.to_owned()).collect();
    crowd(&world, &names, |number| number < 3_000).await;
    let beginning = TaskFilter { name: Some("end".into()), name_is_prefix: true, ..TaskFilter::default() };
    let page = world.store.list_tasks(ALL, &beginning, None, 50).await.expect("listed");
    assert_eq!(page.tasks.len(), 50);
    assert!(page.next.is_some() && page.tasks.iter().all(|task| task.name == "ended"));
}
