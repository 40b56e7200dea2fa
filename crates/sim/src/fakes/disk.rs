//! An agent's disk: records are fsynced when they are written, a log's tail only after a while.

use crate::Ms;
use bytes::Bytes;
use domain::ids::AttemptId;
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
    synced_records: usize,
}

#[derive(Clone, Copy)]
pub(crate) struct SpoolRecord {
    pub(crate) stream: Stream,
    pub(crate) offset: u64,
    pub(crate) len: u64,
    appended_at: Ms,
}

pub(crate) fn slot(stream: Stream) -> usize {
    usize::from(stream.number() - 1)
}

impl Spool {
    pub(crate) fn append(&mut self, stream: Stream, len: u64, piece_bytes: u64, now: Ms) {
        let mut rest = len;
        while rest > 0 {
            let len = rest.min(piece_bytes);
            let offset = self.next[slot(stream)];
            self.records.push(SpoolRecord { stream, offset, len, appended_at: now });
            self.next[slot(stream)] += len;
            rest -= len;
        }
    }

    /// The next record at or after `cursor` that is not acknowledged.
    pub(crate) fn read_next(&self, cursor: &mut usize) -> Option<SpoolRecord> {
        while let Some(record) = self.records.get(*cursor) {
            *cursor += 1;
            if record.offset + record.len > self.acknowledged[slot(record.stream)] {
                return Some(*record);
            }
        }
        None
    }

    pub(crate) fn acknowledge(&mut self, stream: Stream, next_offset: u64) {
        let acknowledged = &mut self.acknowledged[slot(stream)];
        *acknowledged = (*acknowledged).max(next_offset.min(self.next[slot(stream)]));
    }

    pub(crate) fn is_acknowledged(&self) -> bool {
        self.next == self.acknowledged
    }

    pub(crate) fn output_bytes(&self) -> u64 {
        self.next.iter().sum()
    }

    pub(crate) fn sync(&mut self) {
        self.synced_records = self.records.len();
    }

    fn lose_unsynced(&mut self, since: Ms) {
        let keep = self
            .records
            .iter()
            .enumerate()
            .filter(|(i, record)| *i < self.synced_records || record.appended_at <= since)
            .count();
        self.records.truncate(keep);
        self.next = [0; 4];
        for record in &self.records {
            self.next[slot(record.stream)] = record.offset + record.len;
        }
    }
}

impl FakeDisk {
    /// What a new agent finds: directories without a record were never answered for.
    pub(crate) fn read_all(&mut self) -> Vec<Record> {
        self.attempts.retain(|_, directory| directory.record.is_some());
        for directory in self.attempts.values_mut() {
            directory.spool.acknowledged = [0; 4];
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
