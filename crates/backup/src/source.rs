//! The database that is backed up, and with which programs.

use anyhow::Context as _;
use local_postgres::Programs;
use std::process::Command;
use store::{DatabaseConfig, ServerFacts, Store};

#[derive(Clone)]
pub struct Source {
    pub(crate) programs: Programs,
    pub(crate) store: Store,
    url: String,
    password: Option<String>,
}

impl Source {
    pub async fn connect(programs: Programs, url: &str) -> anyhow::Result<Self> {
        let config = DatabaseConfig { url: url.to_owned(), max_connections: 2, shared: false };
        let store = Store::connect(&config).await.context("connecting to PostgreSQL")?;
        let (url, password) = split_password(url);
        Ok(Self { programs, store, url, password })
    }

    /// A program that connects there. Its arguments are seen by everybody on this machine, so the password is not among them.
    pub(crate) fn command(&self, program: &str) -> Command {
        client(&self.programs, program, &self.url, self.password.as_deref())
    }

    /// As it is now, if these programs are new enough for it.
    pub(crate) async fn facts(&self) -> anyhow::Result<ServerFacts> {
        let facts = self.store.server_facts().await.context("asking the server what it is")?;
        let ours = self.programs.major_version().await?;
        anyhow::ensure!(
            ours >= facts.major_version,
            "the programs here are those of PostgreSQL {ours}, the server is of version {}: install postgresql-{}, or name the \
             directory of its programs in UNIDESK_PG_BIN",
            facts.major_version,
            facts.major_version
        );
        Ok(facts)
    }

    pub async fn close(&self) {
        self.store.close().await;
    }
}

pub(crate) fn client(programs: &Programs, program: &str, url: &str, password: Option<&str>) -> Command {
    let mut command = programs.command(program);
    command.env("PGCONNECT_TIMEOUT", "10").arg("--no-password").arg("-d").arg(url);
    if let Some(password) = password {
        command.env("PGPASSWORD", password);
    }
    command
}

/// An address without its password, and that: it may stand behind the user's name, or among the parameters.
pub(crate) fn split_password(url: &str) -> (String, Option<String>) {
    if let Some((before, parameters)) = url.split_once('?')
        && let Some(password) = parameters.split('&').find_map(|parameter| parameter.strip_prefix("password="))
    {
        let others: Vec<&str> = parameters.split('&').filter(|other| !other.starts_with("password=")).collect();
        let separator = if others.is_empty() { "" } else { "?" };
        return (format!("{before}{separator}{}", others.join("&")), decode(password));
    }
    let parts = || {
        let (scheme, rest) = url.split_once("://")?;
        let authority = &rest[..rest.find(['/', '?']).unwrap_or(rest.len())];
        let (user_info, _) = authority.rsplit_once('@')?;
        let (user, password) = user_info.split_once(':')?;
        let password = decode(password)?;
        Some((format!("{scheme}://{user}{}", &rest[user_info.len()..]), Some(password)))
    };
    parts().unwrap_or_else(|| (url.to_owned(), None))
}

fn decode(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_taken_out_of_an_address_as_it_was_meant() {
        for (url, without, password) in [
            (
                "postgres://ana:s%3Ae%40cret@db:5432/unidesk?sslmode=require",
                "postgres://ana@db:5432/unidesk?sslmode=require",
                Some("s:e@cret"),
            ),
            ("postgres://ana@db/unidesk", "postgres://ana@db/unidesk", None),
            ("postgres://ana@db/unidesk?password=s%3Ae", "postgres://ana@db/unidesk", Some("s:e")),
            ("postgres://ana@db/u?a=1&password=se&b=2", "postgres://ana@db/u?a=1&b=2", Some("se")),
            ("postgres:///unidesk?host=/run/x:y@z", "postgres:///unidesk?host=/run/x:y@z", None),
        ] {
            assert_eq!(split_password(url), (without.to_owned(), password.map(str::to_owned)), "{url}");
        }
    }
}
