//! Which server, and who asks: flag, then environment, then the stored login, then a local `up`. The source that won is kept,
//! since every error about the connection names it.

use crate::{exit, failure::Failure, paths::Places, text::clean};
use client::Client;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use trust::Trust;

/// `~/.config/unidesk/credentials`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Credentials {
    /// Of the last login.
    pub current: Option<String>,
    pub servers: BTreeMap<String, Login>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Login {
    pub token: String,
}

impl Credentials {
    /// Empty when there is no file. Errors: unreadable or not TOML.
    pub fn read(path: &Path) -> Result<Self, String> {
        match std::fs::read_to_string(path) {
            Ok(text) => toml::from_str(&text).map_err(|error| format!("it is not TOML ({})", error.message())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Replaces the file at once, readable by its owner only from its first byte on.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        let unfinished = path.with_extension(format!("new.{}", std::process::id()));
        let text = toml::to_string(self).map_err(std::io::Error::other)?;
        let mut file =
            std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        std::fs::rename(unfinished, path)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UrlFrom {
    Flag,
    Env,
    Login,
    /// The `url` file of a local `up`.
    LocalUp(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenFrom {
    Env,
    Login,
    LocalUp(String),
    Nowhere,
}

/// Everything that a choice is made of.
#[derive(Clone, Debug, Default)]
pub struct Inputs {
    pub flag_url: Option<String>,
    pub env_url: Option<String>,
    pub env_token: Option<String>,
    pub credentials: Credentials,
    /// As shown to people.
    pub credentials_path: String,
    pub local: Option<LocalUp>,
    /// UNIDESK_CA_FILE.
    pub ca_file: Option<PathBuf>,
}

#[derive(Clone, Debug)]
pub struct LocalUp {
    pub dir: String,
    pub url: String,
    pub token: Option<String>,
}

/// What was chosen, and why.
#[derive(Clone, Debug)]
pub struct Connection {
    pub url: String,
    pub url_from: UrlFrom,
    pub token: String,
    pub token_from: TokenFrom,
    /// Of the stored login, when another address won.
    stored: Option<String>,
    credentials_path: String,
    /// Who vouches for the server and its object store.
    pub trust: Trust,
}

impl Inputs {
    pub fn gather(flag_url: Option<String>, places: &Places) -> Result<Self, Failure> {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let path = places.credentials();
        let credentials_path = places.show(&path);
        let credentials = Credentials::read(&path).map_err(|why| {
            Failure::usage(format!("{credentials_path} can't be used: {why}"))
                .note("mend it, or delete it and log in again")
        })?;
        let dir = places.data_dir();
        let file = |name: &str| {
            std::fs::read_to_string(dir.join(name))
                .ok()
                .map(|text| text.trim().to_owned())
                .filter(|text| !text.is_empty())
        };
        let local = file("url").map(|url| LocalUp { dir: places.show(&dir), url, token: file("admin.token") });
        Ok(Self {
            flag_url,
            env_url: text("UNIDESK_URL"),
            env_token: text("UNIDESK_TOKEN"),
            credentials,
            credentials_path,
            local,
            ca_file: text(trust::CA_FILE).map(PathBuf::from),
        })
    }

    pub fn choose(self) -> Result<Connection, Failure> {
        let normal = |url: &str| url.trim().trim_end_matches('/').to_owned();
        let (url, url_from) = if let Some(url) = &self.flag_url {
            (normal(url), UrlFrom::Flag)
        } else if let Some(url) = &self.env_url {
            (normal(url), UrlFrom::Env)
        } else if let Some(url) = &self.credentials.current {
            (normal(url), UrlFrom::Login)
        } else if let Some(local) = &self.local {
            (normal(&local.url), UrlFrom::LocalUp(local.dir.clone()))
        } else {
            return Err(Failure::new(exit::UNREACHABLE, "no server is known")
                .note("start one on this machine: unidesk up")
                .note("or log in to one: unidesk login URL"));
        };
        let local = self.local.filter(|local| normal(&local.url) == url);
        let (token, token_from) = if let Some(token) = self.env_token {
            (token, TokenFrom::Env)
        } else if let Some(login) = self.credentials.servers.get(&url) {
            (login.token.clone(), TokenFrom::Login)
        } else if let Some(LocalUp { token: Some(token), dir, .. }) = local {
            (token, TokenFrom::LocalUp(dir))
        } else {
            (String::new(), TokenFrom::Nowhere)
        };
        let stored = self.credentials.current.filter(|stored| normal(stored) != url);
        let trust = self.ca_file.as_deref().map(trusted).transpose()?.unwrap_or_default();
        Ok(Connection { url, url_from, token, token_from, stored, credentials_path: self.credentials_path, trust })
    }
}

/// The system's certificates and those of this file.
fn trusted(file: &Path) -> Result<Trust, Failure> {
    Trust::with_file(file)
        .map_err(|error| Failure::usage(error.to_string()).note(format!("the file is from {}", trust::CA_FILE)))
}

impl Connection {
    pub fn has_token(&self) -> bool {
        self.token_from != TokenFrom::Nowhere
    }

    pub fn client(&self) -> Result<Client, Failure> {
        Client::trusting(&self.url, &self.token, &self.trust).map_err(|error| Failure::of_client(&error, self))
    }

    /// Where the address came from.
    pub fn describe_url(&self) -> Vec<String> {
        let from = match &self.url_from {
            UrlFrom::Flag => "address from --server".to_owned(),
            UrlFrom::Env => "address from UNIDESK_URL".to_owned(),
            UrlFrom::Login => format!("address from the stored login ({})", self.credentials_path),
            UrlFrom::LocalUp(dir) => format!("address from {dir}/url, written by `unidesk up`; is it still running?"),
        };
        let stored =
            self.stored.as_ref().map_or_else(String::new, |url| format!("; the stored login is for {}", clean(url)));
        vec![from + &stored]
    }

    /// Where the token came from, or why there is none, and what to do.
    pub fn describe_token(&self) -> Vec<String> {
        let login = format!("unidesk login {}", self.url);
        vec![match &self.token_from {
            TokenFrom::Env => format!("token from UNIDESK_TOKEN; set another, or unset it and do: {login}"),
            TokenFrom::Login => format!("token from {}; do: {login}", self.credentials_path),
            TokenFrom::LocalUp(dir) => format!("token from {dir}/admin.token; was that data directory made anew?"),
            TokenFrom::Nowhere => {
                format!("UNIDESK_TOKEN is not set and {} has no entry; do: {login}", self.credentials_path)
            }
        }]
    }

    /// For `whoami`: both sources in a few words.
    pub fn sources(&self) -> (String, String) {
        let url = match &self.url_from {
            UrlFrom::Flag => "--server".to_owned(),
            UrlFrom::Env => "UNIDESK_URL".to_owned(),
            UrlFrom::Login => self.credentials_path.clone(),
            UrlFrom::LocalUp(dir) => format!("{dir}/url"),
        };
        let token = match &self.token_from {
            TokenFrom::Env => "UNIDESK_TOKEN".to_owned(),
            TokenFrom::Login => self.credentials_path.clone(),
            TokenFrom::LocalUp(dir) => format!("{dir}/admin.token"),
            TokenFrom::Nowhere => "none".to_owned(),
        };
        (url, token)
    }
}

#[cfg(test)]
mod tests;
