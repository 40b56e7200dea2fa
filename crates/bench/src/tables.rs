//! The newest figures of each bench as tables in Markdown, put between two marks of a document, and what was meant between two others.

use anyhow::Context as _;
use serde_json::{Map, Value};
use std::path::PathBuf;

const TARGETS: [&str; 2] = ["<!-- targets: written by `just bench` -->", "<!-- end of targets -->"];
const FIGURES: [&str; 2] = ["<!-- figures: written by `just bench` -->", "<!-- end of figures -->"];

#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// JSON lines of earlier runs; the newest of each bench counts
    pub figures: PathBuf,
    /// The document whose figures are replaced; without it they are printed
    #[arg(long)]
    pub into: Option<PathBuf>,
}

pub fn run(args: &Args) -> anyhow::Result<()> {
    let text = std::fs::read_to_string(&args.figures).with_context(|| format!("reading {}", args.figures.display()))?;
    let newest = newest(&text)?;
    let (targets, tables) = (crate::targets::table(&newest), tables(&newest));
    let Some(path) = &args.into else {
        print!("{targets}{tables}");
        return Ok(());
    };
    let document = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    let document = replace(&document, TARGETS, &targets)?;
    std::fs::write(path, replace(&document, FIGURES, &tables)?).with_context(|| format!("writing {}", path.display()))
}

/// The newest figures of each bench, in the order in which they were measured.
pub type Newest = Vec<(String, Map<String, Value>)>;

fn replace(document: &str, marks: [&str; 2], tables: &str) -> anyhow::Result<String> {
    let [begin, end] = marks;
    let (before, rest) = document.split_once(begin).with_context(|| format!("the document has no {begin}"))?;
    let (_, after) = rest.split_once(end).with_context(|| format!("the document has no {end}"))?;
    Ok(format!("{before}{begin}\n{tables}{end}{after}"))
}

pub(crate) fn newest(lines: &str) -> anyhow::Result<Newest> {
    let mut newest = Newest::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let mut figures: Map<String, Value> = serde_json::from_str(line).with_context(|| format!("reading {line}"))?;
        let bench = figures.remove("bench").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        // Two sizes of one bench are two tables, and so are two ways to submit.
        let bench = match (bench.as_str(), figures.get("nodes").cloned(), figures.remove("submitted_by")) {
            ("fleet", Some(nodes), _) => format!("{bench}, {nodes} nodes"),
            (_, _, Some(how)) => format!("{bench}, {}", shown(&how)),
            _ => bench,
        };
        newest.retain(|(known, _)| *known != bench);
        newest.push((bench, figures));
    }
    Ok(newest)
}

fn tables(newest: &Newest) -> String {
    let mut out = String::new();
    for (bench, figures) in newest {
        let (wide, narrow): (Vec<_>, Vec<_>) = figures.iter().partition(|(_, figure)| is_alike(figures, figure));
        out.push_str(&format!("\n### {bench}\n\n| what | figure |\n|---|---|\n"));
        for (name, figure) in narrow {
            out.push_str(&format!("| {} | {} |\n", name.replace('_', " "), shown(figure)));
        }
        // Points with the same figures are lines of one table.
        if let Some(columns) = wide.first().and_then(|(_, figure)| figure.as_object()) {
            let names: Vec<String> = columns.keys().map(|name| name.replace('_', " ")).collect();
            out.push_str(&format!("\n| | {} |\n|---|{}\n", names.join(" | "), "---|".repeat(names.len())));
        }
        for (name, figure) in wide {
            let cells: Vec<String> = figure.as_object().into_iter().flatten().map(|(_, cell)| shown(cell)).collect();
            out.push_str(&format!("| {} | {} |\n", name.replace('_', " "), cells.join(" | ")));
        }
    }
    out + "\n"
}

/// Has the same figures within as another one of this bench, and as the first that has any company.
fn is_alike(figures: &Map<String, Value>, figure: &Value) -> bool {
    let keys = |figure: &Value| figure.as_object().map(|fields| fields.keys().cloned().collect::<Vec<_>>());
    let all: Vec<Vec<String>> = figures.values().filter_map(keys).collect();
    let first = all.iter().find(|one| all.iter().filter(|other| other == one).count() > 1);
    first.is_some() && keys(figure).as_ref() == first
}

fn shown(figure: &Value) -> String {
    match figure {
        Value::String(text) => text.replace('|', "\\|"),
        Value::Number(number) => grouped(&number.to_string()),
        Value::Array(items) => items.iter().map(shown).collect::<Vec<_>>().join(" / "),
        Value::Object(fields) => fields
            .iter()
            .map(|(name, figure)| format!("{} {}", name.replace('_', " "), shown(figure)))
            .collect::<Vec<_>>()
            .join(", "),
        Value::Bool(_) | Value::Null => figure.to_string(),
    }
}

/// `12345.0` as `12,345`.
pub(crate) fn grouped(number: &str) -> String {
    let (whole, rest) = number.split_once('.').map_or((number, ""), |(whole, rest)| (whole, rest));
    let mut out = String::new();
    for (at, digit) in whole.chars().enumerate() {
        if at > 0 && (whole.len() - at).is_multiple_of(3) && !out.ends_with('-') {
            out.push(',');
        }
        out.push(digit);
    }
    if rest.is_empty() || rest == "0" { out } else { format!("{out}.{rest}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_figures_of_each_bench_replace_the_old_ones() {
        let lines = "{\"bench\":\"a\",\"rate_per_s\":1.0}\n{\"bench\":\"b\",\"x\":[1,2.5]}\n{\"bench\":\"a\",\"rate_per_s\":12345.0}\n";
        let [begin, end] = FIGURES;
        let tables = tables(&newest(lines).expect("lines"));
        let written = replace(&format!("before\n{begin}\nold\n{end}\nafter\n"), FIGURES, &tables).expect("marks");
        assert!(written.contains("| rate per s | 12,345 |") && written.contains("| x | 1 / 2.5 |"), "{written}");
        assert!(
            !written.contains("old") && written.starts_with("before\n") && written.ends_with("after\n"),
            "{written}"
        );
        assert!(replace("no marks", FIGURES, "").is_err());
    }
    #[test]
    fn points_with_the_same_figures_are_lines_of_one_table() {
        let lines =
            r#"{"bench":"q","at_1":{"n":1,"rate":10.5},"at_2":{"n":2,"rate":11.0},"machine":"m","only":{"x":1}}"#;
        let tables = tables(&newest(lines).expect("lines"));
        assert!(tables.contains("| | n | rate |\n|---|---|---|\n| at 1 | 1 | 10.5 |\n| at 2 | 2 | 11 |"), "{tables}");
        assert!(tables.contains("| only | x 1 |"), "{tables}");
    }
}
