//! `doctor`: a line per check, and below it what to do.

use crate::{
    style::{Style, Tone},
    text::{clean, plural},
};
use api_types::check::{Check, CheckOutcome};

pub fn for_people(checks: &[Check], style: &Style) -> String {
    let width = checks.iter().map(|check| check.id.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for check in checks {
        let (word, tone) = match check.outcome {
            CheckOutcome::Ok => ("ok     ", Tone::Good),
            CheckOutcome::Warning => ("warning", Tone::Warning),
            CheckOutcome::Failed => ("FAILED ", Tone::Bad),
            CheckOutcome::Skipped => ("skipped", Tone::Faint),
        };
        lines.push(format!("{}  {:width$}  {}", style.paint(tone, word), clean(&check.id), clean(&check.found)));
        lines.extend(check.advice.iter().map(|advice| format!("         {:width$}  -> {}", "", clean(advice))));
    }
    lines.push(sum(checks));
    lines.join("\n") + "\n"
}

fn sum(checks: &[Check]) -> String {
    let count = |outcome| checks.iter().filter(|check| check.outcome == outcome).count() as u64;
    let mut parts = vec![format!("{} ok", count(CheckOutcome::Ok))];
    match count(CheckOutcome::Warning) {
        0 => {}
        warnings => parts.push(plural(warnings, "warning")),
    }
    for (outcome, word) in [(CheckOutcome::Failed, "failed"), (CheckOutcome::Skipped, "skipped")] {
        match count(outcome) {
            0 => {}
            count => parts.push(format!("{count} {word}")),
        }
    }
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_below_what_was_found() {
        let checks = [
            Check::ok("server", "answers in 3 ms"),
            Check::failed("database-settings", "fsync is off", "Set fsync = on."),
            Check::skipped("gpus", "none"),
        ];
        let expected = "\
ok       server             answers in 3 ms
FAILED   database-settings  fsync is off
                            -> Set fsync = on.
skipped  gpus               none
1 ok, 1 failed, 1 skipped
";
        assert_eq!(for_people(&checks, &Style::PLAIN), expected);
    }
}
