//! `GET /cluster/echo`: a WebSocket that says back what it is told, so that whoever sets up a proxy sees whether sockets, frames of every size
//! that nodes send, and silence get through it.

use crate::AppState;
use axum::{
    extract::{State, WebSocketUpgrade, ws, ws::Message},
    response::{IntoResponse as _, Response},
};
use futures::{SinkExt as _, StreamExt as _};
use protocol::MAX_FRAME_BYTES;
use service_kit::ApiError;
use std::time::Duration;

/// Enough for every size, and for a silence between two.
const MOST_MESSAGES: usize = 16;
const LASTS: Duration = Duration::from_secs(180);

pub(crate) async fn echo(
    State(state): State<AppState>,
    upgrade: Result<WebSocketUpgrade, ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else {
        let detail = "This is for a WebSocket, and the request does not ask for one. A proxy on the way may have dropped its Upgrade header.";
        return ApiError::new("invalid-request", detail).into_response();
    };
    upgrade.max_message_size(MAX_FRAME_BYTES).max_frame_size(MAX_FRAME_BYTES).on_upgrade(move |socket| async move {
        let talk = async move {
            let (mut out, mut into) = socket.split();
            let mut left = MOST_MESSAGES;
            while left > 0
                && let Some(Ok(message)) = into.next().await
            {
                if let Message::Text(_) | Message::Binary(_) = message {
                    left -= 1;
                    if out.send(message).await.is_err() {
                        return;
                    }
                }
            }
            let _ = out.close().await;
        };
        // Not held against an orderly stop: nothing is lost when it is cut.
        state.service.spawn_until_stopped("echo", async move {
            let _ = tokio::time::timeout(LASTS, talk).await;
        });
    })
}
