//! Who the services are to the store: a key that was set, or the keys of a role, which end by themselves and are followed by others.

use aws_config::{default_provider::credentials::DefaultCredentialsChain, provider_config::ProviderConfig};
use aws_credential_types::{
    Credentials,
    provider::{self, ProvideCredentials, error::CredentialsError, future},
};
use aws_sdk_s3::config::{Region, SharedHttpClient};
use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};
use tokio::{
    sync::{Mutex, OnceCell},
    time::Instant,
};

/// So long before their end keys are asked for anew: more than an address is to live.
const RENEW_BEFORE: Duration = Duration::from_secs(20 * 60);
/// Not more often than so: some get no others until shortly before the end.
const ASK_EVERY: Duration = Duration::from_secs(60);
/// Unless they end now.
const ENDS_NOW: Duration = Duration::from_secs(10);
/// Keys without an end may be exchanged all the same, in a file.
const LOOK_AGAIN: Duration = Duration::from_secs(5 * 60);

/// What signs, and until when. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keys(Arc<Source>);

#[derive(Debug)]
enum Source {
    Set(Credentials),
    Role(Role),
}

/// As AWS's own programs find theirs: environment, files, web identity, container, instance.
#[derive(Debug)]
struct Role {
    region: String,
    http: SharedHttpClient,
    chain: OnceCell<DefaultCredentialsChain>,
    held: Mutex<Option<Held>>,
}

#[derive(Debug)]
struct Held {
    keys: Credentials,
    asked_at: Instant,
}

#[derive(Debug, thiserror::Error)]
#[error(
    "UNIDESK_S3_CREDENTIALS is aws, and no credentials are found: AWS_ROLE_ARN with AWS_WEB_IDENTITY_TOKEN_FILE, a role of the container or of the \
     instance, or others that AWS's programs take"
)]
struct NoKeys(#[source] CredentialsError);

impl Keys {
    pub(crate) fn set(id: &str, secret: &str, session_token: Option<String>) -> Self {
        Self(Arc::new(Source::Set(Credentials::new(id, secret, session_token, None, "unidesk"))))
    }

    /// Nothing is looked for before the first request.
    pub(crate) fn of_role(region: &str, http: SharedHttpClient) -> Self {
        let role = Role { region: region.to_owned(), http, chain: OnceCell::new(), held: Mutex::new(None) };
        Self(Arc::new(Source::Role(role)))
    }

    /// For how long what is signed now holds, at most this long: it ends with the keys that signed it.
    pub(crate) async fn holds_for(&self, most: Duration) -> Result<Duration, CredentialsError> {
        let keys = self.current().await?;
        Ok(left(&keys).map_or(most, |left| Duration::from_secs(left.as_secs()).min(most)))
    }

    async fn current(&self) -> provider::Result {
        match &*self.0 {
            Source::Set(keys) => Ok(keys.clone()),
            Source::Role(role) => role.current().await,
        }
    }
}

impl ProvideCredentials for Keys {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.current())
    }
}

impl Role {
    async fn current(&self) -> provider::Result {
        let mut held = self.held.lock().await;
        if let Some(held) = &*held
            && !is_due(left(&held.keys), held.asked_at.elapsed())
        {
            return Ok(held.keys.clone());
        }
        let asked = self.chain().await.provide_credentials().await;
        match (asked, &mut *held) {
            (Ok(keys), held) => {
                *held = Some(Held { keys: keys.clone(), asked_at: Instant::now() });
                Ok(keys)
            }
            // Whoever hands them out is away; these are good for a while.
            (Err(error), Some(held)) if left(&held.keys).is_none_or(|left| !left.is_zero()) => {
                tracing::warn!(%error, "no new credentials for the object store; those that are held are used to their end");
                held.asked_at = Instant::now();
                Ok(held.keys.clone())
            }
            (Err(error), _) => Err(CredentialsError::provider_error(NoKeys(error))),
        }
    }

    async fn chain(&self) -> &DefaultCredentialsChain {
        let begin = async || {
            let region = Region::new(self.region.clone());
            let config = ProviderConfig::without_region().with_region(Some(region)).with_http_client(self.http.clone());
            DefaultCredentialsChain::builder().configure(config).build().await
        };
        self.chain.get_or_init(begin).await
    }
}

/// Until their end. None: they have none.
fn left(keys: &Credentials) -> Option<Duration> {
    keys.expiry().map(|end| end.duration_since(now()).unwrap_or_default())
}

#[expect(
    clippy::disallowed_methods,
    reason = "whoever hands out keys says their end by the world's clock, as every address has it"
)]
fn now() -> SystemTime {
    SystemTime::now()
}

/// Whether keys are to be asked for anew.
fn is_due(left: Option<Duration>, asked_ago: Duration) -> bool {
    match left {
        None => asked_ago >= LOOK_AGAIN,
        Some(left) => left < ENDS_NOW || left < RENEW_BEFORE && asked_ago >= ASK_EVERY,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_renewed_well_before_their_end_and_not_all_the_time() {
        let seconds = Duration::from_secs;
        for (left, asked_ago, due) in [
            (None, 299, false),
            (None, 300, true),
            (Some(3_600), 100_000, false),
            (Some(1_199), 59, false),
            (Some(1_199), 60, true),
            (Some(9), 1, true),
            (Some(0), 0, true),
        ] {
            assert_eq!(is_due(left.map(seconds), seconds(asked_ago)), due, "{left:?} {asked_ago}");
        }
    }

    #[tokio::test]
    async fn what_is_signed_ends_with_its_keys_and_never_later_than_wanted() {
        let quarter = Duration::from_secs(900);
        let ending = |seconds| {
            let end = now() + Duration::from_secs(seconds);
            Keys(Arc::new(Source::Set(Credentials::new("id", "secret", None, Some(end), "test"))))
        };
        assert_eq!(Keys::set("id", "secret", None).holds_for(quarter).await.expect("keys"), quarter);
        assert_eq!(ending(3_600).holds_for(quarter).await.expect("keys"), quarter);
        let soon = ending(60).holds_for(quarter).await.expect("keys").as_secs();
        assert!((50..=60).contains(&soon), "{soon}");
    }
}
