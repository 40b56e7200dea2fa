//! The one form of an error: `application/problem+json` (RFC 9457), and the list of its types.

use domain::{
    fault::Fault,
    principal::{Permission, Principal, Role},
};
use serde::{Deserialize, Serialize};

/// What a problem's `type` begins with. A constant, never the host that answered: everybody hosts their own.
pub const TYPE_BASE: &str = "https://unidesk.dev/problems/";
pub const CONTENT_TYPE: &str = "application/problem+json";

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Problem {
    /// Stable, with a page of its own in `docs/problems/`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Never varies with the type.
    pub title: String,
    pub status: u16,
    /// One sentence that a person can act on.
    pub detail: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instance: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub request_id: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub errors: Vec<Fault>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_ms: Option<u64>,
    /// Members of one type only: `state` of `already-ended`.
    #[serde(flatten, skip_serializing_if = "serde_json::Map::is_empty", default)]
    pub more: serde_json::Map<String, serde_json::Value>,
}

/// Every problem type: (word, status, title). Clients may depend on the word.
pub const TYPES: &[(&str, u16, &str)] = &[
    ("invalid-task", 422, "The task is not valid"),
    ("incomplete-source", 422, "The source is incomplete"),
    ("not-a-commit-id", 422, "A commit is named by its full id"),
    ("unknown-field", 422, "A field is not known"),
    ("bad-quantity", 422, "A quantity is not readable"),
    ("no-such-project", 422, "The project does not exist"),
    ("invalid-request", 422, "The request is not valid"),
    ("idempotency-key-reused", 422, "The idempotency key was used for another request"),
    ("malformed-json", 400, "The body is not JSON"),
    ("not-authenticated", 401, "Who are you?"),
    ("token-expired", 401, "The token has expired"),
    ("not-permitted", 403, "This is not permitted"),
    ("no-such-task", 404, "There is no such task"),
    ("no-such-node", 404, "There is no such node"),
    ("no-such-artifact", 404, "There is no such artifact"),
    ("no-such-rule", 404, "There is no such rule"),
    ("too-many-rules", 409, "The project has as many rules as it may have"),
    ("no-such-token", 404, "There is no such token"),
    ("no-such-route", 404, "There is no such route"),
    ("method-not-allowed", 405, "The route does not take this method"),
    ("ambiguous-id", 409, "Several ids end like this"),
    ("already-ended", 409, "The task has ended"),
    ("not-ended", 409, "The task has not ended"),
    ("not-placed", 409, "The task is on no node"),
    ("exclusive-task-runs", 409, "An exclusive task runs there"),
    ("artifact-not-ready", 409, "The artifact can't be read"),
    ("artifact-in-use", 409, "Tasks need the artifact"),
    ("fenced", 409, "The attempt does not hold its task"),
    ("upload-incomplete", 409, "Parts of the upload are missing"),
    ("upload-conflict", 409, "The upload has other content"),
    ("upload-ended", 409, "The upload has ended"),
    ("name-taken", 409, "The name is taken"),
    ("log-lost", 410, "A part of the log is lost"),
    ("too-large", 413, "The body is too large"),
    ("unsupported-media-type", 415, "The body is of the wrong type"),
    ("too-many-requests", 429, "Too many requests"),
    ("internal", 500, "Something went wrong here"),
    ("unavailable", 503, "The database is away"),
    ("no-object-store", 503, "There is no object store"),
    ("object-store-away", 503, "The object store is away"),
    ("storage-full", 503, "The storage is full"),
];

impl Problem {
    /// A problem of a listed type. An unlisted word is a mistake in this program and is shown as `internal`.
    pub fn new(word: &str, detail: impl Into<String>) -> Self {
        let (word, status, title) = TYPES.iter().find(|(known, ..)| *known == word).copied().unwrap_or((
            "internal",
            500,
            "Something went wrong here",
        ));
        Self {
            kind: format!("{TYPE_BASE}{word}"),
            title: title.to_owned(),
            status,
            detail: detail.into(),
            instance: None,
            request_id: None,
            errors: Vec::new(),
            retry_after_ms: None,
            more: serde_json::Map::new(),
        }
    }

    /// The type's word: `no-such-task`.
    pub fn word(&self) -> &str {
        self.kind.strip_prefix(TYPE_BASE).unwrap_or(&self.kind)
    }
    pub fn errors(mut self, errors: Vec<Fault>) -> Self {
        self.errors = errors;
        self
    }
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.more.insert(name.to_owned(), value.into());
        self
    }
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// What this principal wanted needs a role that it does not have.
    pub fn not_permitted(principal: &Principal, permission: Permission) -> Self {
        let (doing, needs) = match permission {
            Permission::Look => ("looking", Role::Viewer),
            Permission::RunTasks => ("running tasks", Role::Member),
            Permission::Administer => ("managing nodes, tokens and keys", Role::Admin),
        };
        let (name, role) = (&principal.name, principal.role.as_str());
        Self::new("not-permitted", format!("{name} is a {role}; {doing} needs {}.", needs.as_str()))
            .with("needs", needs.as_str())
    }

    /// A task body that was refused: all its faults, under the type that says most.
    pub fn invalid_task(errors: Vec<Fault>) -> Self {
        let missing_source =
            errors.iter().filter(|fault| fault.code == "required" && fault.pointer.starts_with("#/source/")).count();
        let only = |code: &str| errors.iter().all(|fault| fault.code == code);
        let first = errors.first().map_or_else(String::new, |fault| fault.detail.clone());
        let problem = if missing_source > 0 && missing_source == errors.len() {
            Self::new(
                "incomplete-source",
                format!(
                    "{missing_source} of the 5 source fields {} missing.",
                    if missing_source == 1 { "is" } else { "are" }
                ),
            )
        } else if only("not_a_commit_id") {
            Self::new("not-a-commit-id", first)
        } else if only("unknown_field") {
            Self::new("unknown-field", first)
        } else if only("bad_quantity") {
            Self::new("bad-quantity", first)
        } else if errors.len() == 1 {
            Self::new("invalid-task", first)
        } else {
            Self::new("invalid-task", format!("{} fields are wrong.", errors.len()))
        };
        problem.errors(errors)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_a_page() {
        let docs = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/problems");
        for (word, ..) in TYPES {
            assert!(docs.join(format!("{word}.md")).is_file(), "docs/problems/{word}.md is missing");
        }
    }
}
