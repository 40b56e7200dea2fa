//! Where the object store is, and what takes how long.

use crate::{ObjectStore, keys::Keys};
use anyhow::Context as _;
use std::{path::PathBuf, time::Duration};
use trust::Trust;

/// How to reach an S3 object store.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// The S3 object store that keeps artifacts, as the services reach it: its scheme, host and port
    #[arg(long, env = "UNIDESK_S3_ENDPOINT", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    /// The same store as people and nodes reach it; the endpoint by default. Their requests are signed for this host: a proxy must keep it
    #[arg(long, env = "UNIDESK_S3_PUBLIC_ENDPOINT", value_name = "URL")]
    pub s3_public_endpoint: Option<String>,
    /// The bucket that is all ours; made if it is not there
    #[arg(long, env = "UNIDESK_S3_BUCKET", default_value = "unidesk-objects", value_name = "NAME")]
    pub s3_bucket: String,
    /// The store's region
    #[arg(long, env = "UNIDESK_S3_REGION", default_value = "us-east-1", value_name = "NAME")]
    pub s3_region: String,
    /// Who the services are to the store
    #[arg(long, env = "UNIDESK_S3_ACCESS_KEY_ID", hide_env_values = true, value_name = "ID")]
    pub s3_access_key_id: Option<String>,
    /// The secret of that key
    #[arg(long, env = "UNIDESK_S3_SECRET_ACCESS_KEY", hide_env_values = true, value_name = "SECRET")]
    pub s3_secret_access_key: Option<String>,
    /// What belongs to a key that ends by itself
    #[arg(long, env = "UNIDESK_S3_SESSION_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub s3_session_token: Option<String>,
    /// Where the services have their key from
    #[arg(long, env = "UNIDESK_S3_CREDENTIALS", value_enum, default_value_t, value_name = "FROM")]
    pub s3_credentials: Credentials,
    /// The bucket is in the path of an address; false: in its host name
    #[arg(long, env = "UNIDESK_S3_PATH_STYLE", default_value_t = true, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub s3_path_style: bool,
    /// The store wants all parts of an upload but the last to be of one size, as Cloudflare R2 does
    #[arg(long, env = "UNIDESK_S3_EQUAL_PARTS", default_value_t = false, action = clap::ArgAction::Set, value_name = "BOOL")]
    pub s3_equal_parts: bool,
    /// PEM file with certificates that are trusted besides those of the system
    #[arg(long, env = "UNIDESK_S3_CA_FILE", value_name = "FILE")]
    pub s3_ca_file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Credentials {
    /// The settings with a key and its secret
    #[default]
    Key,
    /// As AWS's own programs find them: a web identity, a role of the container or of the instance; renewed in time
    Aws,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            s3_endpoint: None,
            s3_public_endpoint: None,
            s3_bucket: "unidesk-objects".to_owned(),
            s3_region: "us-east-1".to_owned(),
            s3_access_key_id: None,
            s3_secret_access_key: None,
            s3_session_token: None,
            s3_credentials: Credentials::Key,
            s3_path_style: true,
            s3_equal_parts: false,
            s3_ca_file: None,
        }
    }
}

impl Config {
    /// Who vouches for the store.
    pub fn trust(&self) -> anyhow::Result<Trust> {
        let file = self.s3_ca_file.as_deref().map(Trust::with_file).transpose().context("UNIDESK_S3_CA_FILE")?;
        Ok(file.unwrap_or_default())
    }

    /// The object store that is set. None: none is. Errors: half of it is, or the file of certificates is of no use.
    pub fn object_store(&self, times: Times) -> anyhow::Result<Option<ObjectStore>> {
        let Some(endpoint) = self.s3_endpoint.as_deref().filter(|endpoint| !endpoint.is_empty()) else {
            return Ok(None);
        };
        let key = |value: &Option<String>, name: &str| {
            value.clone().with_context(|| {
                format!("UNIDESK_S3_ENDPOINT is set, and {name} is not; both are needed, or UNIDESK_S3_CREDENTIALS=aws")
            })
        };
        let trust = self.trust()?;
        let keys = match self.s3_credentials {
            Credentials::Key => Keys::set(
                &key(&self.s3_access_key_id, "UNIDESK_S3_ACCESS_KEY_ID")?,
                &key(&self.s3_secret_access_key, "UNIDESK_S3_SECRET_ACCESS_KEY")?,
                self.s3_session_token.clone(),
            ),
            Credentials::Aws => {
                anyhow::ensure!(
                    self.s3_access_key_id.is_none() && self.s3_secret_access_key.is_none(),
                    "UNIDESK_S3_CREDENTIALS is aws, and a key is set beside it; unset UNIDESK_S3_ACCESS_KEY_ID and \
                     UNIDESK_S3_SECRET_ACCESS_KEY, or UNIDESK_S3_CREDENTIALS"
                );
                Keys::of_role(&self.s3_region, crate::object_store::http(&trust))
            }
        };
        let place = crate::object_store::Place {
            endpoint: endpoint.to_owned(),
            bucket: self.s3_bucket.clone(),
            region: self.s3_region.clone(),
            keys,
            path_style: self.s3_path_style,
            trust,
            equal_parts: self.s3_equal_parts,
        };
        let public = self.s3_public_endpoint.clone().filter(|public| !public.is_empty());
        Ok(Some(ObjectStore::new(
            place,
            crate::presign::Public::At(public.unwrap_or_else(|| endpoint.to_owned())),
            times,
        )))
    }
}

/// What takes how long. People set none of it; tests are in a hurry.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// How long an address works: 15 minutes.
    pub address: Duration,
    /// An upload that nobody goes on with for so long is given up: a day.
    pub idle_upload: Duration,
    /// After a failure or a cancel its checkpoints are kept for so long, should somebody run the task again: a week.
    pub checkpoints: Duration,
    /// Between the decision to delete and the deletion, so that no address of before works any more, and no download is cut: an hour.
    pub grace: Duration,
    /// Older than this, an object that nothing knows of belongs to nothing: a day.
    pub stray: Duration,
    /// Between two looks at what is to be deleted: a minute.
    pub collect_every: Duration,
    /// Between two passes of the rules about how long artifacts are kept: ten minutes.
    pub rules_every: Duration,
    pub archiving: Archiving,
}

/// When logs leave the database.
#[derive(Clone, Copy, Debug)]
pub struct Archiving {
    /// Between two looks: 20 s.
    pub every: Duration,
    /// For so long after its attempt's end a log stays in any case: 30 s. Its last pieces may come late, and people look at what has just ended.
    pub settle: Duration,
    /// So long after its attempt's end a log is moved, however few wait beside it: five minutes.
    pub wait: Duration,
    /// What a running attempt wrote is moved when it is so old: ten minutes.
    pub age: Duration,
    /// A running attempt that has written more than this since is moved before: 16 MiB.
    pub running_bytes: u64,
    /// Bytes of logs that are enough for an object: 16 MiB.
    pub pack_bytes: u64,
}

impl Default for Archiving {
    fn default() -> Self {
        Self {
            every: Duration::from_secs(20),
            settle: Duration::from_secs(30),
            wait: Duration::from_secs(300),
            age: Duration::from_secs(600),
            running_bytes: 16 << 20,
            pack_bytes: 16 << 20,
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        const HOUR: Duration = Duration::from_secs(3_600);
        Self {
            address: Duration::from_secs(15 * 60),
            idle_upload: 24 * HOUR,
            checkpoints: 7 * 24 * HOUR,
            grace: HOUR,
            stray: 24 * HOUR,
            collect_every: Duration::from_secs(60),
            rules_every: Duration::from_secs(600),
            archiving: Archiving::default(),
        }
    }
}
