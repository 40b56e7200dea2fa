//! Pieces of one attempt's log on disk, in segments that are deleted once the server has all of them.
//!
//! A segment begins with the offsets and the ordinal that hold at its start, so that the newest one alone says where the log
//! stands. A torn record at its end (the agent was killed while writing) is cut off when it is opened again; its bytes are
//! read once more from the container or the shim.
//!
//! No gap is ever written: it shows as a jump between what the server has and the next record that is there. So making room is
//! deleting a file, which a full disk allows too, and a server that has forgotten bytes is told of the ones that are gone here.

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
/// There so that a spool that has lost a part says so after a restart too.
const GAP_MARK: &str = "gap";
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
    /// Bytes are missing for good.
    gapped: bool,
    /// A file was made, and its name may not be on disk.
    has_new_names: bool,
    segment_bytes: u64,
}

struct Segment {
    index: u64,
    file: File,
    path: PathBuf,
    len: u64,
    /// Its bytes survive a power loss.
    is_synced: bool,
    /// Where each stream stands at its start,
    start: [u64; 4],
    /// and at its end.
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
    /// Where each stream stands for its reader.
    next: Option<[u64; 4]>,
}

fn slot(stream: Stream) -> usize {
    usize::from(stream.number() - 1)
}

impl Spool {
    /// Opens what is in `dir`. The directory is made when there is something to keep: many tasks say nothing.
    pub fn open(dir: &Path) -> io::Result<Self> {
        let entries = match fs::read_dir(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            entries => Some(entries?),
        };
        let is_there = entries.is_some();
        let mut found: Vec<(u64, PathBuf)> = entries
            .into_iter()
            .flatten()
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
            gapped: is_there && dir.join(GAP_MARK).exists(),
            has_new_names: false,
            segment_bytes: SEGMENT_BYTES,
        };
        for (index, path) in found {
            spool.load_segment(index, path)?;
        }
        if let Some(first) = spool.segments.front() {
            // What older segments held was acknowledged, or they would be there.
            spool.acknowledged = first.start;
        }
        Ok(spool)
    }

    /// Small spools have small segments, so that room is made in small steps.
    pub fn set_segment_bytes(&mut self, bytes: u64) {
        self.segment_bytes = bytes.clamp(256, SEGMENT_BYTES);
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
        self.segments.push_back(Segment {
            index,
            file,
            path,
            len: position,
            is_synced: false,
            start: header.offsets,
            end: self.next,
        });
        Ok(())
    }

    /// Appends one piece of at most 64 KiB. Nothing of it is kept when this fails.
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
        segment.is_synced = false;
        Ok(())
    }

    fn writable_segment(&mut self) -> io::Result<&mut Segment> {
        let index = match self.segments.back() {
            Some(last) if last.len < self.segment_bytes => last.index,
            Some(last) => last.index + 1,
            None => 1,
        };
        if self.segments.back().is_none_or(|last| last.index != index) {
            let path = self.dir.join(format!("log.{index:08}"));
            let mut file = self.make(&path)?;
            self.has_new_names = true;
            if let Err(error) = file.write_all(&self.header()) {
                let _ = fs::remove_file(&path);
                return Err(error);
            }
            let len = HEADER_BYTES as u64;
            self.segments.push_back(Segment {
                index,
                file,
                path,
                len,
                is_synced: false,
                start: self.next,
                end: self.next,
            });
        }
        Ok(self.segments.back_mut().expect("a segment was there or has just been pushed"))
    }

    fn make(&self, path: &Path) -> io::Result<File> {
        let make = || OpenOptions::new().read(true).append(true).create_new(true).open(path);
        match make() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // In the attempt's directory, which is gone after its end: what comes late must not make it again.
                fs::create_dir(&self.dir).and_then(|()| make())
            }
            made => made,
        }
    }

    fn header(&self) -> Vec<u8> {
        let mut header = Vec::with_capacity(HEADER_BYTES);
        header.extend(MAGIC);
        header.push(u8::from(self.limited));
        header.extend(self.ordinal.to_be_bytes());
        for offset in self.next {
            header.extend(offset.to_be_bytes());
        }
        header
    }

    /// Takes bytes as gone that could not be kept: the reader is told of a gap. Forgotten by a restart, which reads them again from
    /// where they came.
    pub fn skip(&mut self, stream: Stream, length: u64) {
        self.next[slot(stream)] += length;
        self.set_gapped();
    }

    /// Makes room: deletes a part between the beginning and the newest end. False: there is none that may go.
    pub fn drop_middle(&mut self) -> bool {
        // The first quarter tells how it began.
        let head_bytes = self.stored_bytes() / 4;
        let mut before = 0;
        let middle = self.segments.iter().position(|segment| {
            let is_head = before == 0 || before + segment.len <= head_bytes;
            before += segment.len;
            !is_head
        });
        let Some(middle) = middle.filter(|middle| middle + 1 < self.segments.len()) else { return false };
        // The mark first: killed in between, the log says too much rather than too little.
        self.set_gapped();
        if let Some(dropped) = self.segments.remove(middle) {
            let _ = fs::remove_file(dropped.path);
        }
        true
    }

    /// Begins the newest segment anew when the server has all of it: on a full disk no other can be made.
    pub fn reuse_acknowledged(&mut self) -> bool {
        let (header, acknowledged, next) = (self.header(), self.acknowledged, self.next);
        let [last] = self.segments.make_contiguous() else { return false };
        if last.len <= HEADER_BYTES as u64 || last.end.iter().zip(acknowledged).any(|(end, there)| *end > there) {
            return false;
        }
        if last.file.set_len(0).and_then(|()| last.file.write_all(&header)).is_err() {
            return false;
        }
        (last.len, last.start, last.end) = (HEADER_BYTES as u64, next, next);
        // A new number, or readers of the old one would stand in the middle of it.
        last.index += 1;
        let path = self.dir.join(format!("log.{:08}", last.index));
        let _ = fs::rename(std::mem::replace(&mut last.path, path.clone()), path);
        true
    }

    fn set_gapped(&mut self) {
        if !self.gapped {
            self.gapped = true;
            let _ = self.make(&self.dir.join(GAP_MARK));
            self.has_new_names = true;
        }
    }

    /// The next record that is not acknowledged yet, or the gap in front of it. `is_closed`: nothing follows, so that a gap at the
    /// end is told too; until then it may still grow.
    pub fn read_next(&self, cursor: &mut Cursor, is_closed: bool) -> io::Result<Option<Record>> {
        let mut next = cursor.next.unwrap_or(self.acknowledged);
        for (next, acknowledged) in next.iter_mut().zip(self.acknowledged) {
            *next = (*next).max(acknowledged);
        }
        for segment in &self.segments {
            if segment.index < cursor.segment {
                continue;
            }
            if segment.index > cursor.segment {
                *cursor = Cursor { segment: segment.index, position: HEADER_BYTES as u64, next: None };
            }
            while let Some((record, after)) = read_record(&segment.file, cursor.position, segment.len)? {
                if let Some(record) = record {
                    let (expected, end) = (&mut next[slot(record.stream)], record.offset + record.payload.len());
                    if record.offset > *expected {
                        let gap = Record {
                            payload: LogPayload::Gap(record.offset - *expected),
                            offset: std::mem::replace(expected, record.offset),
                            ..record
                        };
                        cursor.next = Some(next);
                        return Ok(Some(gap));
                    }
                    if end > self.acknowledged[slot(record.stream)] {
                        *expected = end;
                        (cursor.position, cursor.next) = (after, Some(next));
                        return Ok(Some(record));
                    }
                }
                cursor.position = after;
            }
        }
        let trailing =
            Stream::ALL.into_iter().find(|stream| is_closed && next[slot(*stream)] < self.next_offset(*stream));
        let gap = trailing.map(|stream| {
            let offset = std::mem::replace(&mut next[slot(stream)], self.next_offset(stream));
            let payload = LogPayload::Gap(self.next_offset(stream) - offset);
            Record { stream, ordinal: self.ordinal, offset, payload }
        });
        cursor.next = Some(next);
        Ok(gap)
    }

    /// What the server has of `stream`, as it says in a welcome. After a restore of its database that may be less than it
    /// acknowledged before; what is not there any more will show as a gap.
    pub fn resume(&mut self, stream: Stream, next_offset: u64) {
        let next = self.next_offset(stream);
        let first = self.segments.front().map_or(next, |segment| segment.start[slot(stream)]);
        if next_offset < first {
            self.set_gapped();
        }
        self.acknowledged[slot(stream)] = next_offset.min(next);
        self.acknowledge(stream, next_offset);
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

    /// Bytes on disk.
    pub fn stored_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.len).sum()
    }
    /// Bytes that the server has not committed, or not been told to be gone.
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
    pub fn dir(&self) -> &Path {
        &self.dir
    }
    pub fn is_limited(&self) -> bool {
        self.limited
    }
    /// Bytes are missing for good.
    pub fn is_gapped(&self) -> bool {
        self.gapped
    }
    /// From here on output is discarded. Survives a restart.
    pub fn set_limited(&mut self) {
        self.limited = true;
        let _ = self.write_record(KIND_LIMITED, 0, 0, &[]);
    }
    pub fn sync(&mut self) -> io::Result<()> {
        // More than one, where much was said since the last time.
        for segment in self.segments.iter_mut().filter(|segment| !segment.is_synced) {
            segment.file.sync_data()?;
            segment.is_synced = true;
        }
        if self.has_new_names {
            // The file's name, its directory's, and that of the attempt.
            for dir in self.dir.ancestors().take(3) {
                File::open(dir)?.sync_all()?;
            }
            self.has_new_names = false;
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

#[cfg(test)]
mod tests;
