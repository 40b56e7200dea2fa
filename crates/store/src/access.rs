//! Keys, tokens and the audit log.

pub(crate) mod api_keys;
mod audit;
pub(crate) mod jwt_keys;
pub(crate) mod node_tokens;
