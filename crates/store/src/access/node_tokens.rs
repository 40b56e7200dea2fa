//! Nodes' pre-issued tokens: one node each, stored as a hash, revocable at once.

use crate::{
    Store, StoreError, Topic,
    attempts::replace::{Machine, give_up},
    leader,
};
use domain::{
    Timestamp,
    ids::{NodeId, NodeTokenId, PrincipalId, ProjectId, TaskId},
    principal::Origin,
};
use std::collections::BTreeMap;
use uuid::Uuid;

#[derive(Clone, Debug)]
pub struct NewNodeToken {
    pub id: NodeTokenId,
    pub node: NodeId,
    pub project: ProjectId,
    pub created_by: PrincipalId,
    /// Of the node.
    pub name: String,
    /// SHA-256 of the secret.
    pub secret_hash: Vec<u8>,
}

/// Whom a token lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeTokenOwner {
    pub node: NodeId,
    pub name: String,
    pub secret_hash: Vec<u8>,
    pub is_revoked: bool,
    /// The node's newest session so far.
    pub newest_epoch: i64,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NodeTokenRecord {
    pub id: NodeTokenId,
    pub node: NodeId,
    pub name: String,
    pub created_by: String,
    pub created_at: Timestamp,
    pub revoked_at: Option<Timestamp>,
}

/// What became of a wish to revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Revoked {
    Done,
    NoSuchToken,
    /// Nothing was changed: this task must never run twice at once, and whether it stopped there nobody could say.
    IsExclusive(TaskId),
}

/// Tokens that one statement reads, each with its node's name and its maker's.
const TOKENS_AT_ONCE: usize = 50;

impl Store {
    /// Makes a node and its token. False: a node of this name is there.
    pub async fn create_node_token(&self, new: &NewNodeToken, origin: &Origin) -> Result<bool, StoreError> {
        let mut transaction = self.begin().await?;
        let made = sqlx::query!(
            "INSERT INTO nodes (id, project_id, name) VALUES ($1, $2, $3)",
            new.node.as_uuid(),
            new.project.as_uuid(),
            new.name
        )
        .execute(&mut *transaction)
        .await
        .map_err(StoreError::from);
        match made {
            Err(error) if error.constraint() == Some("nodes_name_unique") => return Ok(false),
            made => made?,
        };
        sqlx::query!("INSERT INTO node_live (node_id) VALUES ($1)", new.node.as_uuid())
            .execute(&mut *transaction)
            .await?;
        sqlx::query!(
            "INSERT INTO node_tokens (id, project_id, created_by, node_id, secret_hash) VALUES ($1, $2, $3, $4, $5)",
            new.id.as_uuid(),
            new.project.as_uuid(),
            new.created_by.as_uuid(),
            new.node.as_uuid(),
            new.secret_hash
        )
        .execute(&mut *transaction)
        .await?;
        let detail = serde_json::json!({ "node": new.node, "name": new.name });
        self.write_audit(
            &mut transaction,
            Some(new.project),
            origin,
            "node_token.create",
            &new.id.to_string(),
            &detail,
        )
        .await?;
        transaction.commit().await?;
        Ok(true)
    }

    pub async fn node_token(&self, id: NodeTokenId) -> Result<Option<NodeTokenOwner>, StoreError> {
        Ok(self.node_tokens(&[id]).await?.pop().flatten())
    }

    /// One answer for each, in their order.
    pub async fn node_tokens(&self, ids: &[NodeTokenId]) -> Result<Vec<Option<NodeTokenOwner>>, StoreError> {
        let rows = sqlx::query!(
            r#"SELECT k.id, k.node_id, n.name, k.secret_hash, (k.revoked_at IS NOT NULL OR n.admission = 'revoked') AS "is_revoked!", l.session_epoch
               FROM node_tokens k JOIN nodes n ON n.id = k.node_id JOIN node_live l ON l.node_id = n.id WHERE k.id = ANY($1)"#,
            &ids.iter().map(|id| id.as_uuid()).collect::<Vec<_>>()
        )
        .fetch_all(&self.pool)
        .await?;
        let owners = rows.into_iter().map(|row| {
            let owner = NodeTokenOwner {
                node: NodeId::from_uuid(row.node_id),
                name: row.name,
                secret_hash: row.secret_hash,
                is_revoked: row.is_revoked,
                newest_epoch: row.session_epoch,
            };
            (NodeTokenId::from_uuid(row.id), owner)
        });
        let owners: BTreeMap<NodeTokenId, NodeTokenOwner> = owners.collect();
        Ok(ids.iter().map(|id| owners.get(id).cloned()).collect())
    }

    /// The next tokens before this one, the newest first: up to `limit`.
    pub async fn list_node_tokens(
        &self,
        before: Option<NodeTokenId>,
        limit: usize,
    ) -> Result<Vec<NodeTokenRecord>, StoreError> {
        let mut tokens: Vec<NodeTokenRecord> = Vec::new();
        loop {
            let from = tokens.last().map(|token| token.id).or(before).map_or(Uuid::max(), NodeTokenId::as_uuid);
            let at_once = TOKENS_AT_ONCE.min(limit - tokens.len());
            let rows = sqlx::query!(
                r#"SELECT k.id, k.node_id, n.name, COALESCE(m.name, 'platform') AS "created_by!", k.created_at, k.revoked_at
                   FROM node_tokens k JOIN nodes n ON n.id = k.node_id LEFT JOIN api_keys m ON m.id = k.created_by
                   WHERE k.id < $1 ORDER BY k.id DESC LIMIT $2"#,
                from,
                at_once as i64
            )
            .fetch_all(&self.pool)
            .await?;
            let is_last = rows.len() < at_once;
            tokens.extend(rows.into_iter().map(|row| NodeTokenRecord {
                id: NodeTokenId::from_uuid(row.id),
                node: NodeId::from_uuid(row.node_id),
                name: row.name,
                created_by: row.created_by,
                created_at: row.created_at,
                revoked_at: row.revoked_at,
            }));
            if is_last || tokens.len() >= limit {
                return Ok(tokens);
            }
        }
    }

    /// Revokes a token and with it its node: what runs there is told to stop and the session is closed. It is placed again once the
    /// node is offline for as long as its task says; with `evict` at once, which may overlap with what has not stopped yet.
    /// Safe to repeat.
    pub async fn revoke_node_token(
        &self,
        id: NodeTokenId,
        evict: bool,
        origin: &Origin,
    ) -> Result<Revoked, StoreError> {
        let mut transaction = self.begin().await?;
        leader::hold_placements(&mut transaction).await?;
        let row = sqlx::query!("UPDATE node_tokens SET revoked_at = COALESCE(revoked_at, now()) WHERE id = $1 RETURNING node_id, project_id", id.as_uuid())
            .fetch_optional(&mut *transaction)
            .await?;
        let Some(row) = row else { return Ok(Revoked::NoSuchToken) };
        let node = NodeId::from_uuid(row.node_id);
        sqlx::query!("UPDATE nodes SET admission = 'revoked' WHERE id = $1", row.node_id)
            .execute(&mut *transaction)
            .await?;
        sqlx::query!(
            // It is heard no more, so it counts as offline when its silence would have been noticed: the sweep does not look at it.
            "UPDATE node_live SET connected = false, session_epoch = session_epoch + 1,
                    offline_at_ms = CASE WHEN offline_since IS NOT NULL THEN offline_at_ms END,
                    offline_since = COALESCE(offline_since, now() + interval '1 millisecond' * GREATEST(
                      (SELECT offline_after_ms FROM cluster), (SELECT max(offline_after_ms) FROM attempts WHERE node_id = $1 AND reserved AND offline_after_ms IS NOT NULL)))
             WHERE node_id = $1",
            row.node_id
        )
        .execute(&mut *transaction)
        .await?;
        let mut topics = Vec::new();
        if evict {
            let live = sqlx::query!(
                r#"SELECT a.id, a.task_id, COALESCE((t.spec->'on_node_loss'->>'exclusive')::bool, false) AS "exclusive!"
                   FROM attempts a JOIN tasks t ON t.id = a.task_id WHERE a.node_id = $1 AND a.reserved AND a.ended_at IS NULL ORDER BY a.task_id"#,
                row.node_id
            )
            .fetch_all(&mut *transaction)
            .await?;
            if let Some(exclusive) = live.iter().find(|attempt| attempt.exclusive) {
                return Ok(Revoked::IsExclusive(TaskId::from_uuid(exclusive.task_id)));
            }
            let live: Vec<_> = live.iter().map(|attempt| attempt.id).collect();
            topics = give_up(&mut transaction, node, &live, "its node was revoked", Machine::MayGoOn).await?;
        }
        self.write_audit(
            &mut transaction,
            Some(ProjectId::from_uuid(row.project_id)),
            origin,
            "node_token.revoke",
            &id.to_string(),
            &serde_json::json!({ "node": node, "evict": evict }),
        )
        .await?;
        transaction.commit().await?;
        topics.extend([Topic::Room(node), Topic::Node(node), Topic::Access]);
        self.wakeups.publish(topics);
        Ok(Revoked::Done)
    }

    /// The token of a node, by its name or id.
    pub async fn token_of_node(&self, name_or_id: &str) -> Result<Option<NodeTokenId>, StoreError> {
        let id = sqlx::query_scalar!(
            "SELECT k.id FROM node_tokens k JOIN nodes n ON n.id = k.node_id WHERE (n.name = $1 OR n.id::text = $1) AND k.revoked_at IS NULL ORDER BY k.created_at DESC LIMIT 1",
            name_or_id
        )
        .fetch_optional(&self.pool)
        .await?;
        Ok(id.map(NodeTokenId::from_uuid))
    }
}
