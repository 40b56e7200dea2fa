//! Keys, and who one is.

use super::View;
use crate::{
    table::Table,
    text::{clean, show_age},
};
use api_types::access::{ApiKey, WhoAmI};

pub fn keys(keys: &[ApiKey], view: &View) -> Table {
    let mut table = Table::new(["ID", "NAME", "ROLE", "PROJECT", "AGE", "BY", "STATE"]);
    let now = view.now.to_utc();
    for key in keys {
        let state = match (key.revoked_at, key.expires_at) {
            (Some(_), _) => "revoked".to_owned(),
            (None, Some(at)) if at <= now => "expired".to_owned(),
            (None, Some(at)) => format!("expires in {}", show_age(at - now)),
            (None, None) => "valid".to_owned(),
        };
        table.row([
            key.id.to_string().into(),
            key.name.as_str().into(),
            key.role.as_str().into(),
            key.project.as_deref().unwrap_or("all").into(),
            show_age(now - key.created_at).into(),
            key.created_by.as_str().into(),
            state.into(),
        ]);
    }
    table
}

/// `url_from`, `token_from`: which setting was read from where.
pub fn who(me: &WhoAmI, url: &str, url_from: &str, token_from: &str) -> String {
    let project = me
        .project
        .as_deref()
        .map_or_else(|| "all projects".to_owned(), |project| format!("project {}", clean(project)));
    format!(
        "{} ({}, {project})\nserver     {} version {}, address from {}\ntoken      from {}\n",
        clean(&me.name),
        me.role.as_str(),
        clean(url),
        clean(&me.server_version),
        clean(url_from),
        clean(token_from),
    )
}
