//! Task bodies, as a user would write them.

use crate::world::Repositories;
use serde_json::{Value, json};

/// A task's body, to be changed before it is submitted.
#[derive(Clone, Debug)]
pub(crate) struct Body(pub(crate) Value);

impl Body {
    /// One line for a shell, run as a process of the node.
    pub(crate) fn process(line: &str) -> Self {
        Self(
            json!({ "executor": "process", "command": line, "requirements": { "cpu_cores": 0.1, "memory": "64MiB", "disk": "16MiB" } }),
        )
    }

    /// One line for a shell, run in a container of the world's own environment.
    pub(crate) fn container(of: &Repositories, line: &str) -> Self {
        Self(json!({
            "executor": "container",
            "source": {
                "code_repo_url": of.code.url(),
                "code_commit_id": of.code_commit,
                "env_repo_url": of.environment.url(),
                "env_commit_id": of.environment_commit,
                "dockerfile_path": "Dockerfile",
            },
            "command": line,
            "requirements": { "cpu_cores": 0.1, "memory": "64MiB", "disk": "16MiB" },
        }))
    }

    /// Sets a field by its path: `timeout`, `requirements.memory`.
    pub(crate) fn with(mut self, path: &str, value: impl Into<Value>) -> Self {
        let pointer = format!("/{}", path.replace('.', "/"));
        let (parent, name) = pointer.rsplit_once('/').expect("a path");
        let parent = if parent.is_empty() { &mut self.0 } else { Self::object_at(&mut self.0, parent) };
        parent[name] = value.into();
        self
    }

    fn object_at<'a>(value: &'a mut Value, pointer: &str) -> &'a mut Value {
        pointer.split('/').skip(1).fold(value, |value, name| &mut value[name])
    }

    pub(crate) fn named(self, name: &str) -> Self {
        self.with("name", name)
    }
}
