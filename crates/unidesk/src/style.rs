//! Colour and glyphs: they repeat what a word already says, and are left out where they would not be seen.

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    pub colour: bool,
    /// Else the glyphs are `ok x ! *`.
    pub unicode: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Good,
    Bad,
    Warning,
    Live,
    Faint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Glyph {
    Done,
    Failed,
    Warning,
    /// Something is going on.
    Busy,
}

impl Style {
    pub const PLAIN: Self = Self { colour: false, unicode: true };

    pub fn paint(&self, tone: Tone, text: &str) -> String {
        if !self.colour || text.is_empty() {
            return text.to_owned();
        }
        let code = match tone {
            Tone::Good => 32,
            Tone::Bad => 31,
            Tone::Warning => 33,
            Tone::Live => 36,
            Tone::Faint => 2,
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    pub fn glyph(&self, glyph: Glyph) -> String {
        let (fancy, plain, tone) = match glyph {
            Glyph::Done => ("✓", "ok", Tone::Good),
            Glyph::Failed => ("✗", "x", Tone::Bad),
            Glyph::Warning => ("!", "!", Tone::Warning),
            Glyph::Busy => ("·", "*", Tone::Live),
        };
        self.paint(tone, if self.unicode { fancy } else { plain })
    }

    /// `✓ placed     on lab-3`: a glyph, a word in its column, the rest.
    pub fn phase(&self, glyph: Glyph, word: &str, rest: &str) -> String {
        let word = match glyph {
            Glyph::Failed => self.paint(Tone::Bad, &format!("{word:<10}")),
            Glyph::Done | Glyph::Warning | Glyph::Busy => format!("{word:<10}"),
        };
        format!("{} {word} {rest}", self.glyph(glyph)).trim_end().to_owned()
    }

    pub fn bar(&self, share: f64, cells: usize) -> String {
        let full = (share.clamp(0.0, 1.0) * cells as f64).round() as usize;
        let (on, off) = if self.unicode { ("█", "░") } else { ("#", "-") };
        format!("{}{}", on.repeat(full), off.repeat(cells - full))
    }
}

/// The tone of a state's word, whatever it is the state of.
pub fn tone_of_state(state: &str) -> Tone {
    match state {
        "succeeded" | "connected" | "ready" => Tone::Good,
        "failed" | "lost" | "offline" | "revoked" | "corrupt" => Tone::Bad,
        "cancelled" | "disconnected" | "draining" | "cordoned" | "drained" | "expired" => Tone::Warning,
        "pending" | "deleted" => Tone::Faint,
        _ => Tone::Live,
    }
}
