//! Where an archive is cut: by what is in it, so that two that differ in one place have the same pieces again soon after it, and a new version of a
//! directory sends only the pieces that are new. Pure.
//!
//! A place is good where a rolling hash of the last bytes says so. There it is looked how many bytes the piece has become; it ends if they are enough, and in any
//! case before they are too many. All of it follows from the bytes since the last cut. Other rules make other bytes of the same directory.

/// Pieces of an archive have at most so many packed bytes: the parts of an upload whose size nobody knows beforehand.
pub(crate) const MOST: u64 = 16 << 20;
/// So many pieces are cut small. Those after them are nearly as large as they may be: an upload has at most 10,000, and much should fit.
const SMALL_PIECES: u32 = 4_000;
/// What ends a compressed piece, and the headers of a few short blocks.
const ENDING: u64 = 512;

/// Decides about one stream of bytes.
pub(crate) struct Cutting {
    most: u64,
    /// Pieces that are over.
    pieces: u32,
    hash: u64,
    /// Bytes of this piece as they are before they are packed.
    read: u64,
    /// From there on a good place is looked for.
    from: u64,
    /// There it is looked in any case: the piece may have become too large soon after.
    until: u64,
    /// The place that was reached is a good one.
    is_good: bool,
}

impl Cutting {
    /// `most`: packed bytes of a piece; at least 16 KiB.
    pub(crate) fn new(most: u64) -> Self {
        let mut cutting =
            Self { most: most.max(16 << 10), pieces: 0, hash: 0, read: 0, from: 0, until: 0, is_good: false };
        cutting.begin();
        cutting
    }

    /// Packed bytes below which no piece ends, but the last.
    fn least(&self) -> u64 {
        if self.pieces < SMALL_PIECES { self.most / 2 } else { self.most / 8 * 7 }
    }

    fn begin(&mut self) {
        (self.read, self.from, self.until) = (0, self.least(), self.room(0));
    }

    /// Bytes that may be packed without a look, after so many packed ones: what can't be compressed becomes a little larger.
    fn room(&self, packed: u64) -> u64 {
        let left = self.most - packed;
        (left - left / 128).saturating_sub(ENDING)
    }

    /// How many of these bytes come before the next look, and whether it is due after them.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> (usize, bool) {
        let room = |to: u64| usize::try_from(to.saturating_sub(self.read)).unwrap_or(usize::MAX);
        let end = room(self.until).min(bytes.len());
        // The hash is of the last 64 bytes: those before them need not be looked at.
        let begin = room(self.from.saturating_sub(64)).min(end);
        let mask = !(u64::MAX >> (self.most / 8).ilog2());
        let mut hash = self.hash;
        for at in begin..end {
            hash = (hash << 1).wrapping_add(GEAR[usize::from(bytes[at])]);
            let read = self.read + at as u64 + 1;
            if hash & mask == 0 && read >= self.from {
                (self.hash, self.read, self.is_good) = (hash, read, true);
                return (at + 1, true);
            }
        }
        self.hash = hash;
        (self.read, self.is_good) = (self.read + end as u64, false);
        (end, self.read == self.until)
    }

    /// The look: whether the piece is over, which has so many packed bytes now.
    pub(crate) fn ends(&mut self, packed: u64) -> bool {
        if self.is_good && packed >= self.least() || packed >= self.most - self.most / 16 {
            self.pieces = self.pieces.saturating_add(1);
            self.begin();
            return true;
        }
        // Not at every byte of content in which every place is a good one: each look costs some bytes.
        (self.from, self.until) = (self.from.max(self.read + self.most / 16), self.read + self.room(packed));
        false
    }
}

/// A random number for each byte. With them a hash is that of the last 64 bytes: an older one was shifted out.
const GEAR: [u64; 256] = {
    let (mut table, mut at, mut state) = ([0; 256], 0, 0_u64);
    while at < 256 {
        // SplitMix64.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        table[at] = mixed ^ (mixed >> 31);
        at += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Archive, Limits, list};
    use proptest::prelude::*;
    use std::{
        collections::HashSet,
        io::{self, Write},
    };

    const PIECE: u64 = 32 << 10;

    /// What an archive is written to: its pieces.
    #[derive(Default)]
    struct Pieces(Vec<Vec<u8>>, Vec<u8>);
    impl Write for Pieces {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1.extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            self.0.push(std::mem::take(&mut self.1));
            Ok(())
        }
    }

    /// Two files, given in steps of some size.
    fn pieces(content: &[u8], step: usize) -> Vec<Vec<u8>> {
        struct Steps<'a>(&'a [u8], usize);
        impl io::Read for Steps<'_> {
            fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
                let most = into.len().min(self.1);
                self.0.read(&mut into[..most])
            }
        }
        let mut archive = Archive::in_pieces_of(PIECE, Pieces::default()).expect("begun");
        archive.file(b"a", content.len() as u64, false, Steps(content, step)).expect("written");
        archive.file(b"b", 5, false, &b"hello"[..]).expect("written");
        let Pieces(pieces, rest) = archive.finish().expect("finished");
        assert!(rest.is_empty());
        pieces
    }

    /// Some that can't be compressed, some that can, some of one byte only.
    fn content(seed: u64, blocks: usize) -> Vec<u8> {
        let mut state = seed | 1;
        let mut random = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let mut content = Vec::new();
        for _ in 0..blocks {
            match random() % 8 {
                0 => content.resize(content.len() + (random() % 9_000) as usize, random() as u8),
                1 | 2 => (0..random() % 300)
                    .for_each(|line| content.extend(format!("{line}: {}\n", random() % 1_000).bytes())),
                _ => (0..500).for_each(|_| content.extend(random().to_le_bytes())),
            }
        }
        content
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn what_changed_in_one_place_has_most_pieces_in_common(
            seed: u64, at in 0.2..0.8, deleted in 0usize..3_000, inserted in proptest::collection::vec(any::<u8>(), 1..3_000), step in 1usize..9_000,
        ) {
            let before = content(seed, 500);
            let mut after = before.clone();
            let at = (before.len() as f64 * at) as usize;
            after.splice(at..at + deleted, inserted);
            let (old, new) = (pieces(&before, 8_000), pieces(&after, step));
            prop_assert_eq!(&pieces(&before, step), &old, "however it is given");
            for pieces in [&old, &new] {
                let (_, all_but_last) = pieces.split_last().expect("there are some");
                let is_sound = |piece: &Vec<u8>| (PIECE / 2..=PIECE).contains(&(piece.len() as u64));
                prop_assert!(all_but_last.iter().all(is_sound));
                prop_assert!(pieces.len() > 30, "{}", pieces.len());
            }
            let known: HashSet<&Vec<u8>> = old.iter().collect();
            let fresh = new.iter().filter(|piece| !known.contains(piece)).count();
            prop_assert!(fresh * 2 < new.len(), "{fresh} of {} are new", new.len());
            let listed = list(new.concat().as_slice(), &Limits::default()).expect("an archive");
            let crate::Listed::File { size, sha256, .. } = &listed[&b"a"[..]] else { panic!("a file") };
            use sha2::Digest;
            prop_assert_eq!((*size, &sha256.0[..]), (after.len() as u64, &sha2::Sha256::digest(&after)[..]));
        }
    }

    #[test]
    fn one_byte_again_and_again_is_cut_nowhere_and_noise_is_never_too_large() {
        for byte in (0..=255).step_by(17) {
            assert_eq!(pieces(&vec![byte; 200_000], 9_000).len(), 1, "{byte}");
        }
        let mut cutting = Cutting::new(MOST);
        let (mut read, mut looks) = (0, 0);
        while read < MOST {
            let (taken, is_due) = cutting.take(&[0; 4096]);
            read += taken as u64;
            looks += u64::from(is_due);
            // As if nothing could be compressed.
            if is_due && cutting.ends(read) {
                break;
            }
        }
        assert!(looks < 20 && read + read / 256 < MOST, "{looks} looks, {read} bytes");
    }

    /// All that fits the 10,000 parts of an upload.
    #[test]
    fn a_large_archive_has_larger_pieces_later() {
        let mut cutting = Cutting::new(MOST);
        cutting.pieces = SMALL_PIECES;
        assert!(cutting.least() == 14 << 20 && u64::from(10_000 - SMALL_PIECES) * cutting.least() > 82 << 30);
    }
}
