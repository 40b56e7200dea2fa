//! `unidesk whoami`.

use crate::{
    commands::DONE,
    context::{Context, OrTell},
    failure::Failure,
    render,
};
use serde_json::json;
use std::process::ExitCode;

pub async fn run(context: &Context) -> Result<ExitCode, Failure> {
    let server = context.server()?;
    let me = server.client.who_am_i().await.or_tell(&server)?;
    let (url_from, token_from) = server.connection.sources();
    if context.out.is_json() {
        let mut value = serde_json::to_value(&me).unwrap_or_default();
        value["server"] = json!({"url": server.connection.url, "url_from": url_from, "token_from": token_from});
        context.out.json(&value)?;
    } else {
        context.out.data(&render::access::who(&me, &server.connection.url, &url_from, &token_from))?;
    }
    Ok(DONE)
}
