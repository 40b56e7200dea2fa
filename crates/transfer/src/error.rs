//! Why a transfer ends before its work is done: a variant per thing that the caller can do differently.

use crate::{AddressError, PackError, UnpackError};
use domain::{artifact::Sha256Digest, quantity::show_bytes};
use std::{io, time::Duration};

#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// The platform gives no address, and asking again would not help.
    #[error("{0}")]
    NoAddress(#[source] AddressError),
    /// Nothing has gone through for as long as it was to be waited for. What is stored stays stored.
    #[error("gave up after {} without a byte getting through: {why}", seconds(*.waited))]
    GaveUp { why: String, waited: Duration },
    /// The store has answered, and says no whatever is tried.
    #[error("the object store refuses {what}: {said}")]
    StoreRefuses { what: String, said: String },
    /// What answers at its address has no certificate that is trusted here.
    #[error("{0}")]
    Untrusted(String),
    #[error("{what} can't be read: {source}")]
    Unreadable {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{what} changed while it was read; what was sent of it is no state that it ever had")]
    Changed { what: String },
    #[error("{what} can't be written: {source}")]
    Unwritable {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{} more are needed in {place}, and {} are free there", show_bytes(*.needed), show_bytes(*.free))]
    NoRoom { place: String, needed: u64, free: u64 },
    #[error("another process fetches the same content to {place} just now")]
    Busy { place: String },
    #[error("{place} exists and is not empty")]
    NotEmpty { place: String },
    #[error("the stored bytes are not those that were put there: their SHA-256 is {found}, it should be {wanted}")]
    WrongDigest { wanted: Sha256Digest, found: Sha256Digest },
    #[error("the object store has {} where {wanted} bytes should be", .found.map_or("another size".to_owned(), |bytes| format!("{bytes} bytes")))]
    WrongSize { wanted: u64, found: Option<u64> },
    #[error(transparent)]
    Pack(#[from] PackError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    /// A bug, or a machine that ends.
    #[error("{0}")]
    Broken(String),
}

impl TransferError {
    /// The content may have been damaged on its way or where it lay: its digest tells.
    pub(crate) fn may_be_damage(&self) -> bool {
        matches!(self, Self::Unpack(UnpackError::Garbled(_)))
    }
}

fn seconds(waited: Duration) -> String {
    domain::quantity::show_duration_ms(u64::try_from(waited.as_millis()).unwrap_or(u64::MAX))
}

/// A path for one line of text: what is no text in it is escaped.
pub(crate) fn show(path: &std::path::Path) -> String {
    show_bytes_of(std::os::unix::ffi::OsStrExt::as_bytes(path.as_os_str()))
}

/// Bytes that are a name for one line of text.
pub(crate) fn show_bytes_of(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c.is_control() { text.extend(c.escape_default()) } else { text.push(c) }
        }
        for byte in chunk.invalid() {
            text += &format!("\\x{byte:02x}");
        }
    }
    text
}
