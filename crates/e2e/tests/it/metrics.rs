//! What the platform shows to whoever watches it: every figure has a name by the conventions, help and documentation; every panel of every
//! dashboard shows something of a platform that works; every alert has its runbook.

mod panels;
mod prometheus;
mod watched;

use crate::until::until;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};
use watched::Watched;

/// In the order in which a unit may stand; a gauge without one counts things, and is listed below.
const UNITS: [&str; 5] = ["seconds", "bytes", "ratio", "celsius", "cores"];
/// What gauges count, or answer with 0 or 1.
const COUNTS: [&str; 11] =
    ["tasks", "nodes", "sessions", "connections", "gpus", "conditions", "violations", "info", "up", "leader", "work"];

/// A family as `/metrics` shows it.
#[derive(Debug, Default)]
struct Family {
    help: String,
    kind: String,
    labels: BTreeSet<String>,
}

fn families(text: &str) -> BTreeMap<String, Family> {
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut words = line.splitn(4, ' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (Some("#"), Some("HELP"), Some(name), help) => {
                families.entry(name.to_owned()).or_default().help = help.unwrap_or_default().to_owned();
            }
            (Some("#"), Some("TYPE"), Some(name), Some(kind)) => {
                families.entry(name.to_owned()).or_default().kind = kind.to_owned()
            }
            _ => {
                let (sample, _) = line.rsplit_once(' ').expect("a value");
                let (name, labels) = sample.split_once('{').unwrap_or((sample, ""));
                let of = |suffix: &str| {
                    name.strip_suffix(suffix)
                        .filter(|base| families.get(*base).is_some_and(|it| it.kind == "histogram"))
                };
                let base =
                    ["_bucket", "_sum", "_count"].iter().find_map(|suffix| of(suffix)).unwrap_or(name).to_owned();
                let family = families.entry(base).or_default();
                let names = labels
                    .trim_end_matches('}')
                    .split("\",")
                    .filter_map(|label| label.split_once("=\""))
                    .map(|(name, _)| name.to_owned());
                family.labels.extend(names.filter(|label| label != "le"));
            }
        }
    }
    families
}

/// What the conventions say against this name; None: nothing.
fn fault(name: &str, family: &Family) -> Option<&'static str> {
    let last = name.rsplit('_').next().unwrap_or_default();
    let is_total = last == "total";
    let words: Vec<&str> = name.trim_end_matches("_total").split('_').collect();
    let has_unit = |words: &[&str]| words.iter().any(|word| UNITS.contains(word));
    let foreign = ["s", "ms", "us", "kb", "mb", "kib", "mib", "percent", "minutes", "hours", "milliseconds", "millis"];
    match family.kind.as_str() {
        _ if family.help.is_empty() => Some("it has no help"),
        _ if !name.starts_with("unidesk_") => Some("it does not begin with unidesk_"),
        _ if !name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') => Some("a name is lower case"),
        _ if words.iter().any(|word| foreign.contains(word)) => Some("its unit is no base unit"),
        _ if has_unit(&words[..words.len() - 1]) => Some("its unit is not last"),
        "counter" if !is_total => Some("a counter ends in _total"),
        "counter" => None,
        _ if is_total => Some("only counters end in _total"),
        "histogram" if UNITS.contains(&last) || last == "size" => None,
        "gauge" if UNITS.contains(&last) || COUNTS.contains(&last) => None,
        "histogram" | "gauge" => Some("it ends in no unit, and in nothing that is counted"),
        _ => Some("it has no type"),
    }
}

#[test]
fn a_name_that_breaks_the_conventions_is_noticed() {
    let family = |kind: &str| Family { help: "Help".into(), kind: kind.into(), labels: BTreeSet::new() };
    for (name, kind) in [
        ("unidesk_log_archive_oldest_s", "gauge"),
        ("unidesk_cpu_percent", "gauge"),
        ("unidesk_seconds_waited", "gauge"),
        ("unidesk_placements", "counter"),
        ("unidesk_tasks_total", "gauge"),
        ("unidesk_pass_duration", "histogram"),
        ("tasks", "gauge"),
        ("unidesk_tasks", "untyped"),
    ] {
        assert!(fault(name, &family(kind)).is_some(), "{name} {kind}");
    }
    assert!(fault("unidesk_tasks", &Family { kind: "gauge".into(), ..Family::default() }).is_some(), "no help");
    assert_eq!(fault("unidesk_log_bytes_total", &family("counter")), None);
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn files(dir: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap_or_else(|error| panic!("{}: {error}", dir.display())).flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(files(&path, ending));
        } else if path.to_string_lossy().ends_with(ending) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// Every name that the services' sources have.
fn names_in_the_sources() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for krate in fs::read_dir(repository().join("crates")).expect("crates").flatten() {
        let sources = krate.path().join("src");
        if !sources.is_dir() {
            continue;
        }
        for file in files(&sources, ".rs") {
            let text = fs::read_to_string(&file).expect("a source");
            let quoted = text.split('"').filter(|part| part.starts_with("unidesk_"));
            let is_name = |part: &&str| {
                part.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_') && !part.ends_with('_')
            };
            names.extend(quoted.filter(is_name).map(str::to_owned));
        }
    }
    names
}

/// The rows of docs/metrics.md: name, kind, labels, help.
fn documented() -> BTreeMap<String, [String; 3]> {
    let text = fs::read_to_string(repository().join("docs/metrics.md")).expect("docs/metrics.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `unidesk_"));
    let cells = rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
    cells
        .map(|cells| match &cells[..] {
            [name, kind, labels, help, ..] => {
                (format!("unidesk_{}", name.trim_end_matches('`')), [kind.clone(), labels.clone(), help.clone()])
            }
            _ => panic!("a row of docs/metrics.md has too few cells: {cells:?}"),
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_metric_has_a_name_by_the_conventions_help_and_a_line_in_the_documentation() {
    let mut watched = Watched::start().await;
    watched.work_once().await;
    // The state of the platform is read every some seconds.
    let text = until("tasks that succeeded are shown", Duration::from_secs(60), async || {
        let text = watched.metrics().await;
        let is_shown =
            |line: &str| line.starts_with("unidesk_tasks{") && line.contains("succeeded") && !line.ends_with(" 0");
        text.lines().any(is_shown).then_some(text)
    })
    .await;
    let shown = families(&text);
    let faults: Vec<String> =
        shown.iter().filter_map(|(name, family)| Some(format!("{name}: {}", fault(name, family)?))).collect();
    assert!(faults.is_empty() && shown.len() > 50, "{} families: {faults:#?}", shown.len());

    let documented = documented();
    // PostgreSQL's slot is named like a metric.
    let names: BTreeSet<String> = names_in_the_sources().into_iter().filter(|name| name != "unidesk_backup").collect();
    let told: BTreeSet<String> = documented.keys().cloned().collect();
    assert_eq!(names, told, "left: in the sources; right: in docs/metrics.md");
    let mut wrong = Vec::new();
    for (name, Family { help, kind, labels }) in &shown {
        let labels = labels.iter().cloned().collect::<Vec<_>>().join(", ");
        let row = documented.get(name);
        // Nothing to show yet has no labels either.
        let is_right = row.is_some_and(|[k, l, h]| k == kind && h == help && (labels.is_empty() || *l == labels));
        if !is_right {
            wrong.push(format!("| `{name}` | {kind} | {labels} | {help} |"));
        }
    }
    assert!(wrong.is_empty(), "docs/metrics.md should say:\n{}", wrong.join("\n"));
    watched.stop().await;
}
