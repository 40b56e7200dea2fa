//! API keys and the short-lived tokens they are exchanged for.

use chrono::{DateTime, Utc};
use domain::{
    ids::{ApiKeyId, AttemptId},
    principal::Role,
};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRequest {
    pub api_key: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenAnswer {
    pub access_token: String,
    /// Always `Bearer`.
    pub token_type: String,
    pub expires_in_s: u64,
}

/// `POST /tasks/{id}/credentials`: who has it moves the files of one attempt, as its node does, and nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AttemptCredential {
    pub token: String,
    /// Always `Bearer`.
    pub token_type: String,
    /// At most 15 minutes ahead. Worth nothing before that, too, once the attempt has ended or another one has the task.
    pub expires_at: DateTime<Utc>,
    pub attempt: AttemptId,
    /// What it opens: `/api/v1/node/attempts/ATTEMPT/FENCE`, and the routes of inputs, outputs and checkpoints below.
    pub path: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateApiKey {
    pub name: String,
    pub role: Role,
    /// Slug of the project it acts in; `default` when left out. An admin's key acts in all.
    #[serde(default)]
    pub project: Option<String>,
    /// 1 to 3,650 days; never expires when left out.
    #[serde(default)]
    pub expires_in_days: Option<u32>,
}

/// The answer to a creation: the only time that the secret is seen.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CreatedApiKey {
    pub id: ApiKeyId,
    pub name: String,
    pub role: Role,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub name: String,
    pub role: Role,
    pub project: Option<String>,
    pub created_by: String,
    pub created_at: DateTime<Utc>,
    pub expires_at: Option<DateTime<Utc>>,
    pub revoked_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ApiKeyList {
    /// The newest first.
    pub api_keys: Vec<ApiKey>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub next_cursor: Option<String>,
}

/// `GET /auth/whoami`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WhoAmI {
    pub kind: String,
    pub name: String,
    pub role: Role,
    pub project: Option<String>,
    pub server_version: String,
}
