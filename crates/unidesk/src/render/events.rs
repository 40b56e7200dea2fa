//! `events`: a line for each thing that happens to a task.

use super::View;
use crate::text::{clean, show_clock};
use api_types::event::TaskEvent;
use chrono::SecondsFormat;
use domain::{ids::NodeId, lifecycle::Event, quantity::show_duration_ms, task::TaskState};

/// The node that an event is about, so that its name can be found.
pub fn node_of(event: &TaskEvent) -> Option<NodeId> {
    match &event.event {
        Event::Placed { node, .. } | Event::NodeWentDown { node, .. } => Some(*node),
        _ => None,
    }
}

/// Columns of fixed width: a stream has no last row to measure.
pub fn for_people(event: &TaskEvent, node: Option<&str>, view: &View) -> String {
    let state = event.state.as_str();
    let toned = view.style.paint(crate::style::tone_of_state(state), state);
    let pad = " ".repeat(10_usize.saturating_sub(state.len()));
    format!("{}  {}  {toned}{pad} {}\n", show_clock(event.at, view.now), event.task.short(), words(event, node))
}

/// Time, task, its state, the event's word, what people read, and the cursor after it, by tabs.
pub fn for_programs(event: &TaskEvent, node: Option<&str>, cursor: &str) -> String {
    let at = event.at.to_rfc3339_opts(SecondsFormat::Millis, true);
    let word = serde_json::to_value(&event.event).ok().and_then(|value| Some(value.get("event")?.as_str()?.to_owned()));
    let (word, state) = (word.unwrap_or_default(), event.state);
    format!("{at}\t{}\t{state}\t{word}\t{}\t{cursor}\n", event.task, words(event, node))
}

fn words(event: &TaskEvent, node: Option<&str>) -> String {
    let node = |id: &NodeId| node.map_or_else(|| format!("node {id}"), clean);
    let with = |what: &str, why: &str| if why.is_empty() { what.to_owned() } else { format!("{what}: {}", clean(why)) };
    match &event.event {
        Event::Submitted => "submitted".into(),
        Event::Placed { number: 1, node: on, .. } => format!("placed on {}", node(on)),
        Event::Placed { number, node: on, .. } => format!("placed on {}, attempt {number}", node(on)),
        Event::Accepted { .. } => "accepted by its node".into(),
        Event::Preparing { .. } => "preparing".into(),
        Event::Prepared { .. } => "prepared".into(),
        Event::Started { .. } => "started".into(),
        Event::Exited { code: Some(code), .. } => format!("exited with {code}"),
        Event::Exited { code: None, .. } => "exited without a code".into(),
        Event::Ended { state, failure, message, .. } => {
            let failure = failure.map(|kind| format!(" ({kind})")).unwrap_or_default();
            with(&format!("attempt {state}{failure}"), message)
        }
        Event::Requeued { because, .. } => with("waits for another attempt", because),
        Event::NodeWentDown { node: on, after_ms, .. } => {
            format!("{} went down {} after its start there", node(on), show_duration_ms(*after_ms))
        }
        Event::CancelRequested => "to be cancelled".into(),
        Event::Finished { state: TaskState::Failed, failure: Some(kind) } => format!("failed: {kind}"),
        Event::Finished { state, .. } => state.to_string(),
        Event::Released { .. } => "its node is free of it".into(),
        Event::RetryAsked => "to be run again".into(),
    }
}
