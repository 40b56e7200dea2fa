//! Lists, cancels, retries, the cluster at a glance.

use crate::world::{World, exited, facts, id_of, json_of, ls, problem, word};
use domain::attempt::Report;
use reqwest::StatusCode;
use serde_json::{Value, json};

fn names(page: &Value) -> Vec<String> {
    page["tasks"]
        .as_array()
        .expect("a list")
        .iter()
        .map(|task| task["name"].as_str().expect("a name").to_owned())
        .collect()
}

#[tokio::test]
async fn pages_follow_one_another_live_ones_first() {
    let world = World::start().await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(world.submit(&json!({"name": format!("t{n}"), "command": ["ls"]})).await);
    }
    for id in &ids[3..] {
        assert_eq!(world.post(&format!("/tasks/{id}/cancel"), &json!({})).await.status(), StatusCode::OK);
    }
    let (mut seen, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let more = cursor.map_or_else(String::new, |cursor| format!("&cursor={cursor}"));
        let page = json_of(world.get(&format!("/tasks?limit=2{more}")).await).await;
        assert_eq!((&page["found"], &page["live"]), (&json!(5), &json!(3)));
        seen.extend(names(&page));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = Some(next.to_owned()),
            None => break,
        }
    }
    assert_eq!(seen, ["t2", "t1", "t0", "t4", "t3"]);
    world.stop().await;
}

#[tokio::test]
async fn filters_find_what_they_name() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let one = world.submit(&json!({"name": "sweep-1", "command": ["ls"], "metadata": {"paper": "icml"}})).await;
    world.submit(&json!({"name": "sweep_2", "command": ["ls"]})).await;
    world.submit(&json!({"name": "other", "command": ["ls"]})).await;
    world.start_on(one, &node).await;
    let found = async |query: &str| names(&json_of(world.get(&format!("/tasks?{query}")).await).await);
    assert_eq!(found("state=running").await, ["sweep-1"]);
    assert_eq!(found("state=pending,running&name=sweep*").await, ["sweep_2", "sweep-1"]);
    assert_eq!(found("name=sweep_*").await, ["sweep_2"], "an underscore is itself");
    assert_eq!(found("name=sweep").await, Vec::<String>::new());
    assert_eq!(found("label=paper%3Dicml").await, ["sweep-1"]);
    assert_eq!(found("node=lab-3").await, ["sweep-1"]);
    assert_eq!(found(&format!("id_suffix={}", one.short())).await, ["sweep-1"]);
    assert_eq!(found("project=default").await.len(), 3);
    assert_eq!(found("project=none").await.len(), 0);
    world.stop().await;
}

#[tokio::test]
async fn a_waiting_task_is_cancelled_at_once_and_a_running_one_by_its_node() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let waiting = world.submit(&ls()).await;
    let answer = world.post(&format!("/tasks/{waiting}/cancel"), &json!({})).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let task = json_of(answer).await;
    assert_eq!((&task["state"], &task["outcome"]), (&json!("cancelled"), &json!("cancelled")));

    let running = world.submit(&ls()).await;
    let held = world.start_on(running, &node).await;
    for _ in 0..2 {
        let answer = world.post(&format!("/tasks/{running}/cancel"), &json!({})).await;
        assert_eq!(answer.status(), StatusCode::ACCEPTED, "asking twice is asking once");
        let task = json_of(answer).await;
        assert_eq!((&task["state"], &task["cancel_requested"]), (&json!("running"), &json!(true)));
    }
    // It ended well just now: too late.
    world.end(&node, held, exited(0), "", 0).await;
    let task = json_of(world.get(&format!("/tasks/{running}")).await).await;
    assert_eq!((&task["state"], &task["outcome"]), (&json!("cancelled"), &json!("cancelled")));
    world.stop().await;
}

#[tokio::test]
async fn an_ended_task_runs_once_more_under_its_own_id() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[])).await;
    let task = world.submit(&ls()).await;
    let held = world.start_on(task, &node).await;
    world.end(&node, held, exited(3), "exit 3", 0).await;
    let failed = json_of(world.get(&format!("/tasks/{task}")).await).await;
    assert_eq!(
        (&failed["state"], &failed["outcome"], &failed["exit_code"]),
        (&json!("failed"), &json!("exit_nonzero"), &json!(3))
    );
    assert_eq!((&failed["node"], &failed["duration_ms"]), (&json!("lab-3"), &json!(12_400)));
    let again = json_of(world.post(&format!("/tasks/{task}/retry"), &json!({})).await).await;
    assert_eq!((id_of(&again), &again["state"]), (task, &json!("pending")));
    assert!(again["outcome"].is_null() && again["exit_code"].is_null());
    let held = world.start_on(task, &node).await;
    world.end(&node, held, exited(0), "", 0).await;
    let done = json_of(world.get(&format!("/tasks/{task}")).await).await;
    assert_eq!((&done["outcome"], &done["attempt"]), (&json!("succeeded"), &json!(2)));
    assert_eq!(done["attempts"].as_array().map(Vec::len), Some(2));
    let refused = problem(world.post(&format!("/tasks/{task}/cancel"), &json!({})).await).await;
    assert_eq!((word(&refused), &refused["state"]), ("already-ended", &json!("succeeded")));
    world.stop().await;
}

#[tokio::test]
async fn the_cluster_is_counted() {
    let world = World::start().await;
    let node = world.node("lab-3", facts(4, 8, &[24])).await;
    let (running, _) = (world.submit(&ls()).await, world.submit(&ls()).await);
    let held = world.place(running, &node).await;
    world.report(&node, held, Report::Accepted).await;
    let status = json_of(world.get("/cluster/status").await).await;
    assert_eq!((&status["tasks"]["pending"], &status["tasks"]["assigned"]), (&json!(1), &json!(1)));
    assert_eq!(status["nodes"], json!({"connected": 1, "disconnected": 0, "offline": 0}));
    assert_eq!((&status["cpu_millis_total"], &status["cpu_millis_reserved"]), (&json!(4_000), &json!(1_000)));
    assert_eq!((&status["gpus_total"], &status["gpus_reserved"]), (&json!(1), &json!(0)));
    assert!(status.get("alarm").is_none());
    world
        .database
        .execute("UPDATE sweep SET alarm_silent = 12, alarm_of = 15, alarm_until = date_trunc('second', now()) + interval '90 seconds'")
        .await;
    let alarm = json_of(world.get("/cluster/status").await).await["alarm"].take();
    assert_eq!((&alarm["silent_nodes"], &alarm["of_nodes"]), (&json!(12), &json!(15)));
    assert!(alarm["nothing_offline_before"].as_str().is_some_and(|at| at.ends_with('Z')), "{alarm}");
    world.stop().await;
}
