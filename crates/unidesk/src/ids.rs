//! What people type for a task or a node: a full id, its ending, a name, or `last`.

use crate::{
    context::{Context, OrTell, Server},
    exit,
    failure::Failure,
    last_task, render,
};
use api_types::{node::Node, task::TaskQuery};
use domain::ids::TaskId;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    Full(TaskId),
    /// At least 6 lower-case hex digits.
    Ending(String),
    Last,
}

/// Reads it, without asking anyone.
pub fn read(text: &str) -> Result<Typed, Failure> {
    let text = text.trim();
    if text == "last" {
        return Ok(Typed::Last);
    }
    if let Ok(id) = text.parse::<TaskId>() {
        return Ok(Typed::Full(id));
    }
    let digits: String = text.chars().filter(|c| *c != '-').collect::<String>().to_ascii_lowercase();
    if !digits.is_empty() && digits.len() <= 32 && digits.chars().all(|c| c.is_ascii_hexdigit()) {
        if digits.len() >= 6 {
            return Ok(Typed::Ending(digits));
        }
        return Err(Failure::usage(format!("{text:?} is too short for the ending of an id"))
            .note("type the last 6 or more of its hex digits; unidesk list shows the last 8"));
    }
    Err(Failure::usage(format!("{text:?} is no id of a task"))
        .note("an id is a UUID, its last 6 or more hex digits, or: last"))
}

/// The task that was meant. Errors: several end like this (both are listed), or none does.
pub async fn resolve(context: &Context, server: &Server, text: &str) -> Result<TaskId, Failure> {
    let ending = match read(text)? {
        Typed::Full(id) => return Ok(id),
        Typed::Last => {
            return last_task::recall(&context.places, &server.connection.url).ok_or_else(|| {
                Failure::new(
                    exit::NOT_FOUND,
                    format!("no task was submitted to {} from here yet", server.connection.url),
                )
                .note("the newest of all: unidesk list --limit 1")
            });
        }
        Typed::Ending(ending) => ending,
    };
    let query = TaskQuery { id_suffix: Some(ending.clone()), limit: Some(10), ..TaskQuery::default() };
    let page = server.client.tasks(&query).await.or_tell(server)?;
    match page.tasks.as_slice() {
        [] => Err(Failure::new(exit::NOT_FOUND, format!("no task that you can see ends in {ending}"))),
        [task] => Ok(task.id),
        several => Err(render::errors::ambiguous(&ending, several, crate::output::local_now())),
    }
}

/// The node of that name, id, or ending of an id.
pub async fn resolve_node(server: &Server, text: &str) -> Result<Node, Failure> {
    let nodes = server.client.nodes().await.or_tell(server)?;
    let digits = text.to_ascii_lowercase();
    let named = nodes.iter().find(|node| node.name == text || node.id.to_string() == digits);
    let ending = || {
        let mut ends = nodes.iter().filter(|node| digits.len() >= 6 && node.id.to_string().ends_with(&digits));
        ends.next().filter(|_| ends.next().is_none())
    };
    named.or_else(ending).cloned().ok_or_else(|| {
        let near = domain::fault::did_you_mean(text, nodes.iter().map(|node| node.name.as_str()));
        let failure = Failure::new(exit::NOT_FOUND, format!("there is no node {text:?}"));
        match near {
            Some(near) => failure.note(format!("did you mean {}?", crate::text::clean(near))),
            None => failure.note("all of them: unidesk node list"),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_people_type_it() {
        let full = "01a20390-8054-7c41-9d2f-6b0e41c7a93d";
        assert_eq!(read(full).expect("full"), Typed::Full(full.parse().expect("valid")));
        assert_eq!(read("41C7A93D").expect("an ending"), Typed::Ending("41c7a93d".into()));
        assert_eq!(read("6b0e41c7-a93d").expect("an ending"), Typed::Ending("6b0e41c7a93d".into()));
        assert_eq!(read("last").expect("a word"), Typed::Last);
        for bad in ["41c7a", "train", "", "zz41c7a93d"] {
            assert!(matches!(read(bad), Err(Failure::Told(told)) if told.exit == exit::USAGE), "{bad}");
        }
    }
}
