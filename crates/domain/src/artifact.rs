//! An artifact: a stored file or directory that has a name, a growing version and never changes.

use crate::ids::ArtifactId;
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// The longest name of an artifact, in bytes.
pub const MAX_NAME: usize = 128;

/// What the bytes of an artifact are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactKind {
    /// The bytes of one file.
    #[default]
    File,
    /// A directory as one tar archive, compressed with zstd. Equal directories are equal bytes.
    Directory,
}

impl ArtifactKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
        }
    }
    pub fn parse(text: &str) -> Option<Self> {
        [Self::File, Self::Directory].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// How far an artifact is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ArtifactState {
    /// Parts of it arrive. It has no version yet and nobody can name it but by its id.
    Uploading,
    /// All of it is stored, and was compared with its checksums. It has a version.
    Ready,
    /// Its bytes were found not to be what they were. It is handed out to nobody.
    Corrupt,
    /// Nobody can name it any more; its bytes are about to be deleted.
    Expired,
    /// Its bytes are gone; what they were is remembered.
    Deleted,
}

/// What happens to an artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArtifactEvent {
    /// The store holds all parts, their checksums and the size are those that were declared.
    Completed,
    /// A reader or a check found other bytes.
    FoundCorrupt,
    /// Removed by a person, by a rule, or an upload that nobody went on with.
    Removed,
    /// No byte of it is left.
    BytesGone,
}

impl ArtifactState {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Uploading => "uploading",
            Self::Ready => "ready",
            Self::Corrupt => "corrupt",
            Self::Expired => "expired",
            Self::Deleted => "deleted",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        [Self::Uploading, Self::Ready, Self::Corrupt, Self::Expired, Self::Deleted]
            .into_iter()
            .find(|state| state.as_str() == text)
    }

    /// The state after an event; None where the event means nothing.
    pub fn next(self, event: ArtifactEvent) -> Option<Self> {
        match (self, event) {
            (Self::Uploading, ArtifactEvent::Completed) => Some(Self::Ready),
            (Self::Ready, ArtifactEvent::FoundCorrupt) => Some(Self::Corrupt),
            (Self::Uploading | Self::Ready | Self::Corrupt, ArtifactEvent::Removed) => Some(Self::Expired),
            (Self::Expired, ArtifactEvent::BytesGone) => Some(Self::Deleted),
            (Self::Uploading, ArtifactEvent::FoundCorrupt | ArtifactEvent::BytesGone)
            | (Self::Ready | Self::Corrupt, ArtifactEvent::Completed | ArtifactEvent::BytesGone)
            | (Self::Corrupt, ArtifactEvent::FoundCorrupt)
            | (Self::Expired, ArtifactEvent::Completed | ArtifactEvent::FoundCorrupt | ArtifactEvent::Removed)
            | (Self::Deleted, _) => None,
        }
    }
}

/// A SHA-256, written as 64 lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sha256Digest(pub [u8; 32]);

impl fmt::Display for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}
impl fmt::Debug for Sha256Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256Digest({self})")
    }
}

/// Not 64 hex digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a SHA-256 is written as 64 hex digits")]
pub struct NotADigest;

impl FromStr for Sha256Digest {
    type Err = NotADigest;
    fn from_str(text: &str) -> Result<Self, NotADigest> {
        let digits = text.as_bytes();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(NotADigest);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| NotADigest)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| NotADigest)?;
        }
        Ok(Self(bytes))
    }
}
impl Serialize for Sha256Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for Sha256Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How an artifact is named: `imagenet` or `imagenet@latest` (the newest version), `imagenet@3`, `sha256:...` (any that has these bytes), or its id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ArtifactRef {
    Latest(String),
    Version(String, u32),
    Digest(Sha256Digest),
    Id(ArtifactId),
}

impl Serialize for ArtifactRef {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}
impl<'de> Deserialize<'de> for ArtifactRef {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a text names no artifact.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadArtifactRef {
    #[error(
        "a name of an artifact has 1 to {MAX_NAME} letters, digits, dots, dashes and underscores, and begins with a letter or a digit"
    )]
    Name,
    #[error("a version is a number from 1 on, or `latest`")]
    Version,
    #[error(transparent)]
    Digest(#[from] NotADigest),
}

/// Whether a text may be the name of an artifact. A UUID may not: it would hide what it names.
pub fn is_artifact_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=MAX_NAME).contains(&name.len())
        && name.bytes().all(plain)
        && name.as_bytes()[0].is_ascii_alphanumeric()
        && ArtifactId::from_str(name).is_err()
}

impl FromStr for ArtifactRef {
    type Err = BadArtifactRef;
    fn from_str(text: &str) -> Result<Self, BadArtifactRef> {
        if let Some(digits) = text.strip_prefix("sha256:") {
            return Ok(Self::Digest(digits.parse()?));
        }
        if let Ok(id) = text.parse() {
            return Ok(Self::Id(id));
        }
        let (name, version) = text.split_once('@').unwrap_or((text, "latest"));
        if !is_artifact_name(name) {
            return Err(BadArtifactRef::Name);
        }
        if version == "latest" {
            return Ok(Self::Latest(name.to_owned()));
        }
        let number = version.parse().ok().filter(|number| *number > 0 && !version.starts_with('+'));
        Ok(Self::Version(name.to_owned(), number.ok_or(BadArtifactRef::Version)?))
    }
}

impl fmt::Display for ArtifactRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest(name) => f.write_str(name),
            Self::Version(name, version) => write!(f, "{name}@{version}"),
            Self::Digest(digest) => write!(f, "sha256:{digest}"),
            Self::Id(id) => id.fmt(f),
        }
    }
}

/// How an object of a size is cut for its upload.
///
/// Bytes. Parts are at least 5 MiB and an object has at most 10,000 of them, as every S3 store wants it. 8 MiB where the size is not known
/// beforehand or small; twice as much until all fit, so up to 78 GiB need no more. With an unknown size, 16 MiB: up to 156 GiB.
pub fn part_size(size: Option<u64>) -> u64 {
    let Some(size) = size else { return 16 << 20 };
    let mut part = 8 << 20;
    while size.div_ceil(part) > u64::from(MOST_PARTS) {
        part *= 2;
    }
    part
}

/// The least bytes of a part but the last, as every S3 store has it.
const LEAST_PART: u64 = 5 << 20;

/// Where parts may differ in size: the least bytes of all but the last. Of a directory whose size is not known beforehand, since it may be cut by what is
/// in it. None: all are equal.
pub fn least_part(kind: ArtifactKind, size: Option<u64>) -> Option<u64> {
    (kind == ArtifactKind::Directory && size.is_none()).then_some(LEAST_PART)
}

/// The most parts of an upload, as every S3 store has it.
pub const MOST_PARTS: u32 = 10_000;

/// The largest artifact, in bytes, as every S3 store has it.
pub const MAX_SIZE: u64 = 5 << 40;

/// Why a part can't be one of its upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadPart {
    #[error("parts are numbered from 1 to {MOST_PARTS}")]
    Number,
    #[error("a part has at most {most} bytes")]
    TooLarge { most: u64 },
    #[error("only the first part may be empty, and then there is no other")]
    Empty,
    /// By the declared size of the whole.
    #[error("this part has {expected} bytes of the size that was declared")]
    Size { expected: u64 },
    #[error("the size that was declared ends before this part")]
    Beyond,
}

/// Whether a part of this number and size may be one of an upload. Bytes.
pub fn check_part(part_size: u64, declared: Option<u64>, number: u32, size: u64) -> Result<(), BadPart> {
    if !(1..=MOST_PARTS).contains(&number) {
        return Err(BadPart::Number);
    }
    if size > part_size {
        return Err(BadPart::TooLarge { most: part_size });
    }
    if size == 0 && number > 1 {
        return Err(BadPart::Empty);
    }
    if let Some(declared) = declared {
        let start = u64::from(number - 1) * part_size;
        if start >= declared && number > 1 {
            return Err(BadPart::Beyond);
        }
        let expected = part_size.min(declared.saturating_sub(start));
        if size != expected {
            return Err(BadPart::Size { expected });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_artifact_is_named_in_four_ways() {
        let digest = "ab".repeat(32);
        let id = "019ab0d0-0000-7000-8000-000000000001";
        for text in ["imagenet@3", "imagenet-mini", "v1.0_x", &format!("sha256:{digest}"), id] {
            assert_eq!(text.parse::<ArtifactRef>().expect("a name").to_string(), text);
        }
        assert_eq!("imagenet@latest".parse(), Ok(ArtifactRef::Latest("imagenet".to_owned())));
    }

    #[test]
    fn what_names_nothing_is_refused_with_the_reason() {
        for text in ["", "@3", "../x", "a/b", "a b", ".hidden", "-rf", "é", &"x".repeat(129)] {
            assert_eq!(text.parse::<ArtifactRef>(), Err(BadArtifactRef::Name), "{text}");
        }
        for text in ["x@0", "x@", "x@-1", "x@+1", "x@3@4", "x@99999999999"] {
            assert_eq!(text.parse::<ArtifactRef>(), Err(BadArtifactRef::Version), "{text}");
        }
        assert_eq!("sha256:12".parse::<ArtifactRef>(), Err(BadArtifactRef::Digest(NotADigest)));
    }

    #[test]
    fn an_object_of_any_size_has_at_most_ten_thousand_parts() {
        for size in [0, 1, 8 << 20, 5 << 30, 80 << 30, 1 << 40, 5 << 40] {
            let part = part_size(Some(size));
            assert!((5 << 20..=5 << 30).contains(&part) && size.div_ceil(part) <= 10_000, "{size}: {part}");
            let last = u32::try_from(size.div_ceil(part).max(1)).expect("at most 10,000");
            let rest = size - u64::from(last - 1) * part;
            assert_eq!(check_part(part, Some(size), last, rest), Ok(()), "{size}");
            assert_eq!(
                check_part(part, Some(size), last + 1, 1),
                Err(if last < MOST_PARTS { BadPart::Beyond } else { BadPart::Number })
            );
        }
        assert_eq!(part_size(Some(78 << 30)), 8 << 20);
    }

    #[test]
    fn parts_differ_only_where_nobody_has_said_how_large_the_whole_is() {
        assert_eq!(least_part(ArtifactKind::Directory, None), Some(5 << 20));
        assert_eq!(least_part(ArtifactKind::Directory, Some(1 << 30)), None);
        assert_eq!(least_part(ArtifactKind::File, None), None);
    }

    #[test]
    fn a_part_fits_its_place_or_is_refused_with_what_would() {
        for (declared, number, size) in
            [(None, 1, 0), (None, 1, 8), (None, 9_999, 3), (Some(0), 1, 0), (Some(20), 3, 4), (Some(16), 2, 8)]
        {
            assert_eq!(check_part(8, declared, number, size), Ok(()), "{declared:?} {number} {size}");
        }
        assert_eq!(check_part(8, None, 0, 8), Err(BadPart::Number));
        assert_eq!(check_part(8, None, 10_001, 8), Err(BadPart::Number));
        assert_eq!(check_part(8, None, 1, 9), Err(BadPart::TooLarge { most: 8 }));
        assert_eq!(check_part(8, None, 2, 0), Err(BadPart::Empty));
        assert_eq!(check_part(8, Some(20), 3, 5), Err(BadPart::Size { expected: 4 }));
        assert_eq!(check_part(8, Some(20), 2, 4), Err(BadPart::Size { expected: 8 }));
        assert_eq!(check_part(8, Some(16), 3, 1), Err(BadPart::Beyond));
        assert_eq!(check_part(8, Some(0), 1, 1), Err(BadPart::Size { expected: 0 }));
    }

    #[test]
    fn what_is_deleted_never_comes_back() {
        use ArtifactEvent::{BytesGone, Completed, FoundCorrupt, Removed};
        for event in [Completed, FoundCorrupt, Removed, BytesGone] {
            assert_eq!(ArtifactState::Deleted.next(event), None);
        }
        assert_eq!(ArtifactState::Expired.next(Completed), None, "a late end of an upload that was given up");
    }
}
