//! What this program is: its version, the commit it was built from, and which protocol it speaks.

/// The version of this program, and so of the images that belong to it.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// For `--version`: `0.1.0 (c803d9b, protocol 3, agents from 2)`.
pub fn text() -> String {
    let spoken = provider_gateway::PROTOCOL;
    format!("{VERSION} ({}, protocol {}, agents from {})", env!("UNIDESK_BUILT_FROM"), spoken.max, spoken.min)
}
