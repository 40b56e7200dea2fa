//! Pieces of one attempt's log on disk, in segments that are deleted once the server has all of them.
//!
//! A segment begins with the offsets and the ordinal that hold at its start, so that the newest one alone says where the log
//! stands. A torn record at its end (the agent was killed while writing) is cut off when it is opened again; its bytes are
//! read once more from the container or the shim.

use bytes::Bytes;
use protocol::{LogPayload, Stream};
use std::{
    collections::VecDeque,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

const SEGMENT_BYTES: u64 = 4 << 20;
const MAGIC: &[u8; 4] = b"UDL1";
/// Magic, flags, ordinal, one offset per stream.
const HEADER_BYTES: usize = 4 + 1 + 8 + 8 * 4;
/// Kind, stream, ordinal, offset, length.
const RECORD_BYTES: usize = 1 + 1 + 8 + 8 + 4;
const KIND_BYTES: u8 = 1;
const KIND_GAP: u8 = 2;
/// A record of no bytes: from here on output is discarded.
const KIND_LIMITED: u8 = 3;

pub struct Spool {
    dir: PathBuf,
    segments: VecDeque<Segment>,
    /// Where each stream stands; index by stream number - 1.
    next: [u64; 4],
    acknowledged: [u64; 4],
    ordinal: u64,
    limited: bool,
    synced: bool,
}

struct Segment {
    index: u64,
    file: File,
    path: PathBuf,
    len: u64,
    /// Where each stream stands at its end.
    end: [u64; 4],
}

pub struct Record {
    pub stream: Stream,
    pub ordinal: u64,
    pub offset: u64,
    pub payload: LogPayload,
}

/// A place in the spool: what lies before it was read.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    segment: u64,
    position: u64,
}

fn slot(stream: Stream) -> usize {
    usize::from(stream.number() - 1)
}

impl Spool {
    /// Opens what is in `dir`, or makes it.
    pub fn open(dir: &Path) -> io::Result<Self> {
        fs::create_dir_all(dir)?;
        let mut found: Vec<(u64, PathBuf)> = fs::read_dir(dir)?
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let index = path.file_name()?.to_str()?.strip_prefix("log.")?.parse().ok()?;
                Some((index, path))
            })
            .collect();
        found.sort();
        let mut spool = Self {
            dir: dir.to_owned(),
            segments: VecDeque::new(),
            next: [0; 4],
            acknowledged: [0; 4],
            ordinal: 0,
            limited: false,
            synced: true,
        };
        for (index, path) in found {
            spool.load_segment(index, path)?;
        }
        if let Some(first) = spool.segments.front() {
            // What older segments held was acknowledged, or they would be there.
            spool.acknowledged = read_header(&first.file)?.offsets;
        }
        Ok(spool)
    }

    fn load_segment(&mut self, index: u64, path: PathBuf) -> io::Result<()> {
        let file = OpenOptions::new().read(true).append(true).open(&path)?;
        let Ok(header) = read_header(&file) else {
            // Killed between making the file and writing its header: nothing is in it.
            return fs::remove_file(path);
        };
        self.next = header.offsets;
        self.ordinal = header.ordinal;
        self.limited |= header.limited;
        let size = file.metadata()?.len();
        let mut position = HEADER_BYTES as u64;
        while let Some((record, after)) = read_record(&file, position, size)? {
            match record {
                None => self.limited = true,
                Some(record) => {
                    self.next[slot(record.stream)] = record.offset + record.payload.len();
                    self.ordinal = record.ordinal + 1;
                }
            }
            position = after;
        }
        file.set_len(position)?;
        self.segments.push_back(Segment { index, file, path, len: position, end: self.next });
        Ok(())
    }

    /// Appends one piece of at most 64 KiB.
    pub fn append(&mut self, stream: Stream, payload: LogPayload) -> io::Result<()> {
        let (kind, length, bytes): (u8, u64, &[u8]) = match &payload {
            LogPayload::Bytes(bytes) => (KIND_BYTES, bytes.len() as u64, bytes),
            LogPayload::Gap(length) => (KIND_GAP, *length, &length.to_be_bytes()),
        };
        let offset = self.next[slot(stream)];
        self.write_record(kind, stream.number(), offset, bytes)?;
        self.next[slot(stream)] = offset + length;
        self.ordinal += 1;
        if let Some(last) = self.segments.back_mut() {
            last.end = self.next;
        }
        Ok(())
    }

    fn write_record(&mut self, kind: u8, stream: u8, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let ordinal = self.ordinal;
        let segment = self.writable_segment()?;
        let mut record = Vec::with_capacity(RECORD_BYTES + bytes.len());
        record.extend([kind, stream]);
        record.extend(ordinal.to_be_bytes());
        record.extend(offset.to_be_bytes());
        record.extend((bytes.len() as u32).to_be_bytes());
        record.extend(bytes);
        if let Err(error) = segment.file.write_all(&record) {
            // A torn record in the middle would hide all that follows it.
            segment.file.set_len(segment.len)?;
            return Err(error);
        }
        segment.len += record.len() as u64;
        self.synced = false;
        Ok(())
    }

    fn writable_segment(&mut self) -> io::Result<&mut Segment> {
        let index = match self.segments.back() {
            Some(last) if last.len < SEGMENT_BYTES => last.index,
            Some(last) => last.index + 1,
            None => 1,
        };
        if self.segments.back().is_none_or(|last| last.index != index) {
            let path = self.dir.join(format!("log.{index:08}"));
            let mut file = OpenOptions::new().read(true).append(true).create_new(true).open(&path)?;
            let mut header = Vec::with_capacity(HEADER_BYTES);
            header.extend(MAGIC);
            header.push(u8::from(self.limited));
            header.extend(self.ordinal.to_be_bytes());
            for offset in self.next {
                header.extend(offset.to_be_bytes());
            }
            file.write_all(&header)?;
            self.segments.push_back(Segment { index, file, path, len: HEADER_BYTES as u64, end: self.next });
        }
        Ok(self.segments.back_mut().expect("a segment was there or has just been pushed"))
    }

    /// The next record that is not acknowledged yet.
    pub fn read_next(&self, cursor: &mut Cursor) -> io::Result<Option<Record>> {
        for segment in &self.segments {
            if segment.index < cursor.segment {
                continue;
            }
            if segment.index > cursor.segment {
                *cursor = Cursor { segment: segment.index, position: HEADER_BYTES as u64 };
            }
            while let Some((record, after)) = read_record(&segment.file, cursor.position, segment.len)? {
                cursor.position = after;
                match record {
                    Some(record) if record.offset + record.payload.len() > self.acknowledged[slot(record.stream)] => {
                        return Ok(Some(record));
                    }
                    _ => {}
                }
            }
        }
        Ok(None)
    }

    pub fn acknowledge(&mut self, stream: Stream, next_offset: u64) {
        let acknowledged = &mut self.acknowledged[slot(stream)];
        *acknowledged = (*acknowledged).max(next_offset.min(self.next[slot(stream)]));
        // The newest segment stays: it says where the log stands.
        while self.segments.len() > 1
            && self.segments[0].end.iter().zip(self.acknowledged).all(|(end, acknowledged)| *end <= acknowledged)
        {
            if let Some(done) = self.segments.pop_front() {
                let _ = fs::remove_file(done.path);
            }
        }
    }

    pub fn unacknowledged_bytes(&self) -> u64 {
        self.next.iter().zip(self.acknowledged).map(|(next, acknowledged)| next - acknowledged).sum()
    }
    pub fn next_offset(&self, stream: Stream) -> u64 {
        self.next[slot(stream)]
    }
    /// Bytes of the task's own streams: all but the agent's lines.
    pub fn output_bytes(&self) -> u64 {
        Stream::ALL.into_iter().filter(|stream| *stream != Stream::System).map(|stream| self.next_offset(stream)).sum()
    }
    pub fn is_limited(&self) -> bool {
        self.limited
    }
    /// From here on output is discarded. Survives a restart.
    pub fn set_limited(&mut self) {
        self.limited = true;
        let _ = self.write_record(KIND_LIMITED, 0, 0, &[]);
    }
    pub fn sync(&mut self) -> io::Result<()> {
        if !self.synced
            && let Some(last) = self.segments.back()
        {
            last.file.sync_data()?;
            self.synced = true;
        }
        Ok(())
    }
}

struct Header {
    limited: bool,
    ordinal: u64,
    offsets: [u64; 4],
}

fn read_header(file: &File) -> io::Result<Header> {
    let mut header = [0; HEADER_BYTES];
    file.read_exact_at(&mut header, 0)?;
    if &header[..4] != MAGIC {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not a log segment"));
    }
    let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    Ok(Header {
        limited: header[4] != 0,
        ordinal: number(5),
        offsets: [number(13), number(21), number(29), number(37)],
    })
}

/// The record at `position` and where the next one begins. The record is None for a mark without bytes; all is None at the end
/// or at a torn record.
fn read_record(file: &File, position: u64, size: u64) -> io::Result<Option<(Option<Record>, u64)>> {
    if position + RECORD_BYTES as u64 > size {
        return Ok(None);
    }
    let mut header = [0; RECORD_BYTES];
    file.read_exact_at(&mut header, position)?;
    let number = |at: usize| u64::from_be_bytes(header[at..at + 8].try_into().expect("eight bytes"));
    let length = u32::from_be_bytes(header[18..22].try_into().expect("four bytes"));
    let after = position + RECORD_BYTES as u64 + u64::from(length);
    if after > size {
        return Ok(None);
    }
    if header[0] == KIND_LIMITED {
        return Ok(Some((None, after)));
    }
    let Some(stream) = Stream::from_number(header[1]) else { return Ok(None) };
    let mut bytes = vec![0; length as usize];
    file.read_exact_at(&mut bytes, position + RECORD_BYTES as u64)?;
    let payload = match header[0] {
        KIND_BYTES => LogPayload::Bytes(Bytes::from(bytes)),
        KIND_GAP if bytes.len() == 8 => {
            LogPayload::Gap(u64::from_be_bytes(bytes.as_slice().try_into().expect("eight bytes")))
        }
        _ => return Ok(None),
    };
    Ok(Some((Some(Record { stream, ordinal: number(2), offset: number(10), payload }), after)))
}
