//! An agent's disk: records are fsynced when they are written, a log's tail only after a while.

use crate::Ms;
use bytes::Bytes;
use domain::{ids::AttemptId, outcome::LogTotals};
use protocol::Stream;
use provider_gateway::agent::Record;
use std::collections::BTreeMap;

#[derive(Default)]
pub(crate) struct FakeDisk {
    pub(crate) attempts: BTreeMap<AttemptId, Directory>,
}

/// One attempt's directory.
#[derive(Default)]
pub(crate) struct Directory {
    pub(crate) record: Option<Record>,
    pub(crate) spool: Spool,
    /// Written before the start is asked for.
    pub(crate) started_mark: bool,
}

#[derive(Default)]
pub(crate) struct Spool {
    records: Vec<SpoolRecord>,
    pub(crate) next: [u64; 4],
    /// In memory: a new agent learns it from the welcome.
    acknowledged: [u64; 4],
    /// Where the records that are left begin: what lay before was acknowledged once.
    base: [u64; 4],
    last_number: u64,
    synced_number: u64,
    /// Bytes are missing for good.
    pub(crate) is_gapped: bool,
}

#[derive(Clone, Copy)]
pub(crate) struct SpoolRecord {
    number: u64,
    pub(crate) stream: Stream,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// So many bytes are missing here.
    pub(crate) is_gap: bool,
    appended_at: Ms,
}

#[derive(Clone, Copy, Default)]
pub(crate) struct Cursor {
    number: u64,
    next: Option<[u64; 4]>,
}

pub(crate) fn slot(stream: Stream) -> usize {
    usize::from(stream.number() - 1)
}

impl Spool {
    /// Over `limit` bytes that are not acknowledged the middle goes. True: something went.
    pub(crate) fn append(&mut self, stream: Stream, len: u64, piece_bytes: u64, limit: u64, now: Ms) -> bool {
        let mut rest = len;
        let mut has_dropped = false;
        while rest > 0 {
            let len = rest.min(piece_bytes);
            let offset = self.next[slot(stream)];
            self.last_number += 1;
            let number = self.last_number;
            self.records.push(SpoolRecord { number, stream, offset, len, is_gap: false, appended_at: now });
            self.next[slot(stream)] += len;
            rest -= len;
            has_dropped |= self.make_room(limit);
        }
        has_dropped
    }

    fn make_room(&mut self, limit: u64) -> bool {
        let mut has_dropped = false;
        loop {
            let waiting: Vec<&SpoolRecord> =
                self.records.iter().filter(|r| r.offset + r.len > self.acknowledged[slot(r.stream)]).collect();
            if waiting.iter().map(|record| record.len).sum::<u64>() <= limit || waiting.len() < 3 {
                return has_dropped;
            }
            let middle = waiting[1].number;
            self.records.retain(|record| record.number != middle);
            self.is_gapped = true;
            has_dropped = true;
        }
    }

    /// The next record that is not acknowledged, or the gap in front of it. `is_closed`: nothing follows.
    pub(crate) fn read_next(&self, cursor: &mut Cursor, is_closed: bool) -> Option<SpoolRecord> {
        let mut next = cursor.next.unwrap_or(self.acknowledged);
        for (next, acknowledged) in next.iter_mut().zip(self.acknowledged) {
            *next = (*next).max(acknowledged);
        }
        let seen = cursor.number;
        for record in self.records.iter().filter(|record| record.number > seen) {
            let expected = &mut next[slot(record.stream)];
            if record.offset > *expected {
                let gap = SpoolRecord { offset: *expected, len: record.offset - *expected, is_gap: true, ..*record };
                *expected = record.offset;
                cursor.next = Some(next);
                return Some(gap);
            }
            cursor.number = record.number;
            if record.offset + record.len > self.acknowledged[slot(record.stream)] {
                *expected = record.offset + record.len;
                cursor.next = Some(next);
                return Some(*record);
            }
        }
        let stream = Stream::ALL.into_iter().find(|s| is_closed && next[slot(*s)] < self.next[slot(*s)])?;
        let offset = std::mem::replace(&mut next[slot(stream)], self.next[slot(stream)]);
        cursor.next = Some(next);
        let len = self.next[slot(stream)] - offset;
        Some(SpoolRecord { number: 0, stream, offset, len, is_gap: true, appended_at: 0 })
    }

    pub(crate) fn acknowledge(&mut self, stream: Stream, next_offset: u64) {
        let acknowledged = &mut self.acknowledged[slot(stream)];
        *acknowledged = (*acknowledged).max(next_offset.min(self.next[slot(stream)]));
        while let [first, _, ..] = self.records[..]
            && first.offset + first.len <= self.acknowledged[slot(first.stream)]
        {
            let base = &mut self.base[slot(first.stream)];
            *base = (*base).max(first.offset + first.len);
            self.records.remove(0);
        }
    }

    /// What the server has, as its welcome says: less than it acknowledged once, after a restore.
    pub(crate) fn resume(&mut self, stream: Stream, next_offset: u64) {
        self.is_gapped |= next_offset < self.base[slot(stream)];
        self.acknowledged[slot(stream)] = next_offset.min(self.next[slot(stream)]);
        self.acknowledge(stream, next_offset);
    }

    pub(crate) fn is_acknowledged(&self) -> bool {
        self.next == self.acknowledged
    }

    pub(crate) fn totals(&self) -> LogTotals {
        LogTotals { bytes: self.output_bytes(), complete: !self.is_gapped }
    }

    fn output_bytes(&self) -> u64 {
        self.next.iter().sum()
    }

    pub(crate) fn sync(&mut self) {
        self.synced_number = self.last_number;
    }

    fn lose_unsynced(&mut self, since: Ms) {
        let synced = self.synced_number;
        self.records.retain(|record| record.number <= synced || record.appended_at <= since);
        self.next = self.base;
        for record in &self.records {
            let next = &mut self.next[slot(record.stream)];
            *next = (*next).max(record.offset + record.len);
        }
    }
}

impl FakeDisk {
    /// What a new agent finds: directories without a record were never answered for.
    pub(crate) fn read_all(&mut self) -> Vec<Record> {
        self.attempts.retain(|_, directory| directory.record.is_some());
        for directory in self.attempts.values_mut() {
            directory.spool.acknowledged = directory.spool.base;
        }
        self.attempts.values().filter_map(|directory| directory.record.clone()).collect()
    }

    /// What was appended after `since` and not synced is lost.
    pub(crate) fn lose_power(&mut self, since: Ms) {
        self.attempts.values_mut().for_each(|directory| directory.spool.lose_unsynced(since));
    }
}

/// The bytes that a process writes are a function of their place, so that a wrong one is seen wherever it turns up.
pub(crate) fn bytes_at(attempt: AttemptId, stream: Stream, offset: u64, len: u64) -> Bytes {
    (offset..offset + len).map(|at| byte_at(attempt, stream, at)).collect()
}

pub(crate) fn byte_at(attempt: AttemptId, stream: Stream, offset: u64) -> u8 {
    let word = (attempt.as_uuid().as_u128() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ (offset << 3)
        ^ u64::from(stream.number());
    (word.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 56) as u8
}
