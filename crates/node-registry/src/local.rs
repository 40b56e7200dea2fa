//! What the platform does for itself at its first start: the first administrator's key, and tokens of its own nodes.

use domain::{
    ids::{ApiKeyId, DEFAULT_PROJECT, NodeId, NodeTokenId, PrincipalId},
    principal::{Origin, Principal, PrincipalKind, Role},
};
use service_kit::secret::{self, Kind};
use store::{NewApiKey, NewNodeToken, Store, StoreError};
use uuid::Uuid;

/// The platform acting for itself.
fn origin() -> Origin {
    let principal = Principal { kind: PrincipalKind::Platform, id: PrincipalId::from_uuid(Uuid::nil()), name: "platform".into(), role: Role::Admin, project: None };
    Origin { principal, address: "local".into(), request_id: "start".into() }
}

/// Makes a key that may do everything. The text is seen this once.
pub async fn create_admin_key(store: &Store, name: &str) -> Result<String, StoreError> {
    let id = Uuid::now_v7();
    let (text, secret_hash) = secret::issue(Kind::ApiKey, id);
    let new = NewApiKey {
        id: ApiKeyId::from_uuid(id),
        project: DEFAULT_PROJECT,
        created_by: PrincipalId::from_uuid(id),
        name: name.to_owned(),
        role: Role::Admin,
        secret_hash,
        expires_in_days: None,
    };
    store.create_api_key(&new, &origin()).await?;
    Ok(text)
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
    loop {
        let id = Uuid::now_v7();
        let (text, secret_hash) = secret::issue(Kind::Node, id);
        let new = NewNodeToken {
            id: NodeTokenId::from_uuid(id),
            node: NodeId::from_uuid(Uuid::now_v7()),
            project: DEFAULT_PROJECT,
            created_by: PrincipalId::from_uuid(Uuid::nil()),
            name: name.to_owned(),
            secret_hash,
        };
        if store.create_node_token(&new, &origin()).await? {
            return Ok(text);
        }
        if let Some(lost) = store.token_of_node(name).await? {
            store.revoke_node_token(lost, &origin()).await?;
        }
    }
}
