//! Leaving before the end: Ctrl-C asks, a second one cancels, and SIGTERM cancels at once.

use super::{Answer, Follow, Left};
use crate::{style::Glyph, terminal::Key};
use futures::FutureExt;
use std::time::Instant;

impl Follow<'_> {
    /// Ctrl-C. Some: leave.
    pub(super) fn interrupted(&mut self) -> Option<Left> {
        if self.key.is_some() || self.cancel_until.is_some() || !self.screen.out.can_ask() {
            self.key = None;
            return self.cancel().then_some(Left::Unconfirmed);
        }
        self.screen.line("c cancel, d detach, Enter go on");
        self.key = Some(Key::read());
        None
    }

    /// The answer to the question. True: leave.
    pub(super) fn answered(&mut self, key: Option<u8>) -> bool {
        match key {
            Some(b'c' | b'C') => {
                self.cancel();
            }
            Some(b'd' | b'D') => {
                self.screen.line(&format!("  the task goes on: unidesk logs {} --follow", self.id.short()));
                return true;
            }
            _ => {}
        }
        false
    }

    /// Asks for the task's end. True: that was asked before, so do not wait any longer.
    pub(super) fn cancel(&mut self) -> bool {
        if self.cancel_until.is_some() {
            return true;
        }
        self.cancel_until = Some(Instant::now() + self.grace);
        let (client, id) = (self.server.client.clone(), self.id);
        self.asked.push(async move { Answer::Cancelled(client.cancel(id).await) }.boxed());
        if self.screen.out.stderr_is_terminal {
            self.screen.say(Glyph::Warning, "cancelling", "its node stops it now (Ctrl-C: do not wait for that)");
        }
        false
    }
}

/// The key, once one is pressed; never, while nobody was asked.
pub(super) async fn pressed(key: &mut Option<Key>) -> Option<u8> {
    match key {
        Some(key) => (&mut key.pressed).await.ok(),
        None => std::future::pending().await,
    }
}
