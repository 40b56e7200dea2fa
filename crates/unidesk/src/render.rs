//! How things look: values, a style and the time in; text out. No terminal, no network, no clock.

pub mod access;
pub mod artifact;
pub mod audit;
pub mod backup;
pub mod checks;
pub mod errors;
pub mod events;
pub mod list;
pub mod node;
pub mod phases;
pub mod provenance;
pub mod result;
pub mod status;
pub mod why;

use chrono::{DateTime, FixedOffset};

use crate::style::Style;

/// What a rendering may depend on beside its values.
#[derive(Clone, Copy, Debug)]
pub struct View {
    pub style: Style,
    /// Columns.
    pub width: usize,
    /// Its offset is the reader's.
    pub now: DateTime<FixedOffset>,
}
