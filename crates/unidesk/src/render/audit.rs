//! `audit`: a line per invariant, and below it what breaks it.

use crate::{
    style::{Style, Tone},
    text::{clean, plural, show_count},
};
use api_types::audit::{Audit, Invariant, InvariantState};

pub fn for_people(audit: &Audit, style: &Style) -> String {
    let width = audit.invariants.iter().map(|one| one.id.chars().count()).max().unwrap_or(0);
    let mut lines = Vec::new();
    for one in &audit.invariants {
        let (word, tone) = match one.state {
            InvariantState::Holds => ("ok     ", Tone::Good),
            InvariantState::Broken => ("BROKEN ", Tone::Bad),
            InvariantState::Unknown => ("unknown", Tone::Warning),
        };
        lines.push(format!("{}  {:width$}  {}", style.paint(tone, word), clean(&one.id), clean(&one.says)));
        lines.extend(one.rows.iter().map(|row| format!("           {}", clean(row))));
        if one.more > 0 {
            lines.push(format!("           and {} more", show_count(one.more)));
        }
        lines.extend(one.because.iter().map(|because| format!("           {}", clean(because))));
    }
    lines.push(sum(&audit.invariants));
    lines.join("\n") + "\n"
}

fn sum(invariants: &[Invariant]) -> String {
    let count = |state| invariants.iter().filter(|one| one.state == state).count() as u64;
    let holds = count(InvariantState::Holds);
    let verb = if holds == 1 { "holds" } else { "hold" };
    let mut text = format!("{} {verb}", plural(holds, "invariant"));
    for (state, words) in [(InvariantState::Broken, "broken"), (InvariantState::Unknown, "not looked at")] {
        match count(state) {
            0 => {}
            count => text += &format!(", {} {words}", show_count(count)),
        }
    }
    text
}
