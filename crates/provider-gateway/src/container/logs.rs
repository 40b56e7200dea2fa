//! A container's output on its way into the attempt's log: every byte once, also when reading begins anew.

use crate::log::AttemptLog;
use bollard::{Docker, container::LogOutput, errors::Error as ApiError, query_parameters::LogsOptionsBuilder};
use bytes::{Buf, Bytes};
use futures::StreamExt;
use protocol::Stream;

/// What is remembered of the beginning of stderr: enough for the words of Docker's init.
const HEAD_BYTES: usize = 512;

/// How one reading ended.
pub(super) enum Ended {
    /// Docker closed the stream, as it does when the container ends.
    Closed,
    Broken(ApiError),
}

/// What the log has already, of one reading that begins at the start.
struct Skip {
    stdout: u64,
    stderr: u64,
}

impl Skip {
    fn new(log: &AttemptLog) -> Self {
        Self { stdout: log.offset(Stream::Stdout), stderr: log.offset(Stream::Stderr) }
    }
    /// What of this piece is new.
    fn rest(&mut self, stream: Stream, mut piece: Bytes) -> Bytes {
        let skip = if stream == Stream::Stderr { &mut self.stderr } else { &mut self.stdout };
        let old = usize::try_from(*skip).unwrap_or(usize::MAX).min(piece.len());
        *skip -= old as u64;
        piece.advance(old);
        piece
    }
}

/// Copies from the start of the container's log, less what `log` has, until the stream ends. With `follow` that is when the
/// container ends. `stderr_head` gets the first bytes of stderr, new or not.
pub(super) async fn copy(
    docker: &Docker,
    container: &str,
    log: &AttemptLog,
    follow: bool,
    stderr_head: &mut Vec<u8>,
) -> Ended {
    stderr_head.clear();
    let mut skip = Skip::new(log);
    let options = LogsOptionsBuilder::default().follow(follow).stdout(true).stderr(true).timestamps(false).build();
    let mut output = std::pin::pin!(docker.logs(container, Some(options)));
    while let Some(item) = output.next().await {
        let (stream, piece) = match item {
            Ok(LogOutput::StdOut { message }) => (Stream::Stdout, message),
            Ok(LogOutput::StdErr { message }) => (Stream::Stderr, message),
            // The torn end of a broken stream; the next reading has it whole.
            Ok(LogOutput::Console { .. } | LogOutput::StdIn { .. }) => continue,
            Err(error) => return Ended::Broken(error),
        };
        if stream == Stream::Stderr && stderr_head.len() < HEAD_BYTES {
            stderr_head.extend_from_slice(&piece[..piece.len().min(HEAD_BYTES)]);
        }
        let new = skip.rest(stream, piece);
        if !new.is_empty() {
            log.append(stream, new).await;
        }
    }
    Ended::Closed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_stream_skips_its_own_bytes_across_pieces() {
        let mut skip = Skip { stdout: 4, stderr: 1 };
        assert_eq!(skip.rest(Stream::Stdout, Bytes::from_static(b"abc")), "");
        assert_eq!(skip.rest(Stream::Stderr, Bytes::from_static(b"xy")), "y");
        assert_eq!(skip.rest(Stream::Stdout, Bytes::from_static(b"def")), "ef");
        assert_eq!(skip.rest(Stream::Stdout, Bytes::from_static(b"g")), "g");
    }
}
