//! Routes of nodes, their tokens, and the cluster.

use crate::{Client, ClientError};
use api_types::node::{
    ClusterStatus, CreateNodeToken, CreatedNodeToken, DrainRequest, Node, NodeList, NodeToken, NodeTokenList,
};
use api_types::page::PageQuery;
use domain::ids::{NodeId, NodeTokenId};
use serde_json::json;

impl Client {
    pub async fn nodes(&self) -> Result<Vec<Node>, ClientError> {
        let mut nodes = Vec::new();
        let mut query = PageQuery::default();
        loop {
            let mut page = self.get::<NodeList>("/nodes", &query).await?;
            nodes.append(&mut page.nodes);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(nodes),
            }
        }
    }

    pub async fn node(&self, id: NodeId) -> Result<Node, ClientError> {
        self.get(&format!("/nodes/{id}"), &()).await
    }

    /// Gives it no new work; what runs there goes on, at most until `deadline` (`1h`). Asking again changes both.
    pub async fn drain_node(&self, id: NodeId, note: &str, deadline: Option<&str>) -> Result<Node, ClientError> {
        let request = DrainRequest { note: note.to_owned(), deadline: deadline.map(str::to_owned) };
        self.act(&format!("/nodes/{id}/drain"), &request).await
    }

    pub async fn resume_node(&self, id: NodeId) -> Result<Node, ClientError> {
        self.act(&format!("/nodes/{id}/resume"), &json!({})).await
    }

    /// The answer is the only time that the secret is seen.
    pub async fn create_node_token(&self, name: &str) -> Result<CreatedNodeToken, ClientError> {
        self.create("/node-tokens", &CreateNodeToken { name: name.to_owned() }, None).await
    }

    pub async fn node_tokens(&self) -> Result<Vec<NodeToken>, ClientError> {
        let mut tokens = Vec::new();
        let mut query = PageQuery::default();
        loop {
            let mut page = self.get::<NodeTokenList>("/node-tokens", &query).await?;
            tokens.append(&mut page.tokens);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(tokens),
            }
        }
    }

    /// Its node is cut off at once and can't come back with it. `evict`: what runs there is placed elsewhere at once.
    pub async fn revoke_node_token(&self, id: NodeTokenId, evict: bool) -> Result<(), ClientError> {
        let query = if evict { "?evict=true" } else { "" };
        self.delete(&format!("/node-tokens/{id}{query}")).await
    }

    pub async fn cluster_status(&self) -> Result<ClusterStatus, ClientError> {
        self.get("/cluster/status", &()).await
    }
}
