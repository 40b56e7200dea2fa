//! `last`: the newest task that this user submitted to a server, kept on this machine.

use crate::paths::Places;
use domain::ids::TaskId;
use std::{collections::BTreeMap, fs};

/// Remembers it. A convenience: when it can't be kept, the submission has worked all the same.
pub fn remember(places: &Places, server: &str, id: TaskId) {
    let path = places.last_task();
    let mut all = read(places);
    all.insert(server.to_owned(), id.to_string());
    let Ok(text) = toml::to_string(&all) else { return };
    if let Some(dir) = path.parent() {
        let _ = fs::create_dir_all(dir);
    }
    let unfinished = path.with_extension(format!("new.{}", std::process::id()));
    let _ = fs::write(&unfinished, text).and_then(|()| fs::rename(&unfinished, &path));
}

pub fn recall(places: &Places, server: &str) -> Option<TaskId> {
    read(places).get(server)?.parse().ok()
}

fn read(places: &Places) -> BTreeMap<String, String> {
    fs::read_to_string(places.last_task()).ok().and_then(|text| toml::from_str(&text).ok()).unwrap_or_default()
}
