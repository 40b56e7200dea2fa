//! An attempt's log on its way to the server: appended to a spool on disk first, sent from there, forgotten when acknowledged.

use bytes::Bytes;
use protocol::Stream;

/// Handle to append to one attempt's log. Cheap to clone.
#[derive(Clone)]
pub struct AttemptLog {}

impl AttemptLog {
    /// Appends bytes as they were written. Returns when they are in the spool; waits while the spool is full. Over the attempt's
    /// log limit bytes are counted and dropped, and one marker says so.
    pub async fn append(&self, _stream: Stream, _bytes: Bytes) {}

    /// Bytes of this stream that were appended (or dropped at the limit) so far, also before an agent restart. A reader that begins
    /// again from the start of a container's log skips so many bytes.
    pub fn offset(&self, _stream: Stream) -> u64 {
        0
    }

    /// A line of the agent's own, in the `system` stream: what was fetched, what was left out.
    pub async fn note(&self, line: &str) {
        self.append(Stream::System, Bytes::from(format!("{line}\n"))).await;
    }
}
