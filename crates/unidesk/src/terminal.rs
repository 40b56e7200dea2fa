//! The terminal's modes, changed for a moment and always given back.

use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr};
use std::{
    io::Read,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

/// What is typed is not shown, until this is dropped.
pub struct Quiet {
    before: Option<Termios>,
}

impl Quiet {
    pub fn enter() -> Self {
        Self { before: change(|modes| modes.local_modes.remove(LocalModes::ECHO)) }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}

fn change(how: impl FnOnce(&mut Termios)) -> Option<Termios> {
    let before = tcgetattr(std::io::stdin()).ok()?;
    let mut modes = before.clone();
    how(&mut modes);
    tcsetattr(std::io::stdin(), OptionalActions::Now, &modes).ok()?;
    Some(before)
}

/// One key, without Enter. Dropping it stops the reading within a tenth of a second.
pub struct Key {
    pub pressed: tokio::sync::oneshot::Receiver<u8>,
    stop: Arc<AtomicBool>,
}

impl Key {
    /// Reads on a thread of its own, since a terminal can't be polled everywhere that it can be read.
    pub fn read() -> Self {
        let (send, pressed) = tokio::sync::oneshot::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        std::thread::spawn(move || {
            let before = change(|modes| {
                modes.local_modes.remove(LocalModes::ECHO | LocalModes::ICANON);
                modes.special_codes[SpecialCodeIndex::VMIN] = 0;
                modes.special_codes[SpecialCodeIndex::VTIME] = 1;
            });
            let quiet = Quiet { before };
            let mut key = [0];
            while quiet.before.is_some() && !stopped.load(Ordering::Relaxed) {
                match std::io::stdin().read(&mut key) {
                    Ok(0) => {}
                    Ok(_) => {
                        drop(quiet);
                        let _ = send.send(key[0]);
                        return;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(_) => return,
                }
            }
        });
        Self { pressed, stop }
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}
