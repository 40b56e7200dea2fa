//! What a check of an installation found: `unidesk doctor`, and the routes that it asks.

use crate::artifact::SignedRequest;
use domain::Timestamp;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckOutcome {
    Ok,
    /// It works, and somebody should look at it before it does not.
    Warning,
    Failed,
    /// It could not be looked at, or there is nothing to look at.
    Skipped,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Its stable name, such as `database-settings`.
    pub id: String,
    pub outcome: CheckOutcome,
    /// What was found, in one sentence.
    pub found: String,
    /// What to do about it. None: nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Check {
    pub fn ok(id: &str, found: impl Into<String>) -> Self {
        Self { id: id.to_owned(), outcome: CheckOutcome::Ok, found: found.into(), advice: None }
    }

    pub fn skipped(id: &str, found: impl Into<String>) -> Self {
        Self { outcome: CheckOutcome::Skipped, ..Self::ok(id, found) }
    }

    pub fn warning(id: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { outcome: CheckOutcome::Warning, advice: Some(advice.into()), ..Self::ok(id, found) }
    }

    pub fn failed(id: &str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { outcome: CheckOutcome::Failed, advice: Some(advice.into()), ..Self::ok(id, found) }
    }
}

/// What `GET /cluster/checks` found: the platform as it sees itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerChecks {
    /// By the clock of the server that answered.
    pub now: Timestamp,
    pub version: String,
    pub checks: Vec<Check>,
}

/// What `POST /artifacts:probe` found, and what a client needs to try the same from outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StoreProbe {
    /// The store as the service reaches it.
    pub checks: Vec<Check>,
    /// None: there is nothing to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outside: Option<OutsideProbe>,
}

/// A small object that a client may put and get. The server deletes it within two hours.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OutsideProbe {
    /// What is to be put.
    pub content: String,
    pub put: SignedRequest,
    pub get: SignedRequest,
}
