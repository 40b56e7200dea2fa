//! The figures as a part of the documentation, written between two marks and never by hand.

use crate::figures::{Figure, Scale};
use anyhow::Context as _;

const BEGIN: &str = "<!-- figures: written by `just reliability-report`, not by hand -->";
const END: &str = "<!-- end of figures -->";

/// A row that is wanted, measured or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub scenario: String,
    pub what: String,
    pub scale: Scale,
}

/// The document with these figures between its marks. Errors: it has no marks.
pub fn written(document: &str, rows: &[Row], figures: &[Figure]) -> anyhow::Result<String> {
    let (before, rest) = document.split_once(BEGIN).with_context(|| format!("there is no line {BEGIN}"))?;
    let (_, after) = rest.split_once(END).with_context(|| format!("there is no line {END}"))?;
    Ok(format!("{before}{BEGIN}\n\n{}\n{END}{after}", table(rows, figures)))
}

fn table(rows: &[Row], figures: &[Figure]) -> String {
    let of = |row: &Row| figures.iter().find(|it| it.scenario == row.scenario && it.scale == row.scale);
    let mut text = String::from(
        "| fault | injected | detected | recovered | tasks | lost | doubled | log bytes missing | measured |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let name = match row.scale {
            Scale::Tenth => format!("{} {}", row.scenario, row.what),
            Scale::Real => format!("{} {}, real times", row.scenario, row.what),
        };
        let Some(figure) = of(row) else {
            text += &format!("| {} | - | - | - | - | - | - | - | never |\n", cell(&name));
            continue;
        };
        let verdict = if figure.verdict == "ok" { String::new() } else { format!("**{}**, ", figure.verdict) };
        let cells = [
            cell(&name),
            cell(&figure.injected),
            seconds(figure.detected_s),
            seconds(figure.recovered_s),
            figure.tasks.to_string(),
            figure.lost.to_string(),
            figure.doubled.to_string(),
            figure.log_bytes_missing.to_string(),
            format!("{verdict}{} at {}", figure.date.split('T').next().unwrap_or_default(), figure.commit),
        ];
        text += &format!("| {} |\n", cells.join(" | "));
    }
    text += "\nWhat else these runs saw:\n\n";
    for (row, figure) in rows.iter().filter_map(|row| Some((row, of(row)?))) {
        let scale = if row.scale == Scale::Real { ", real times" } else { "" };
        for said in figure.wrong.iter().chain(&figure.notes) {
            text += &format!("- {}{scale}: {said}\n", row.scenario);
        }
        if figure.again > 0 {
            text += &format!("- {}{scale}: {} attempts were begun again\n", row.scenario, figure.again);
        }
    }
    let mut machines: Vec<&str> = figures.iter().map(|figure| machine(&figure.machine)).collect();
    machines.sort_unstable();
    machines.dedup();
    text + &format!("\nMachines: {}.\n", machines.join("; "))
}

/// Without its load, which differs from line to line.
fn machine(text: &str) -> &str {
    text.split(", load ").next().unwrap_or(text)
}

fn seconds(figure: Option<f64>) -> String {
    figure.map_or("-".into(), |seconds| format!("{seconds:.2} s"))
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{figures, scenarios};
    use std::path::Path;

    fn row(scenario: &str, scale: Scale) -> Row {
        Row { scenario: scenario.into(), what: "something breaks".into(), scale }
    }

    #[test]
    fn only_what_is_between_the_marks_is_written_and_what_was_never_measured_says_so() {
        let figures = [figures::tests::figure("F01", Scale::Real, 1.234)];
        let document = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let rows = [row("F01", Scale::Tenth), row("F01", Scale::Real)];
        let text = written(&document, &rows, &figures).expect("written");
        assert!(text.starts_with("before\n") && text.ends_with("\nafter\n") && !text.contains("old"), "{text}");
        assert!(text.contains("| F01 something breaks | - | - | - | - | - | - | - | never |"), "{text}");
        let measured =
            "| F01 something breaks, real times | a \\| b | - | 1.23 s | 9 | 0 | 0 | 0 | 2026-11-22 at 0123abcd |";
        assert!(text.contains(measured) && text.contains("- F01, real times: seen"), "{text}");
        assert_eq!(written(&text, &rows, &figures).expect("written"), text, "once is enough");
        assert!(written("no marks", &rows, &figures).is_err());
    }

    #[test]
    fn what_failed_is_not_shown_as_well() {
        let failed = Figure {
            verdict: "FAILED".into(),
            wrong: vec!["lost: a task".into()],
            ..figures::tests::figure("F01", Scale::Tenth, 1.0)
        };
        let text = table(&[row("F01", Scale::Tenth)], &[failed]);
        assert!(text.contains("**FAILED**, 2026-11-22") && text.contains("- F01: lost: a task"), "{text}");
    }

    #[test]
    fn the_documentation_has_the_figures_that_were_measured() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
        let document = std::fs::read_to_string(docs.join("reliability.md")).expect("the document");
        let figures = figures::read(&docs.join("reliability.jsonl")).expect("the figures");
        let written = written(&document, &scenarios::rows(), &figures).expect("its marks");
        assert!(written == document, "docs/reliability.md is not up to date: run `just reliability-report`");
    }
}
