//! Artifacts: the list, one of them, a transfer while it runs, and what two of them differ in.

use super::View;
use crate::{
    style::{Style, Tone, tone_of_state},
    table::{Cell, Table},
    text::{clean, plural, show_age, show_clock, show_count, show_limit},
};
use api_types::artifact::{Artifact, FsckFinding, FsckKind, Rule};
use domain::{
    artifact::{ArtifactKind, ArtifactState},
    quantity::{show_bytes, show_duration_ms},
    retention::RetentionRule,
};
use std::collections::BTreeMap;
use transfer::Listed;

/// `imagenet@3`; what has no version yet has its name alone.
pub fn name(artifact: &Artifact) -> String {
    match artifact.version {
        Some(version) => format!("{}@{version}", artifact.name),
        None => artifact.name.clone(),
    }
}

/// The one line of `put` that is data.
pub fn put(artifact: &Artifact) -> String {
    let digest = artifact.sha256.map_or_else(|| "-".to_owned(), |digest| format!("sha256:{digest}"));
    format!("{} {digest} {}\n", clean(&name(artifact)), artifact.size.map_or_else(|| "-".to_owned(), show_bytes))
}

pub fn list_for_people(artifacts: &[Artifact], view: &View) -> String {
    table(artifacts, view).for_people(&view.style, view.width)
}

/// The last columns are the digest and the full id.
pub fn list_for_programs(artifacts: &[Artifact], view: &View) -> String {
    let mut table = table(artifacts, view);
    let digest = |artifact: &Artifact| artifact.sha256.map_or_else(|| "-".to_owned(), |digest| digest.to_string());
    table.append("SHA256", artifacts.iter().map(|artifact| digest(artifact).into()));
    table.append("ID", artifacts.iter().map(|artifact| artifact.id.to_string().into()));
    table.for_programs()
}

fn table(artifacts: &[Artifact], view: &View) -> Table {
    let mut table = Table::new(["ARTIFACT", "KIND", "SIZE", "STATE", "AGE", "BY", "LABELS"]);
    for artifact in artifacts {
        let word = artifact.state.as_str();
        table.row([
            name(artifact).into(),
            artifact.kind.as_str().into(),
            artifact.size.map_or_else(|| "?".to_owned(), show_bytes).into(),
            Cell::toned(state(artifact), tone_of_state(word)),
            show_age(view.now.to_utc() - artifact.created_at).into(),
            artifact.created_by.as_str().into(),
            labels(artifact).into(),
        ]);
    }
    table
}

/// `uploading 25 %`.
fn state(artifact: &Artifact) -> String {
    match (artifact.state, artifact.stored_bytes, artifact.size) {
        (ArtifactState::Uploading, Some(stored), Some(size)) if size > 0 => {
            format!("uploading {:.0} %", 100.0 * stored as f64 / size as f64)
        }
        (state, ..) => state.as_str().to_owned(),
    }
}

fn labels(artifact: &Artifact) -> String {
    let pinned = artifact.pinned.then(|| "pinned".to_owned());
    let labels = artifact.labels.iter().map(|(key, value)| format!("{key}={value}"));
    let all: Vec<String> = pinned.into_iter().chain(labels).collect();
    if all.is_empty() { "-".to_owned() } else { all.join(" ") }
}

pub fn list_footer(shown: usize, is_more: bool, limit: u32) -> String {
    match (shown, is_more) {
        (0, _) => "No artifacts. The first: unidesk artifact put PATH --name NAME".to_owned(),
        (_, true) => format!("There are more: --limit {}", limit.saturating_mul(5)),
        (shown, false) => plural(shown as u64, "artifact"),
    }
}

/// Rules, a line each; the last column is the id.
pub fn rules(rules: &[Rule], view: &View, for_people: bool) -> String {
    let mut table = Table::new(["PROJECT", "REMOVES", "OF", "AGE", "BY", "ID"]);
    for rule in rules {
        table.row([
            rule.project.as_str().into(),
            when_removed(&rule.rule).into(),
            concerned(&rule.rule).into(),
            show_age(view.now.to_utc() - rule.created_at).into(),
            rule.created_by.as_str().into(),
            rule.id.to_string().into(),
        ]);
    }
    if for_people { table.for_people(&view.style, view.width) } else { table.for_programs() }
}

/// `older than 30d, but not the newest 3`.
fn when_removed(rule: &RetentionRule) -> String {
    let older = rule.older_than_ms.map(|ms| format!("older than {}", show_limit(ms)));
    match (older, rule.keep_last) {
        (Some(older), Some(last)) => format!("{older}, but not the newest {last}"),
        (Some(older), None) => older,
        (None, Some(last)) => format!("all but the newest {last}"),
        (None, None) => "nothing".to_owned(),
    }
}

/// `nightly-* scratch`.
fn concerned(rule: &RetentionRule) -> String {
    let label = |(key, value): (&String, &Option<String>)| match value {
        Some(value) => format!("{key}={value}"),
        None => key.clone(),
    };
    let parts: Vec<String> = rule.name.iter().cloned().chain(rule.labels.iter().map(label)).collect();
    if parts.is_empty() { "all".to_owned() } else { parts.join(" ") }
}

pub fn show(artifact: &Artifact, view: &View) -> String {
    let what = match artifact.kind {
        ArtifactKind::File => "file",
        ArtifactKind::Directory => "directory, packed",
    };
    let age = show_age(view.now.to_utc() - artifact.created_at);
    let state = view.style.paint(tone_of_state(artifact.state.as_str()), &state(artifact));
    let mut lines = vec![format!("{}  {state}, {what}, {}", clean(&name(artifact)), size(artifact))];
    let mut line = |word: &str, rest: String| lines.push(format!("{word:<10} {rest}"));
    if let Some(digest) = artifact.sha256 {
        line("sha256", digest.to_string());
    }
    line("file", format!("{}, {}", clean(&artifact.file_name), clean(&artifact.media_type)));
    let at = show_clock(artifact.created_at, view.now);
    line("made", format!("by {} {at}, {age} ago", clean(&artifact.created_by)));
    if let Some(ready) = artifact.ready_at {
        let took = (ready - artifact.created_at).num_milliseconds().max(0) as u64;
        line("ready", format!("{}, after {}", show_clock(ready, view.now), show_duration_ms(took)));
    }
    if let Some(stored) = artifact.stored_bytes {
        line("stored", format!("{} so far", show_bytes(stored)));
    }
    if let Some(attempt) = artifact.attempt {
        line("attempt", attempt.to_string());
    }
    line("project", clean(&artifact.project));
    if artifact.pinned || !artifact.labels.is_empty() {
        line("labels", clean(&labels(artifact)));
    }
    line("id", artifact.id.to_string());
    lines.join("\n") + "\n"
}

/// `12.4 GiB (13,314,398,618 bytes)`.
fn size(artifact: &Artifact) -> String {
    match artifact.size {
        None => "size not known yet".to_owned(),
        Some(bytes) if bytes < 1024 => plural(bytes, "byte"),
        Some(bytes) => format!("{} ({} bytes)", show_bytes(bytes), show_count(bytes)),
    }
}

/// What `rm` takes away, in one sentence.
pub fn lost(artifacts: &[Artifact], view: &View) -> String {
    let one = |artifact: &Artifact| {
        let age = show_age(view.now.to_utc() - artifact.created_at);
        let size = artifact.size.map_or_else(String::new, |bytes| format!("{}, ", show_bytes(bytes)));
        let pinned = if artifact.pinned { ", pinned" } else { "" };
        format!("{} ({size}put by {} {age} ago{pinned})", clean(&name(artifact)), clean(&artifact.created_by))
    };
    let all: Vec<String> = artifacts.iter().map(one).collect();
    let verb = if all.len() == 1 { "is" } else { "are" };
    format!("{} {verb} deleted for good: nobody can get that any more", all.join(", "))
}

/// How far a transfer is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Progress {
    pub done: u64,
    /// None: not known before its end.
    pub total: Option<u64>,
    /// Of late.
    pub bytes_a_second: Option<u64>,
}

impl Progress {
    /// `3.1 of 12.4 GiB`.
    pub fn amount(&self) -> String {
        let done = show_bytes(self.done);
        let Some(total) = self.total else { return done };
        let total = show_bytes(total);
        match (done.split_once(' '), total.split_once(' ')) {
            (Some((figure, unit)), Some((_, whole_unit))) if unit == whole_unit => format!("{figure} of {total}"),
            _ => format!("{done} of {total}"),
        }
    }

    fn share(&self) -> Option<f64> {
        self.total.filter(|total| *total > 0).map(|total| (self.done as f64 / total as f64).min(1.0))
    }
}

/// The line that is redrawn: `3.1 of 12.4 GiB  25 %  ██████░░░░  112 MiB/s  1m 24s left`.
pub fn progress(progress: &Progress, style: &Style) -> String {
    let mut parts = vec![progress.amount()];
    if let Some(share) = progress.share() {
        // Never 100 before it is done.
        parts.push(format!("{:.0} %", (share * 100.0).floor()));
        parts.push(style.bar(share, 24));
    }
    if let Some(rate) = progress.bytes_a_second {
        parts.push(format!("{}/s", show_bytes(rate)));
        if let Some(left) = progress.total.and_then(|total| total.checked_sub(progress.done)).filter(|_| rate > 0) {
            parts.push(format!("{} left", show_duration_ms((left as f64 / rate as f64 * 1000.0) as u64)));
        }
    }
    parts.join("  ")
}

/// A line each for what only one has, or both have and is not the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    pub added: Vec<String>,
    pub removed: Vec<String>,
    pub changed: Vec<Changed>,
    /// Entries that both have, equal.
    pub same: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Changed {
    pub name: String,
    pub how: String,
}

/// Of two listed directories.
pub fn compare(one: &BTreeMap<Vec<u8>, Listed>, other: &BTreeMap<Vec<u8>, Listed>) -> Difference {
    let mut found = Difference::default();
    for (name, now) in other {
        match one.get(name) {
            None => found.added.push(show_name(name, now)),
            Some(before) if before == now => found.same += 1,
            Some(before) => found.changed.push(Changed { name: show_name(name, now), how: how(before, now) }),
        }
    }
    found.removed =
        one.iter().filter(|(name, _)| !other.contains_key(*name)).map(|(name, was)| show_name(name, was)).collect();
    found
}

/// Names are bytes; what is no text in them is shown as escapes.
fn show_name(name: &[u8], what: &Listed) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text += chunk.valid();
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    if let Listed::Directory = what {
        text.push('/');
    }
    text
}

fn how(before: &Listed, now: &Listed) -> String {
    let kind = |listed: &Listed| match listed {
        Listed::File { .. } => "a file",
        Listed::Directory => "a directory",
        Listed::Link { .. } => "a link",
    };
    match (before, now) {
        (
            Listed::File { size: was, sha256: digest, is_executable },
            Listed::File { size: is, sha256: new_digest, is_executable: new_executable },
        ) => {
            let mut words = Vec::new();
            if was != is {
                words.push(format!("{} -> {}", show_bytes(*was), show_bytes(*is)));
            } else if digest != new_digest {
                words.push(format!("{}, other bytes", show_bytes(*is)));
            }
            if is_executable != new_executable {
                words.push(if *new_executable { "now executable" } else { "no longer executable" }.to_owned());
            }
            words.join(", ")
        }
        (Listed::Link { target: was }, Listed::Link { target: is }) => {
            format!("-> {} instead of -> {}", String::from_utf8_lossy(is), String::from_utf8_lossy(was))
        }
        (before, now) => format!("{} instead of {}", kind(now), kind(before)),
    }
}

pub fn difference(one: &Artifact, other: &Artifact, found: &Difference, style: &Style) -> String {
    let mut text = String::new();
    let mut line = |tone: Tone, mark: &str, rest: String| {
        text += &style.paint(tone, &format!("{mark} {rest}"));
        text.push('\n');
    };
    for name in &found.removed {
        line(Tone::Bad, "-", clean(name));
    }
    for name in &found.added {
        line(Tone::Good, "+", clean(name));
    }
    for Changed { name, how } in &found.changed {
        line(Tone::Warning, "~", format!("{}  {}", clean(name), clean(how)));
    }
    let counts = [(found.removed.len(), "removed"), (found.added.len(), "added"), (found.changed.len(), "changed")];
    let counts = counts.map(|(count, word)| format!("{} {word}", show_count(count as u64))).join(", ");
    text + &format!("{} -> {}: {counts}, {} the same\n", clean(&name(one)), clean(&name(other)), show_count(found.same))
}

/// Of files, whose insides nobody here knows.
pub fn whole_difference(one: &Artifact, other: &Artifact) -> String {
    if one.sha256 == other.sha256 && one.sha256.is_some() {
        let digest = one.sha256.map_or_else(String::new, |digest| digest.to_string());
        return format!(
            "{} and {} are equal: {}, sha256:{digest}\n",
            clean(&name(one)),
            clean(&name(other)),
            size(one)
        );
    }
    let width = name(one).chars().count().max(name(other).chars().count());
    let line = |artifact: &Artifact| {
        let digest = artifact.sha256.map_or_else(|| "-".to_owned(), |digest| format!("sha256:{digest}"));
        format!("{:width$}  {}  {}  {digest}\n", clean(&name(artifact)), artifact.kind.as_str(), size(artifact))
    };
    format!("{} and {} differ\n{}{}", clean(&name(one)), clean(&name(other)), line(one), line(other))
}

/// What a check has found, a line each.
pub fn finding(finding: &FsckFinding, style: &Style) -> String {
    let (word, tone) = match finding.kind {
        FsckKind::Missing => ("MISSING", Tone::Bad),
        FsckKind::WrongSize => ("SIZE", Tone::Bad),
        FsckKind::WrongBytes => ("BYTES", Tone::Bad),
        FsckKind::Stray => ("stray", Tone::Warning),
    };
    let what = if finding.artifacts.is_empty() { &finding.key } else { &finding.artifacts.join(", ") };
    let repaired = match (finding.repaired, finding.kind) {
        (false, _) => "",
        (true, FsckKind::Stray) => " Given to the collector.",
        (true, _) => " Marked as corrupt: it is handed out to nobody.",
    };
    format!("{} {}  {}{repaired}", style.paint(tone, &format!("{word:<8}")), clean(what), clean(&finding.detail))
}

pub fn fsck_sum(objects: u64, bytes: u64, findings: &[FsckFinding], was_read: bool, was_repaired: bool) -> String {
    let how = if was_read {
        "read and compared with their checksums"
    } else {
        "looked at; their bytes were not read (--read)"
    };
    let sum = format!("{}, {}, {how}: ", plural(objects, "object"), show_bytes(bytes));
    match findings.len() as u64 {
        0 => format!("{sum}nothing is wrong\n"),
        count if was_repaired => format!("{sum}{}\n", plural(count, "finding")),
        count => format!("{sum}{}. To mend what can be: --repair\n", plural(count, "finding")),
    }
}
