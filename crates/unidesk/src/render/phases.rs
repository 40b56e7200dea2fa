//! The phases of `run`, before the first byte of its log: one line each, once it is over.

use super::provenance::{BroughtInput, Provenance};
use crate::{
    style::{Glyph, Style},
    text::{clean, plural},
};
use api_types::task::Task;
use domain::quantity::{show_bytes, show_duration_ms};

/// Where the time of a phase stands.
const TIME_COLUMN: usize = 80;

pub fn submitted(task: &Task, style: &Style) -> String {
    let project = if task.project == "default" { String::new() } else { format!(", project {}", clean(&task.project)) };
    style.phase(Glyph::Done, "submitted", &format!("task {}{project}", task.id.short()))
}

/// What the server warned of at submission: no node can ever run it.
pub fn warnings(task: &Task) -> Vec<String> {
    let line = |fault: &domain::fault::Fault| {
        let hint = fault.hint.as_ref().map_or_else(String::new, |hint| format!(" ({hint})"));
        clean(&format!("{}{hint}", fault.detail))
    };
    task.warnings.iter().map(line).collect()
}

/// A node was found. `prepared`: everything was there, so this line tells of that too.
pub fn placed(node: &str, waited_ms: u64, prepared: Option<(&Provenance, u64)>, style: &Style) -> String {
    let warm = prepared.map_or_else(String::new, |(provenance, ms)| {
        let parts = provenance.parts();
        let verb = if parts.contains(" and ") || parts == "inputs" { "are" } else { "is" };
        format!("; {parts} {verb} there (prepared in {})", show_duration_ms(ms))
    });
    style.phase(Glyph::Done, "placed", &format!("on {} after {}{warm}", clean(node), show_duration_ms(waited_ms)))
}

/// What was fetched and built; nothing for an attempt that needed neither.
pub fn prepared(provenance: &Provenance, dockerfile: &str, style: &Style) -> Vec<String> {
    let mut lines = Vec::new();
    let trees: Vec<_> = [&provenance.code, &provenance.environment].into_iter().flatten().collect();
    if !trees.is_empty() {
        let what: Vec<String> = trees.iter().map(|tree| tree.describe()).collect();
        let ms: Vec<u64> = trees.iter().filter_map(|tree| tree.ms).collect();
        let time = (!ms.is_empty()).then(|| ms.iter().sum());
        lines.push(timed(style.phase(Glyph::Done, "source", &what.join(", ")), time, style));
    }
    if let Some(image) = &provenance.image {
        let mut facts = Vec::new();
        if image.warm {
            facts.push("the image was here".to_owned());
        } else if let Some(steps) = image.steps {
            facts.push(plural(steps, "step"));
        }
        facts.extend(image.size_bytes.map(show_bytes));
        facts.extend(Some(image.id.clone()).filter(|id| !id.is_empty()));
        let rest = format!("{}   {}", clean(dockerfile), facts.join(", "));
        let time = image.build_ms.filter(|_| !image.warm);
        lines.push(timed(style.phase(Glyph::Done, "build", rest.trim_start()), time, style));
    }
    if !provenance.inputs.is_empty() {
        let what: Vec<String> = provenance.inputs.iter().map(BroughtInput::describe).collect();
        // They travel at the same time.
        let time = provenance.inputs.iter().filter(|input| !input.cached).filter_map(|input| input.ms).max();
        lines.push(timed(style.phase(Glyph::Done, "inputs", &what.join(", ")), time, style));
    }
    if let Some(checkpoint) = &provenance.checkpoint {
        let version = checkpoint.name.rsplit_once('@').map_or("", |(_, version)| version);
        let what = format!("from checkpoint {version}, {}", show_bytes(checkpoint.bytes));
        lines.push(timed(style.phase(Glyph::Done, "goes on", &what), checkpoint.ms, style));
    }
    lines
}

fn timed(line: String, ms: Option<u64>, style: &Style) -> String {
    let Some(ms) = ms else { return line };
    // Escapes take no room on the screen.
    let shown = line.chars().count() - if style.colour { "\x1b[32m\x1b[0m".len() } else { 0 };
    let padding = TIME_COLUMN.saturating_sub(shown).max(2);
    format!("{line}{}{}", " ".repeat(padding), show_duration_ms(ms))
}

/// The line that is redrawn while it waits.
pub fn pending(waited_ms: u64, why: Option<&str>, style: &Style) -> String {
    let why = why.map_or_else(String::new, |why| format!(": {}", clean(why)));
    style.phase(Glyph::Busy, "pending", &format!("{}{why}", show_duration_ms(waited_ms)))
}

/// The line that is redrawn while its node prepares it. `step`: the last of the build's own words.
pub fn preparing(since_ms: u64, step: Option<&BuildStep>, dockerfile: &str, style: &Style) -> String {
    let time = show_duration_ms(since_ms);
    match step {
        Some(step) => {
            let rest = format!(
                "{}  step {}/{}  {}   {time}",
                clean(dockerfile),
                step.number,
                step.of,
                clean(&step.instruction)
            );
            style.phase(Glyph::Busy, "build", rest.trim_start())
        }
        None => style.phase(Glyph::Busy, "preparing", &time),
    }
}

/// The line that is redrawn while what it left is stored.
pub fn storing(since_ms: u64, style: &Style) -> String {
    style.phase(Glyph::Busy, "storing", &format!("its outputs   {}", show_duration_ms(since_ms)))
}

/// The same for those who hear the screen: once in a while, nothing redrawn.
pub fn still(what: &str, since_ms: u64) -> String {
    format!("still {what}, {}", show_duration_ms(since_ms))
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildStep {
    pub number: u32,
    pub of: u32,
    pub instruction: String,
}

/// Reads `Step 4/7 : RUN pip install` and `#9 [4/7] RUN pip install`; None for any other line.
pub fn read_step(line: &str) -> Option<BuildStep> {
    let line = line.trim();
    let (numbers, instruction) = match line.strip_prefix("Step ") {
        Some(rest) => rest.split_once(" : ")?,
        None => {
            let (stage, instruction) = line.strip_prefix('#')?.split_once(" [")?.1.split_once("] ")?;
            (stage.rsplit(' ').next()?, instruction)
        }
    };
    let (number, of) = numbers.split_once('/')?;
    Some(BuildStep { number: number.parse().ok()?, of: of.parse().ok()?, instruction: instruction.trim().to_owned() })
}

/// Another attempt begins, and what became of the one before.
pub fn another_attempt(number: u32, task: Option<&Task>, bytes_seen: u64) -> String {
    let attempts = task.and_then(|task| task.attempts.as_deref()).unwrap_or_default();
    let find = |number: u32| attempts.iter().find(|attempt| attempt.number == number);
    let on = find(number).map_or_else(String::new, |attempt| format!("on {}", clean(&attempt.node)));
    let before = number.saturating_sub(1);
    let end = find(before).map_or_else(
        || "ended".to_owned(),
        |attempt| match attempt.failure {
            Some(domain::outcome::FailureKind::NodeLost) => format!("was lost with {}", clean(&attempt.node)),
            Some(failure) => format!("ended with {failure} on {}", clean(&attempt.node)),
            None => format!("ended on {}", clean(&attempt.node)),
        },
    );
    // Without output there is no log worth naming.
    let seen = match bytes_seen {
        0 => String::new(),
        bytes => format!(" after {} (logs --attempt {before})", plural(bytes, "byte")),
    };
    format!("{on}; attempt {before} {end}{seen}").trim_start_matches("; ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_of_either_builder_is_read() {
        let step = |number, of, instruction: &str| Some(BuildStep { number, of, instruction: instruction.into() });
        assert_eq!(read_step("Step 4/7 : RUN pip install -r req.txt\n"), step(4, 7, "RUN pip install -r req.txt"));
        assert_eq!(read_step("#9 [4/7] RUN pip install"), step(4, 7, "RUN pip install"));
        assert_eq!(read_step("#9 [build 4/7] COPY . ."), step(4, 7, "COPY . ."));
        for other in ["#9 DONE 0.3s", " ---> 9f2c51aa", "Step by step", "", "#5 [internal] load metadata"] {
            assert_eq!(read_step(other), None, "{other}");
        }
    }
}
