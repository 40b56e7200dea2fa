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

/// Docker reads a container's output in pieces of this size: a longer line comes as several.
const PIECE_BYTES: usize = 16 << 10;

/// One stream's output put together again from Docker's frames, each `TIME DATA`. The `local` driver forgets the line end behind a
/// line that came in several pieces. All pieces of a line carry the time of the first, so where the time changes behind an
/// open piece, a line end was there. Only behind the very last line that can't be told: see [`Lines::end`].
#[derive(Default)]
struct Lines {
    time: Bytes,
    /// The last piece had no line end.
    is_open: bool,
    /// The last piece was not the first of its line.
    is_continued: bool,
    length: usize,
}

impl Lines {
    /// Gives back the line end that was lost before this frame, if any, and the frame's data.
    fn take(&mut self, frame: Bytes) -> (Bytes, Bytes) {
        // Never without a time; should it be, it is passed on as it is.
        let time_bytes = frame.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
        let (time, data) = (frame.slice(..time_bytes), frame.slice(time_bytes..));
        let continues = self.is_open && time == self.time;
        let lost = if (self.is_open && !continues) || (continues && data.is_empty()) { LINE_END } else { Bytes::new() };
        self.is_open = !data.is_empty() && data.last() != Some(&b'\n');
        self.is_continued = continues;
        self.length = data.len();
        self.time = time;
        (lost, data)
    }

    /// Behind the last frame: the tail of a long line nearly always had an end. A piece of full size had none, or an empty one would
    /// have followed.
    fn end(&self) -> Bytes {
        if self.is_open && self.is_continued && self.length < PIECE_BYTES { LINE_END } else { Bytes::new() }
    }
}

const LINE_END: Bytes = Bytes::from_static(b"\n");

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
/// container ends; without, the container has ended and this is all there is. `stderr_head` gets the first bytes of stderr, new
/// or not.
pub(super) async fn copy(
    docker: &Docker,
    container: &str,
    log: &AttemptLog,
    follow: bool,
    stderr_head: &mut Vec<u8>,
) -> Ended {
    stderr_head.clear();
    let mut skip = Skip::new(log);
    let (mut stdout, mut stderr) = (Lines::default(), Lines::default());
    let options = LogsOptionsBuilder::default().follow(follow).stdout(true).stderr(true).timestamps(true).build();
    let mut output = std::pin::pin!(docker.logs(container, Some(options)));
    while let Some(item) = output.next().await {
        let (stream, (lost, data)) = match item {
            Ok(LogOutput::StdOut { message }) => (Stream::Stdout, stdout.take(message)),
            Ok(LogOutput::StdErr { message }) => (Stream::Stderr, stderr.take(message)),
            // The torn end of a broken stream; the next reading has it whole.
            Ok(LogOutput::Console { .. } | LogOutput::StdIn { .. }) => continue,
            Err(error) => return Ended::Broken(error),
        };
        if stream == Stream::Stderr && stderr_head.len() < HEAD_BYTES {
            stderr_head.extend_from_slice(&data[..data.len().min(HEAD_BYTES)]);
        }
        append(log, &mut skip, stream, lost).await;
        append(log, &mut skip, stream, data).await;
    }
    if !follow {
        append(log, &mut skip, Stream::Stdout, stdout.end()).await;
        append(log, &mut skip, Stream::Stderr, stderr.end()).await;
    }
    Ended::Closed
}

async fn append(log: &AttemptLog, skip: &mut Skip, stream: Stream, piece: Bytes) {
    let new = skip.rest(stream, piece);
    if !new.is_empty() {
        log.append(stream, new).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(frames: &[&[u8]]) -> Vec<u8> {
        let mut lines = Lines::default();
        let mut all = Vec::new();
        for frame in frames {
            let (lost, data) = lines.take(Bytes::copy_from_slice(frame));
            all.extend_from_slice(&lost);
            all.extend_from_slice(&data);
        }
        all.extend_from_slice(&lines.end());
        all
    }

    #[test]
    fn the_line_end_that_docker_forgets_is_put_back() {
        let full = [b"T1 ".as_slice(), &[b'x'; PIECE_BYTES]].concat();
        assert_eq!(read(&[b"T0 a b\n", b"T1 noend"]), b"a b\nnoend");
        assert!(read(&[&full, b"T1 rest", b"T2 next\n"]).ends_with(b"xrest\nnext\n"));
        assert!(read(&[&full, &full, b"T1 ", b"T2 next\n"]).ends_with(b"x\nnext\n"));
        assert!(read(&[&full, b"T1 rest"]).ends_with(b"xrest\n"));
        assert!(read(&[&full, &full]).ends_with(b"xx"));
        // A Docker that does not forget it.
        assert!(read(&[&full, b"T1 rest\n", b"T2 next\n"]).ends_with(b"xrest\nnext\n"));
        assert_eq!(read(&[b"T0 \n", b"T1 \n"]), b"\n\n");
    }

    #[test]
    fn each_stream_skips_its_own_bytes_across_pieces() {
        let mut skip = Skip { stdout: 4, stderr: 1 };
        assert_eq!(skip.rest(Stream::Stdout, Bytes::from_static(b"abc")), "");
        assert_eq!(skip.rest(Stream::Stderr, Bytes::from_static(b"xy")), "y");
        assert_eq!(skip.rest(Stream::Stdout, Bytes::from_static(b"def")), "ef");
        assert_eq!(skip.rest(Stream::Stdout, Bytes::from_static(b"g")), "g");
    }
}
