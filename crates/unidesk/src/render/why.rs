//! `why`: the server's sentences, laid out.

use super::View;
use crate::text::{clean, clean_lines, plural, show_clock};
use api_types::why::{Ended, Evidence, Waiting, Why};

pub fn for_people(why: &Why, view: &View) -> String {
    let mut lines = clean_lines(&why.summary);
    if let Some(waiting) = &why.waiting {
        lines.extend(waiting_lines(waiting, view));
    }
    if let Some(ended) = &why.ended {
        lines.extend(ended_lines(ended, view));
    }
    if !why.chain.is_empty() {
        lines.push("until now:".into());
        lines.extend(why.chain.iter().map(|evidence| evidence_line(evidence, view)));
    }
    lines.extend(why.budgets.as_ref().map(|budgets| format!("used: {}", clean(budgets))));
    if !why.hints.is_empty() {
        let label = if why.waiting.is_some() { "sooner" } else { "next" };
        let hints: Vec<String> = why.hints.iter().map(|hint| clean(hint)).collect();
        lines.push(format!("{label}: {}", hints.join(" | ")));
    }
    lines.join("\n") + "\n"
}

fn waiting_lines(waiting: &Waiting, view: &View) -> Vec<String> {
    let once = if waiting.nodes == 0 {
        "There are no nodes.".into()
    } else {
        format!("{}, each counted once:", plural(waiting.nodes.into(), "node"))
    };
    let mut lines = vec![format!("needs {}. {once}", clean(&waiting.needs))];
    let reasons: Vec<String> = waiting.verdicts.iter().map(|verdict| clean(&verdict.reason)).collect();
    let width = reasons.iter().map(|reason| reason.chars().count()).max().unwrap_or(0).max(20);
    for (verdict, reason) in waiting.verdicts.iter().zip(&reasons) {
        let mut names = verdict.examples.iter().map(|name| clean(name)).collect::<Vec<_>>().join(", ");
        let others = (verdict.count as usize).saturating_sub(verdict.examples.len());
        if others > 0 && !verdict.examples.is_empty() {
            names += &format!(" and {others} more");
        }
        if verdict.would_fit {
            names += ", would fit";
        }
        lines.push(
            format!("{:>3}  {reason:<width$}   {}", verdict.count, names.trim_start_matches(", "))
                .trim_end()
                .to_owned(),
        );
    }
    if let Some(moment) = waiting.not_before.filter(|moment| *moment > view.now.to_utc()) {
        lines.push(format!("not tried again before {} (it pauses after a failure)", show_clock(moment, view.now)));
    }
    if waiting.before > 0 {
        let more = if waiting.more_before { "more than " } else { "" };
        lines.push(format!(
            "before it: {more}{} by priority and age; projects take turns",
            plural(waiting.before, "task")
        ));
    }
    lines
}

fn evidence_line(evidence: &Evidence, view: &View) -> String {
    let time = show_clock(evidence.at, view.now);
    format!("  {time}.{}  {}", evidence.at.timestamp_subsec_millis() / 100, clean(&evidence.what))
}

fn ended_lines(ended: &Ended, view: &View) -> Vec<String> {
    let mut lines: Vec<String> = ended.evidence.iter().map(|evidence| evidence_line(evidence, view)).collect();
    if !ended.last_lines.is_empty() {
        lines.push("the last lines of its log:".into());
        lines.extend(ended.last_lines.iter().map(|line| format!("  {}", clean(line)).trim_end().to_owned()));
    }
    lines
}
