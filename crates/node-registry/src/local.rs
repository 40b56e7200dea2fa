//! What the platform does for itself: the first administrator's key, and tokens of its own nodes.

use crate::issue::{create_api_key, create_node_token};
use domain::{
    ids::{ApiKeyId, DEFAULT_PROJECT, NodeTokenId},
    principal::{Origin, Role},
};
use service_kit::secret::{self, Kind};
use store::{Revoked, Store, StoreError};

/// Makes a key that may do everything. The text is seen this once.
pub async fn create_admin_key(store: &Store, name: &str) -> Result<String, StoreError> {
    let (_, key) = create_api_key(store, DEFAULT_PROJECT, name, Role::Admin, None, &Origin::platform("local")).await?;
    Ok(key)
}

pub async fn is_valid_api_key(store: &Store, text: &str) -> Result<bool, StoreError> {
    let Some((id, hash)) = secret::parse(Kind::ApiKey, text) else { return Ok(false) };
    let key = store.api_key(ApiKeyId::from_uuid(id)).await?;
    Ok(key.is_some_and(|key| key.is_valid && secret::same(&key.secret_hash, &hash)))
}

pub async fn is_valid_node_token(store: &Store, text: &str) -> Result<bool, StoreError> {
    let Some((id, hash)) = secret::parse(Kind::Node, text) else { return Ok(false) };
    let owner = store.node_token(NodeTokenId::from_uuid(id)).await?;
    Ok(owner.is_some_and(|owner| !owner.is_revoked && secret::same(&owner.secret_hash, &hash)))
}

/// Makes a node and its token, in place of one of that name whose token is lost. The text is seen this once.
pub async fn replace_node(store: &Store, name: &str) -> Result<String, StoreError> {
    let origin = Origin::platform("local");
    loop {
        if let Some(issued) = create_node_token(store, DEFAULT_PROJECT, name, &origin).await? {
            return Ok(issued.token);
        }
        if let Some(lost) = store.token_of_node(name).await? {
            // Its agent went with its token; what must never run twice at once waits until that is certain.
            if let Revoked::IsExclusive(_) = store.revoke_node_token(lost, true, &origin).await? {
                store.revoke_node_token(lost, false, &origin).await?;
            }
        }
    }
}
