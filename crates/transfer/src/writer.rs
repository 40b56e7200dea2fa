//! An archive as it is written: equal entries in equal order are equal bytes, whoever writes them, where and when.

use crate::cut::{Cutting, MOST};
use std::io::{self, Read, Write};
use tar::{EntryType, Header};

/// Fast, and small enough. Another level, or another version of zstd, makes other bytes of the same directory.
const LEVEL: i32 = 3;
/// Of a name that stands in the header itself.
const SHORT_NAME: usize = 100;

/// A tar within zstd. Times and owners are left out, of modes there is one bit: executable.
///
/// Whoever writes it sees to the order: names of a directory sorted by bytes, each directory before what is in it, nothing twice. Names are
/// below the root, without a slash at either end. What it writes to is flushed wherever it may well be cut (`cut.rs`).
pub struct Archive<W: Write> {
    tar: tar::Builder<Frames<W>>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> io::Result<Self> {
        Self::in_pieces_of(MOST, out)
    }

    /// Of at most so many bytes.
    pub(crate) fn in_pieces_of(most: u64, out: W) -> io::Result<Self> {
        Ok(Self { tar: tar::Builder::new(Frames::new(most, out)?) })
    }

    pub fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        append(&mut self.tar, &Head::new(&[name, b"/"].concat(), EntryType::Directory, 0o755), io::empty())
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        append(&mut self.tar, &Head { target, ..Head::new(name, EntryType::Symlink, 0o777) }, io::empty())
    }

    /// Takes `size` bytes of `content`. Errors: `UnexpectedEof` where there are fewer, and nothing more can be written then.
    pub fn file(&mut self, name: &[u8], size: u64, is_executable: bool, content: impl Read) -> io::Result<()> {
        let mode = if is_executable { 0o755 } else { 0o644 };
        let head = Head { size, ..Head::new(name, EntryType::Regular, mode) };
        append(&mut self.tar, &head, Exactly { inner: content, left: size })
    }

    /// Its end. Without it, it is none.
    pub fn finish(self) -> io::Result<W> {
        self.tar.into_inner()?.finish()
    }
}

/// Several frames of zstd, one after the other, which are one stream for whoever decompresses it.
struct Frames<W: Write> {
    /// None: after an error.
    frame: Option<Frame<W>>,
    cutting: Cutting,
}

type Frame<W> = zstd::Encoder<'static, Counted<W>>;

impl<W: Write> Frames<W> {
    fn new(most: u64, out: W) -> io::Result<Self> {
        Ok(Self { frame: Some(begin(out)?), cutting: Cutting::new(most) })
    }

    fn finish(self) -> io::Result<W> {
        self.frame.map_or_else(|| Err(is_over()), end)
    }
}

impl<W: Write> Write for Frames<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let frame = self.frame.as_mut().ok_or_else(is_over)?;
        let (taken, is_due) = self.cutting.take(bytes);
        frame.write_all(&bytes[..taken])?;
        if is_due {
            // All that was taken is packed now, so that the count depends on nothing else.
            frame.flush()?;
            if self.cutting.ends(frame.get_ref().written) {
                self.frame = Some(begin(end(self.frame.take().ok_or_else(is_over)?)?)?);
            }
        }
        Ok(taken)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn begin<W: Write>(out: W) -> io::Result<Frame<W>> {
    let mut frame = zstd::Encoder::new(Counted { out, written: 0 }, LEVEL)?;
    frame.include_checksum(true)?;
    Ok(frame)
}

fn end<W: Write>(frame: Frame<W>) -> io::Result<W> {
    let mut out = frame.finish()?.out;
    out.flush()?;
    Ok(out)
}

fn is_over() -> io::Error {
    io::Error::other("nothing more can be written after an error")
}

/// Counts what a frame becomes, and keeps the encoder's flushes to itself: a part ends where a frame does.
struct Counted<W> {
    out: W,
    written: u64,
}

impl<W: Write> Write for Counted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.written += written as u64;
        Ok(written)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What an entry's header says.
#[derive(Clone, Copy)]
pub(crate) struct Head<'a> {
    /// With a slash at the end of a directory's.
    pub(crate) name: &'a [u8],
    /// Of a link.
    pub(crate) target: &'a [u8],
    pub(crate) kind: EntryType,
    pub(crate) mode: u32,
    pub(crate) size: u64,
    pub(crate) owner: (u32, u32),
    /// Seconds since 1970.
    pub(crate) mtime: u64,
}

impl<'a> Head<'a> {
    /// Nobody's, of no time, and empty.
    pub(crate) fn new(name: &'a [u8], kind: EntryType, mode: u32) -> Self {
        Self { name, target: b"", kind, mode, size: 0, owner: (0, 0), mtime: 0 }
    }

    fn header(&self) -> Header {
        let mut header = Header::new_gnu();
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(self.owner.0.into());
        header.set_gid(self.owner.1.into());
        header.set_mtime(self.mtime);
        header.set_size(self.size);
        // As they are: the crate's own functions would normalise them, and links may be written in any way.
        let fields = header.as_old_mut();
        let (short_name, short_target) = (self.name.len().min(SHORT_NAME), self.target.len().min(SHORT_NAME));
        fields.name[..short_name].copy_from_slice(&self.name[..short_name]);
        fields.linkname[..short_target].copy_from_slice(&self.target[..short_target]);
        header.set_cksum();
        header
    }
}

pub(crate) fn append<W: Write>(tar: &mut tar::Builder<W>, head: &Head<'_>, content: impl Read) -> io::Result<()> {
    for (text, kind) in [(head.name, EntryType::GNULongName), (head.target, EntryType::GNULongLink)] {
        if text.len() > SHORT_NAME {
            let text = [text, b"\0"].concat();
            let long = Head { size: text.len() as u64, ..Head::new(b"././@LongLink", kind, 0o644) };
            tar.append(&long.header(), text.as_slice())?;
        }
    }
    tar.append(&head.header(), content)
}

/// So many bytes and no more; an error where there are fewer. tar itself would write an entry that is not what its header says.
pub(crate) struct Exactly<R> {
    pub(crate) inner: R,
    pub(crate) left: u64,
}

impl<R: Read> Read for Exactly<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.inner.read(&mut into[..most])?;
        if read == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it became shorter while it was read"));
        }
        self.left -= read as u64;
        Ok(read)
    }
}
