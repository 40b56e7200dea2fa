//! What a question costs the database does not grow with what is in it: every route that reads is asked before a large database, and
//! PostgreSQL says how many buffers each statement read.
//!
//! `UNIDESK_TEST_TASKS=1000000` makes it as large as the promise; without it a fifth of that, where a statement that grows shows too.

use crate::world::{World, exited, facts, ls};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};
use test_kit::statements::Statements;

/// No statement of the API reads more.
const MOST_BUFFERS: i64 = 500;
/// After five calls PostgreSQL may plan for any argument, instead of for the one at hand.
const CALLS: usize = 7;

struct Large {
    world: World,
    statements: Statements,
    tasks: u64,
    waiting: u64,
    running: u64,
    nodes: u64,
    /// Buffers of the dearest statement of the last question.
    dearest: i64,
    /// Statements of the last question, each time that it was asked.
    calls: i64,
    too_dear: Vec<String>,
}

impl Large {
    async fn start() -> Self {
        let tasks: u64 = std::env::var("UNIDESK_TEST_TASKS").ok().and_then(|n| n.parse().ok()).unwrap_or(200_000);
        let (waiting, running, nodes) = (tasks / 2, tasks / 20, tasks / 100);
        let world = World::start().await;
        let node = world.node("first", facts(64, 256, &[24, 24])).await;
        let task = world.submit(&ls()).await;
        let held = world.start_on(task, &node).await;
        world.end(&node, held, exited(0), "", 0).await;
        let seed = include_str!("large.sql")
            .replace(":tasks", &tasks.to_string())
            .replace(":waiting", &waiting.to_string())
            .replace(":running", &running.to_string())
            .replace(":nodes", &nodes.to_string());
        world.database.execute(&seed).await;
        // What autovacuum does by and by.
        world.database.execute("VACUUM ANALYZE").await;
        let statements = Statements::of(&world.database).await;
        Self { world, statements, tasks, waiting, running, nodes, dearest: 0, calls: 0, too_dear: Vec::new() }
    }

    /// Asks several times, and notes what is too dear.
    async fn ask(&mut self, path: &str) -> Value {
        self.ask_times(CALLS, path).await
    }

    async fn ask_times(&mut self, times: usize, path: &str) -> Value {
        self.statements.forget().await;
        let mut last = Value::Null;
        for _ in 0..times {
            let answer = self.world.request(Method::GET, path, &self.world.admin).send().await.expect("an answer");
            assert_eq!(answer.status(), StatusCode::OK, "{path}");
            let text = answer.text().await.expect("a body");
            last = serde_json::from_str(&text).unwrap_or(Value::String(text));
        }
        let costs = self.statements.costs().await;
        assert!(!costs.is_empty(), "nothing was counted for {path}");
        self.dearest = costs[0].buffers;
        self.calls = costs.iter().map(|it| it.calls).sum::<i64>() / times as i64;
        if std::env::var_os("UNIDESK_TEST_TASKS").is_some() {
            eprintln!("{path}: {} buffers, {} statements a call", self.dearest, self.calls);
        }
        for cost in costs.into_iter().filter(|cost| cost.buffers > MOST_BUFFERS) {
            let text: String = cost.text.split_whitespace().take(40).collect::<Vec<_>>().join(" ");
            self.too_dear.push(format!("{path}: {} buffers a call: {text}", cost.buffers));
        }
        last
    }
}

fn ids(page: &Value) -> Vec<&str> {
    page["tasks"].as_array().expect("tasks").iter().map(|task| task["id"].as_str().expect("an id")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_statement_reads_more_the_more_there_is() {
    let mut large = Large::start().await;
    let (all, waiting, running) = (large.tasks + 1, large.waiting, large.running);

    // Lists: the first page, all pages of a while, and one in the middle of nowhere.
    let first = large.ask("/tasks").await;
    assert_eq!((first["found"].as_u64(), first["live"].as_u64()), (Some(all), Some(waiting + running)));
    assert_eq!(ids(&first).len(), 50);
    let second = large.ask(&format!("/tasks?cursor={}", first["next_cursor"].as_str().expect("more"))).await;
    assert!(ids(&first).last() > ids(&second).first(), "newest first");
    assert_eq!(ids(&large.ask("/tasks?limit=1000").await).len(), 1_000);
    let running_page = large.ask("/tasks?state=running").await;
    assert_eq!((running_page["found"].as_u64(), ids(&running_page).len()), (Some(running), 50));
    let waiting_page = large.ask("/tasks?state=pending&limit=100").await;
    assert_eq!((waiting_page["found"].as_u64(), ids(&waiting_page).len()), (Some(waiting), 100));

    // What is rare is found, on whatever page.
    let mut found = Vec::new();
    let mut path = "/tasks?state=cancelled&limit=1000".to_owned();
    loop {
        let page = large.ask_times(1, &path).await;
        let total = page["found"].as_u64().expect("a count");
        found.extend(ids(&page).into_iter().map(str::to_owned));
        match page["next_cursor"].as_str() {
            Some(cursor) => path = format!("/tasks?state=cancelled&limit=1000&cursor={cursor}"),
            None => break assert_eq!(found.len() as u64, total),
        }
    }
    assert_eq!(found.iter().collect::<BTreeSet<_>>().len(), found.len(), "none twice");
    assert!(found.is_sorted_by(|a, b| a > b), "newest first");

    let rare = large.ask("/tasks?name=rare").await;
    assert_eq!(rare["found"].as_u64(), Some(large.tasks / 5_000));
    assert_eq!(large.ask("/tasks?name=rar*").await["found"], rare["found"]);
    assert_eq!(large.ask("/tasks?label=team%3Drare").await["found"].as_u64(), Some(large.tasks / 5_000));
    for common in ["name=nightly", "name=sweep*", "label=team%3Dvision", "name=nightly&state=failed", "project=team-3"]
    {
        let page = large.ask(&format!("/tasks?{common}")).await;
        assert!(ids(&page).len() == 50 || !page["next_cursor"].is_null(), "{common}: {} found", ids(&page).len());
        assert!(page["found"].as_u64() >= Some(ids(&page).len() as u64), "{common}");
    }
    // Of long ago, behind all that waits: half of the database.
    let old = large.ask("/tasks?name=archive*").await;
    assert_eq!(ids(&old).len(), 50);
    assert!(large.calls <= 20, "{} statements", large.calls);
    for nothing in ["name=nobody", "label=team%3Dnobody", "project=nobody", "node=nobody", "state=preparing"] {
        let page = large.ask(&format!("/tasks?{nothing}")).await;
        assert_eq!((page["found"].as_u64(), page["next_cursor"].is_null()), (Some(0), true), "{nothing}");
    }
    // Nothing but the counts was asked: a page or two, and no processes that help to read them, each with a hundred of its own.
    large.ask("/tasks?state=preparing").await;
    assert!(large.dearest < 40, "{} buffers for some counts", large.dearest);
    large.ask("/tasks?project=team-3&state=failed").await;
    let node = running_page["tasks"][0]["node"].as_str().expect("it runs").to_owned();
    let on_node = large.ask(&format!("/tasks?node={node}&state=running")).await;
    assert!(ids(&on_node).contains(&ids(&running_page)[0]));
    large.ask(&format!("/tasks?node={node}")).await;

    // One task.
    let mine = ids(&waiting_page)[0].to_owned();
    let ending = &mine[mine.len() - 8..];
    assert_eq!(ids(&large.ask(&format!("/tasks?id_suffix={ending}")).await), [&mine]);
    let ended = found[0].clone();
    let place =
        "SELECT task_id FROM task_state WHERE queued ORDER BY priority DESC, queued_at, task_id OFFSET 600 LIMIT 1";
    let in_front = large.statements.value(place).await;
    for task in [&mine, &in_front, &ended, ids(&running_page)[0]] {
        large.ask(&format!("/tasks/{task}")).await;
        large.ask(&format!("/tasks/{task}/logs")).await;
        large.ask(&format!("/tasks/{task}/why")).await;
    }
    large.ask(&format!("/tasks/{ended}/events")).await;
    let why = large.ask(&format!("/tasks/{mine}/why")).await;
    assert_eq!((&why["waiting"]["before"], &why["waiting"]["more_before"]), (&json!(1_000), &json!(true)));
    assert_eq!(why["waiting"]["nodes"].as_u64(), Some(large.nodes + 1));
    let verdicts = why["waiting"]["verdicts"].as_array().expect("verdicts");
    assert!(verdicts.len() <= 5, "each reason once: {verdicts:?}");
    let why = large.ask(&format!("/tasks/{in_front}/why")).await;
    assert_eq!((&why["waiting"]["before"], &why["waiting"]["more_before"]), (&json!(600), &Value::Null));

    // The cluster and its nodes, which beat although nobody plays them. What is known of so many may be some seconds old.
    large.world.database.execute("UPDATE node_live SET beat_at = now()").await;
    let deadline = Instant::now() + Duration::from_secs(30);
    let cluster = loop {
        let cluster = large.ask("/cluster/status").await;
        if cluster["nodes"]["connected"].as_u64() == Some(large.nodes + 1) {
            break cluster;
        }
        assert!(Instant::now() < deadline, "{cluster}");
    };
    large.ask("/cluster/checks").await;
    assert_eq!(cluster["tasks"]["pending"].as_u64(), Some(waiting));
    assert_eq!(cluster["tasks"]["running"].as_u64(), Some(running));
    assert_eq!(cluster["cpu_millis_reserved"].as_u64(), Some(1_000 * running));
    let nodes = large.ask("/nodes").await;
    assert_eq!(nodes["nodes"].as_array().map(Vec::len), Some((large.nodes as usize + 1).min(1_000)));
    let page = large.ask("/nodes?limit=50").await;
    let more = large.ask(&format!("/nodes?limit=50&cursor={}", page["next_cursor"].as_str().expect("more"))).await;
    assert_eq!(
        (&page["nodes"][49]["name"], &more["nodes"][0]["name"]),
        (&nodes["nodes"][49]["name"], &nodes["nodes"][50]["name"])
    );
    let id = page["nodes"][7]["id"].as_str().expect("an id").to_owned();
    for name in [node.as_str(), &id, &id[id.len() - 8..]] {
        large.ask(&format!("/nodes/{name}")).await;
    }
    for other in ["/node-tokens", "/api-keys", "/events?follow=false"] {
        large.ask(other).await;
    }
    // Who begins at the beginning: page after page, each costs what it has.
    let all = large.ask_times(1, "/events?follow=false&from=beginning").await;
    let events = all.as_str().map_or(0, |text| text.matches("\nevent: submitted").count());
    assert!((40_000..40_100).contains(&events), "{events} events");
    assert!(large.too_dear.is_empty(), "{}", large.too_dear.join("\n"));
    large.world.stop().await;
}
