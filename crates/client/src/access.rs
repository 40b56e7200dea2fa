//! Routes of API keys and of who is asking.

use crate::{Client, ClientError};
use api_types::access::{ApiKey, ApiKeyList, CreateApiKey, CreatedApiKey, TokenAnswer, TokenRequest, WhoAmI};
use api_types::audit::Audit;
use api_types::page::PageQuery;
use domain::ids::ApiKeyId;

impl Client {
    /// The answer is the only time that the secret is seen.
    pub async fn create_api_key(&self, wanted: &CreateApiKey) -> Result<CreatedApiKey, ClientError> {
        self.create("/api-keys", wanted, None).await
    }

    pub async fn api_keys(&self) -> Result<Vec<ApiKey>, ClientError> {
        let mut keys = Vec::new();
        let mut query = PageQuery::default();
        loop {
            let mut page = self.get::<ApiKeyList>("/api-keys", &query).await?;
            keys.append(&mut page.api_keys);
            match page.next_cursor {
                Some(cursor) => query.cursor = Some(cursor),
                None => return Ok(keys),
            }
        }
    }

    pub async fn revoke_api_key(&self, id: ApiKeyId) -> Result<(), ClientError> {
        self.delete(&format!("/api-keys/{id}")).await
    }

    /// Exchanges an API key for a short-lived token. Needed only by those who must not keep the key.
    pub async fn exchange_token(&self, api_key: &str) -> Result<TokenAnswer, ClientError> {
        self.act("/auth/token", &TokenRequest { api_key: api_key.to_owned() }).await
    }

    /// Asks the live database whether everything is true that always should be. Takes up to half a minute.
    pub async fn audit(&self) -> Result<Audit, ClientError> {
        self.get("/audit/invariants", &()).await
    }

    pub async fn who_am_i(&self) -> Result<WhoAmI, ClientError> {
        self.get("/auth/whoami", &()).await
    }
}
