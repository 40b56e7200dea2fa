//! How the platform refuses a session, so that an agent knows whether to come back.

use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub code: RefusalCode,
    /// One sentence for the owner of the machine.
    pub detail: String,
    /// Come back after so long; None: it makes no sense without a change here.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub retry_after_ms: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// No version that both speak.
    IncompatibleVersion,
    /// Another installation uses this token now.
    OtherInstance,
    Revoked,
    BadHello,
    #[serde(other)]
    Unknown,
}
