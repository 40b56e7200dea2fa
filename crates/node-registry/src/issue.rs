//! Issues secrets. They are shown once; what is kept is their hash.

use domain::{
    ids::{ApiKeyId, NodeId, NodeTokenId, ProjectId},
    principal::{Origin, Role},
};
use service_kit::secret::{self, Kind};
use store::{NewApiKey, NewNodeToken, Store, StoreError};
use uuid::Uuid;

/// A node and its token, just made.
#[derive(Clone)]
pub struct Issued {
    pub token_id: NodeTokenId,
    pub node_id: NodeId,
    /// `ud_node_...`: the only time that it is seen.
    pub token: String,
}

/// Makes a node and its token. None: a node of this name is there.
pub async fn create_node_token(
    store: &Store,
    project: ProjectId,
    name: &str,
    origin: &Origin,
) -> Result<Option<Issued>, StoreError> {
    let (token_id, node_id) = (Uuid::now_v7(), NodeId::from_uuid(Uuid::now_v7()));
    let (token, secret_hash) = secret::issue(Kind::Node, token_id);
    let token_id = NodeTokenId::from_uuid(token_id);
    let created_by = origin.principal.id;
    let new = NewNodeToken { id: token_id, node: node_id, project, created_by, name: name.to_owned(), secret_hash };
    let is_made = store.create_node_token(&new, origin).await?;
    Ok(is_made.then_some(Issued { token_id, node_id, token }))
}

pub(crate) async fn create_api_key(
    store: &Store,
    project: ProjectId,
    name: &str,
    role: Role,
    expires_in_days: Option<u32>,
    origin: &Origin,
) -> Result<(ApiKeyId, String), StoreError> {
    let id = Uuid::now_v7();
    let (key, secret_hash) = secret::issue(Kind::ApiKey, id);
    let id = ApiKeyId::from_uuid(id);
    let created_by = origin.principal.id;
    let new = NewApiKey { id, project, created_by, name: name.to_owned(), role, secret_hash, expires_in_days };
    store.create_api_key(&new, origin).await?;
    Ok((id, key))
}

/// What is wrong with a node's name, if something is.
pub(crate) fn name_fault(name: &str) -> Option<&'static str> {
    let is_plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if !(1..=63).contains(&name.len()) || !is_plain {
        return Some("A node's name has 1 to 63 characters: letters, digits, - _ and dots.");
    }
    if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Some("A node's name begins with a letter or a digit.");
    }
    // It would be taken for an id wherever a node may be named either way.
    (Uuid::try_parse(name).is_ok()).then_some("A node's name is not of the form of an id.")
}

#[cfg(test)]
mod tests {
    use super::name_fault;

    #[test]
    fn a_nodes_name_is_a_plain_word() {
        for good in ["lab-8", "a", "pi_attic.home", "8", &"x".repeat(63)] {
            assert_eq!(name_fault(good), None, "{good}");
        }
        for bad in
            ["", " ", "a b", "-x", ".", "ä", "a/b", "a\n", &"x".repeat(64), "01a20390-8054-7c41-9d2f-6b0e41c7a93d"]
        {
            assert!(name_fault(bad).is_some(), "{bad}");
        }
    }
}
