//! Which API keys are valid, remembered for a moment: a request must not cost a query, and a revoked key must stop within 5 s
//! even where no wake-up is heard.

use super::jwt::{self, ClaimedAttempt, Refusal};
use domain::{
    ids::{ApiKeyId, Held, NodeId, PrincipalId},
    principal::{Permission, Principal, PrincipalKind, Role},
};
use service_kit::secret;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use store::{ApiKeyRecord, JwtKey, Store, StoreError, Subscription, Topic};
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

const REMEMBERED_FOR: Duration = Duration::from_secs(2);
/// More keys than are in use at once anywhere; then all are forgotten.
const MAX_REMEMBERED: usize = 10_000;
const SIGNING_KEYS_REMEMBERED: Duration = Duration::from_secs(10);

/// When it was read, and what.
type Remembered = (Instant, Arc<ApiKeyRecord>);

/// A handle, cheap to clone.
#[derive(Clone)]
pub(crate) struct Access {
    store: Store,
    valid: Arc<Mutex<HashMap<Uuid, Remembered>>>,
    signing: Arc<Mutex<(Option<Instant>, Vec<JwtKey>)>>,
}

impl Access {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, valid: Arc::default(), signing: Arc::default() }
    }

    /// The valid key that this text is. None: it is none.
    pub(super) async fn by_key(&self, text: &str) -> Result<Option<Arc<ApiKeyRecord>>, StoreError> {
        // A mistyped key has a wrong checksum and costs no query.
        let Some((id, hash)) = secret::parse(secret::Kind::ApiKey, text) else { return Ok(None) };
        // What is remembered answers only to its own secret, so that a wrong one takes as long for a known id as for an unknown.
        if let Some(known) = self.remembered(id).filter(|known| secret::same(&known.secret_hash, &hash)) {
            return Ok(Some(known));
        }
        let found = self.store.api_key(ApiKeyId::from_uuid(id)).await?;
        let stored = found.as_ref().map_or(&[0; 32][..], |found| &found.secret_hash);
        let is_same = secret::same(stored, &hash);
        Ok(found.filter(|found| is_same && found.is_valid).map(|found| self.remember(found)))
    }

    /// The valid key behind a token. The token itself may be refused.
    pub(super) async fn by_token(&self, token: &str) -> Result<Result<Arc<ApiKeyRecord>, Refusal>, StoreError> {
        let keys = self.signing_keys().await?;
        let claimed = match jwt::verify(token, &keys, chrono::Utc::now().timestamp()) {
            Ok(claimed) => claimed,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let found = self.by_id(claimed.principal).await?;
        Ok(found.filter(|found| found.role == claimed.role).ok_or(Refusal::Invalid))
    }

    /// The valid key of this id.
    pub(super) async fn by_id(&self, id: Uuid) -> Result<Option<Arc<ApiKeyRecord>>, StoreError> {
        if let Some(known) = self.remembered(id) {
            return Ok(Some(known));
        }
        let found = self.store.api_key(ApiKeyId::from_uuid(id)).await?;
        Ok(found.filter(|found| found.is_valid).map(|found| self.remember(found)))
    }

    /// A token for this key, and for how many seconds it holds.
    pub(super) async fn issue_token(&self, key: &ApiKeyRecord) -> Result<Option<(String, u64)>, StoreError> {
        let keys = self.signing_keys().await?;
        let signed = keys
            .first()
            .and_then(|signing| jwt::sign(signing, key.id.as_uuid(), key.role, chrono::Utc::now().timestamp()));
        Ok(signed.map(|token| (token, jwt::LIFETIME_S)))
    }

    /// A token for the files of one attempt, which this key has asked for, and for how many seconds it holds.
    pub(crate) async fn issue_attempt_token(
        &self,
        by: PrincipalId,
        held: Held,
        node: NodeId,
    ) -> Result<Option<(String, u64)>, StoreError> {
        let keys = self.signing_keys().await?;
        let what = ClaimedAttempt { by: by.as_uuid(), held, node };
        let signed = keys.first().and_then(|signing| jwt::sign_attempt(signing, &what, chrono::Utc::now().timestamp()));
        Ok(signed.map(|token| (token, jwt::LIFETIME_S)))
    }

    /// The attempt that a token is for, and who had it made. None: it is none, or is over, or its maker's key is valid no more.
    pub(crate) async fn by_attempt_token(&self, token: &str) -> Result<Option<(Held, NodeId, Principal)>, StoreError> {
        let keys = self.signing_keys().await?;
        let Ok(claimed) = jwt::verify_attempt(token, &keys, chrono::Utc::now().timestamp()) else { return Ok(None) };
        let maker = self.by_id(claimed.by).await?.filter(|key| principal(key).may(Permission::Administer));
        Ok(maker.map(|key| (claimed.held, claimed.node, principal(&key))))
    }

    pub(crate) async fn load_signing_keys(&self) -> Result<Vec<JwtKey>, StoreError> {
        let candidate =
            JwtKey { kid: Uuid::new_v4().simple().to_string(), secret: rand::random::<[u8; 32]>().to_vec() };
        let keys = self.store.jwt_keys(&candidate).await?;
        *self.signing.lock().unwrap_or_else(PoisonError::into_inner) = (Some(Instant::now()), keys.clone());
        Ok(keys)
    }

    async fn signing_keys(&self) -> Result<Vec<JwtKey>, StoreError> {
        {
            let signing = self.signing.lock().unwrap_or_else(PoisonError::into_inner);
            if signing.0.is_some_and(|at| at.elapsed() < SIGNING_KEYS_REMEMBERED) {
                return Ok(signing.1.clone());
            }
        }
        self.load_signing_keys().await
    }

    /// Forgets what is remembered as soon as somebody says that a key was revoked.
    pub(crate) async fn forget_what_is_revoked(self, mut wakeups: Subscription) {
        loop {
            match wakeups.recv().await {
                Ok(Topic::Access) | Err(RecvError::Lagged(_)) => self.forget(),
                Ok(_) => {}
                Err(RecvError::Closed) => return,
            }
        }
    }

    fn forget(&self) {
        self.valid.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn remembered(&self, id: Uuid) -> Option<Arc<ApiKeyRecord>> {
        let valid = self.valid.lock().unwrap_or_else(PoisonError::into_inner);
        valid.get(&id).filter(|(at, _)| at.elapsed() < REMEMBERED_FOR).map(|(_, key)| key.clone())
    }

    fn remember(&self, key: ApiKeyRecord) -> Arc<ApiKeyRecord> {
        let key = Arc::new(key);
        let mut valid = self.valid.lock().unwrap_or_else(PoisonError::into_inner);
        if valid.len() >= MAX_REMEMBERED {
            valid.clear();
        }
        valid.insert(key.id.as_uuid(), (Instant::now(), key.clone()));
        key
    }
}

/// An admin's key acts in all projects, any other one in its own.
pub(super) fn principal(key: &ApiKeyRecord) -> Principal {
    Principal {
        kind: PrincipalKind::ApiKey,
        id: PrincipalId::from_uuid(key.id.as_uuid()),
        name: key.name.clone(),
        role: key.role,
        project: (key.role != Role::Admin).then_some(key.project),
    }
}
