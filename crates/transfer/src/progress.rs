//! What a transfer tells while it runs. Called from several threads and tasks; nothing waits for it.

use std::time::Duration;

/// Something did not get through and is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// For a person: `connection refused`.
    pub why: String,
    /// Of this piece, in a row.
    pub failures: u32,
    pub next_in: Duration,
}

pub trait Observer: Send + Sync {
    /// So many bytes of the content were sent or received just now.
    fn moved(&self, _bytes: u64) {}
    /// So many bytes that were told as moved did not count: they travel once more.
    fn again(&self, _bytes: u64) {}
    /// So many bytes were stored, or here, before this transfer began.
    fn had(&self, _bytes: u64) {}
    /// So many bytes of a directory's files were read.
    fn read(&self, _bytes: u64) {}
    /// One more part is stored.
    fn part_stored(&self) {}
    fn trouble(&self, _trouble: &Trouble) {}
    /// After trouble: something got through again.
    fn back(&self, _after: Duration) {}
}

/// For those who do not look.
pub struct Silent;
impl Observer for Silent {}
