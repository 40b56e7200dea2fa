//! An archive as it is written: equal entries in equal order are equal bytes, whoever writes them, where and when.

use std::io::{self, Read, Write};
use tar::{EntryType, Header};

/// Fast, and small enough. Another level, or another version of zstd, makes other bytes of the same directory.
const LEVEL: i32 = 3;
/// Of a name that stands in the header itself.
const SHORT_NAME: usize = 100;

/// A tar within zstd. Times and owners are left out, of modes there is one bit: executable.
///
/// Whoever writes it sees to the order: names of a directory sorted by bytes, each directory before what is in it, nothing twice. Names are
/// below the root, without a slash at either end.
pub struct Archive<W: Write> {
    tar: tar::Builder<zstd::Encoder<'static, W>>,
}

impl<W: Write> Archive<W> {
    pub fn new(out: W) -> io::Result<Self> {
        let mut zstd = zstd::Encoder::new(out, LEVEL)?;
        zstd.include_checksum(true)?;
        Ok(Self { tar: tar::Builder::new(zstd) })
    }

    pub fn directory(&mut self, name: &[u8]) -> io::Result<()> {
        append(&mut self.tar, &[name, b"/"].concat(), b"", EntryType::Directory, 0o755, 0, io::empty())
    }

    /// A symbolic link.
    pub fn link(&mut self, name: &[u8], target: &[u8]) -> io::Result<()> {
        append(&mut self.tar, name, target, EntryType::Symlink, 0o777, 0, io::empty())
    }

    /// Takes `size` bytes of `content`. Errors: `UnexpectedEof` where there are fewer, and nothing more can be written then.
    pub fn file(&mut self, name: &[u8], size: u64, is_executable: bool, content: impl Read) -> io::Result<()> {
        let mode = if is_executable { 0o755 } else { 0o644 };
        append(&mut self.tar, name, b"", EntryType::Regular, mode, size, Exactly { inner: content, left: size })
    }

    /// Its end. Without it, it is none.
    pub fn finish(self) -> io::Result<W> {
        let mut out = self.tar.into_inner()?.finish()?;
        out.flush()?;
        Ok(out)
    }
}

pub(crate) fn append<W: Write>(
    tar: &mut tar::Builder<W>,
    name: &[u8],
    target: &[u8],
    kind: EntryType,
    mode: u32,
    size: u64,
    content: impl Read,
) -> io::Result<()> {
    for (text, kind) in [(name, EntryType::GNULongName), (target, EntryType::GNULongLink)] {
        if text.len() > SHORT_NAME {
            let text = [text, b"\0"].concat();
            let header = header(b"././@LongLink", b"", kind, 0o644, text.len() as u64);
            tar.append(&header, text.as_slice())?;
        }
    }
    tar.append(&header(name, target, kind, mode, size), content)
}

fn header(name: &[u8], target: &[u8], kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    // As they are: the crate's own functions would normalise them, and links may be written in any way.
    let fields = header.as_old_mut();
    let (short_name, short_target) = (name.len().min(SHORT_NAME), target.len().min(SHORT_NAME));
    fields.name[..short_name].copy_from_slice(&name[..short_name]);
    fields.linkname[..short_target].copy_from_slice(&target[..short_target]);
    header.set_cksum();
    header
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
