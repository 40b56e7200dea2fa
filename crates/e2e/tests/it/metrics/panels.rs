//! Dashboards and alerts against a platform that works.

use super::{
    documented, files,
    prometheus::{Prometheus, promtool},
    repository,
    watched::Watched,
};
use serde_json::Value;
use std::{collections::BTreeSet, fs, time::Duration};
use tokio::time::Instant;

/// What can't be here, and is only asked whether it can be understood: dashboard, panel, reason.
const ABSENT: [(&str, &str, &str); 7] = [
    ("overview", "Backup", "backups are a service of their own"),
    ("storage", "Backups", "backups are a service of their own"),
    ("nodes", "GPU temperature", "the machine of the test has no GPU"),
    ("node", "GPUs in use", "the machine of the test has no GPU"),
    ("node", "GPU memory", "the machine of the test has no GPU"),
    ("node", "GPU temperature", "the machine of the test has no GPU"),
    ("nodes", "Not connected", "its one node is there"),
];
/// For the load to show itself in rates.
const SHOWN_WITHIN: Duration = Duration::from_secs(180);

struct Query {
    board: String,
    panel: String,
    expression: String,
}

impl Query {
    fn name(&self) -> String {
        format!("{}: {}: {}", self.board, self.panel, self.expression)
    }

    fn is_absent(&self) -> bool {
        ABSENT.iter().any(|(board, panel, _)| *board == self.board && *panel == self.panel)
    }
}

/// Of all dashboards, with their variables filled as Grafana would.
fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for file in files(&repository().join("deploy/grafana/dashboards"), ".json") {
        let board = file.file_stem().expect("a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("a dashboard");
        let json: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{board}: {error}"));
        assert_eq!(json["uid"], format!("unidesk-{board}"), "links lead to dashboards by it");
        for panel in json["panels"].as_array().expect("panels") {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let title = text(&panel["title"]);
            assert!(!text(&panel["description"]).is_empty(), "{board}: {title} has no description");
            assert_eq!(
                panel["datasource"]["uid"], "${datasource}",
                "{board}: {title}: whoever has several chooses one"
            );
            for target in panel["targets"].as_array().expect("queries") {
                let filled =
                    [("$__rate_interval", "30s"), ("$__range", "2m"), ("$node", "local"), ("$project", "default")];
                let expression = filled
                    .iter()
                    .fold(text(&target["expr"]), |expression, (name, value)| expression.replace(name, value));
                assert!(
                    !expression.contains('$'),
                    "{board}: {title} has a variable that is not known here: {expression}"
                );
                queries.push(Query { board: board.clone(), panel: title.clone(), expression });
            }
        }
    }
    queries
}

#[tokio::test(flavor = "multi_thread")]
async fn every_panel_of_every_dashboard_shows_something_of_a_platform_that_works() {
    let all = queries();
    for (board, panel, reason) in ABSENT {
        assert!(
            all.iter().any(|it| it.board == board && it.panel == panel),
            "{board}: {panel} ({reason}) is no panel any more"
        );
    }
    assert!(all.len() > 60, "{} queries", all.len());
    let mut watched = Watched::start().await;
    let prometheus = Prometheus::start(&watched.address()).await;
    let (absent, mut empty): (Vec<Query>, Vec<Query>) = all.into_iter().partition(Query::is_absent);
    for query in &absent {
        prometheus.query(&query.expression).await.unwrap_or_else(|error| panic!("{}: {error}", query.name()));
    }
    let deadline = Instant::now() + SHOWN_WITHIN;
    while !empty.is_empty() {
        let names: Vec<String> = empty.iter().map(Query::name).collect();
        assert!(Instant::now() < deadline, "nothing is shown by {names:#?}");
        watched.work_once().await;
        let mut still = Vec::new();
        for query in empty {
            let values =
                prometheus.query(&query.expression).await.unwrap_or_else(|error| panic!("{}: {error}", query.name()));
            if !values.iter().any(|value| value.is_finite()) {
                still.push(query);
            }
        }
        empty = still;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    // The rules look at the same platform.
    let rules = prometheus.rules().await;
    assert!(rules.len() > 20, "{rules:?}");
    for (name, health, state) in rules {
        assert_eq!(health, "ok", "{name}");
        assert_ne!(state, "firing", "{name}: all is well here");
    }
    watched.stop().await;
}

#[test]
fn every_alert_fires_when_it_should_and_only_then_and_has_its_runbook() {
    let deploy = repository().join("deploy/prometheus");
    let (rules, tests) = (files(&deploy.join("rules"), ".yml"), files(&deploy.join("tests"), ".yml"));
    rules.iter().for_each(|file| promtool(&["check", "rules"], file));
    tests.iter().for_each(|file| promtool(&["test", "rules"], file));
    let read = |files: &[std::path::PathBuf]| {
        files.iter().map(|file| fs::read_to_string(file).expect("read")).collect::<String>()
    };
    let (rules, tests) = (read(&rules), read(&tests));
    let after = |text: &str, key: &str| -> Vec<String> {
        text.lines().filter_map(|line| Some(line.trim().strip_prefix(key)?.trim().to_owned())).collect()
    };
    let alerts = after(&rules, "- alert:");
    assert!(alerts.len() > 10, "{alerts:?}");
    for alert in &alerts {
        assert!(tests.contains(&format!("alertname=\"{alert}\"")), "no test lets {alert} fire");
    }
    let runbooks = after(&rules, "runbook_url:");
    assert_eq!(runbooks.len(), alerts.len(), "each alert has its runbook");
    for runbook in &runbooks {
        let name = runbook.strip_prefix("https://unidesk.dev/runbooks/").expect("a page of ours");
        let page = fs::read_to_string(repository().join(format!("docs/runbooks/{name}.md")));
        let page = page.unwrap_or_else(|error| panic!("{runbook}: {error}"));
        for part in ["## What it means", "## How to look", "## How to mend"] {
            assert!(page.contains(part), "{name} has no part {part}");
        }
    }
}

#[test]
fn dashboards_and_alerts_name_metrics_that_are_there() {
    let known: BTreeSet<String> = documented().into_keys().collect();
    let texts = queries().into_iter().map(|query| (query.name(), query.expression));
    let rules = files(&repository().join("deploy/prometheus/rules"), ".yml");
    let rules = rules.into_iter().map(|file| (file.display().to_string(), fs::read_to_string(&file).expect("rules")));
    for (place, text) in texts.chain(rules) {
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        for word in words.filter(|word| word.starts_with("unidesk_")) {
            let base = ["_bucket", "_count", "_sum"].iter().find_map(|suffix| word.strip_suffix(suffix));
            assert!(
                known.contains(word) || base.is_some_and(|base| known.contains(base)),
                "{place}: there is no {word}"
            );
        }
    }
}
