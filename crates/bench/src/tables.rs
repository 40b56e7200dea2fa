//! The newest figures of each bench as tables in Markdown, put between two marks of a document.

use anyhow::Context as _;
use serde_json::{Map, Value};
use std::{collections::BTreeMap, path::PathBuf};

const BEGIN: &str = "<!-- figures: written by `just bench` -->";
const END: &str = "<!-- end of figures -->";

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
    let tables = tables(&text)?;
    let Some(path) = &args.into else {
        print!("{tables}");
        return Ok(());
    };
    let document = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
    std::fs::write(path, replace(&document, &tables)?).with_context(|| format!("writing {}", path.display()))
}

fn replace(document: &str, tables: &str) -> anyhow::Result<String> {
    let (before, rest) = document.split_once(BEGIN).with_context(|| format!("the document has no {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("the document has no {END}"))?;
    Ok(format!("{before}{BEGIN}\n{tables}{END}{after}"))
}

fn tables(lines: &str) -> anyhow::Result<String> {
    let mut newest: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut order = Vec::new();
    for line in lines.lines().filter(|line| !line.trim().is_empty()) {
        let mut figures: Map<String, Value> = serde_json::from_str(line).with_context(|| format!("reading {line}"))?;
        let bench = figures.remove("bench").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        // Two sizes of one bench are two tables, and so are two ways to submit.
        let bench = match (bench.as_str(), figures.get("nodes").cloned(), figures.remove("submitted_by")) {
            ("fleet", Some(nodes), _) => format!("{bench}, {nodes} nodes"),
            (_, _, Some(how)) => format!("{bench}, {}", shown(&how)),
            _ => bench,
        };
        order.retain(|known| *known != bench);
        order.push(bench.clone());
        newest.insert(bench, figures);
    }
    let mut out = String::new();
    for bench in order {
        out.push_str(&format!("\n### {bench}\n\n| what | figure |\n|---|---|\n"));
        for (name, figure) in newest.get(&bench).into_iter().flatten() {
            out.push_str(&format!("| {} | {} |\n", name.replace('_', " "), shown(figure)));
        }
    }
    Ok(out + "\n")
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
fn grouped(number: &str) -> String {
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
        let written =
            replace(&format!("before\n{BEGIN}\nold\n{END}\nafter\n"), &tables(lines).expect("lines")).expect("marks");
        assert!(written.contains("| rate per s | 12,345 |") && written.contains("| x | 1 / 2.5 |"), "{written}");
        assert!(
            !written.contains("old") && written.starts_with("before\n") && written.ends_with("after\n"),
            "{written}"
        );
        assert!(replace("no marks", "").is_err());
    }
}
