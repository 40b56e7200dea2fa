//! Failures that are made of several values.

use crate::{
    failure::Failure,
    text::{clean, show_age},
};
use api_types::task::Task;
use chrono::{DateTime, FixedOffset};

/// Several tasks end like this: all are listed, with what tells them apart.
pub fn ambiguous(ending: &str, tasks: &[Task], now: DateTime<FixedOffset>) -> Failure {
    tasks.iter().fold(
        Failure::usage(format!("{} tasks end in {ending}; type more of the one that you mean", tasks.len())),
        |failure, task| {
            failure.note(format!(
                "{}  {}  {} ago",
                task.id,
                clean(&task.name),
                show_age(now.to_utc() - task.created_at)
            ))
        },
    )
}
