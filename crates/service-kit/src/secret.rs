//! Secrets that are shown once and stored as a hash: `ud_<kind>_<id>_<secret><checksum>`. The prefix lets scanners find leaked ones, the
//! checksum lets a mistyped one be refused before the database is asked.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use uuid::Uuid;

/// What a secret opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Node,
    ApiKey,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::ApiKey => "key",
        }
    }
}

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// 43 digits of base 62 hold 256 bits.
const SECRET_DIGITS: usize = 43;
const CHECKSUM_DIGITS: usize = 6;

/// A fresh secret: the text to show once, and the hash to keep.
pub fn issue(kind: Kind, id: Uuid) -> (String, Vec<u8>) {
    let secret: String =
        (0..SECRET_DIGITS).map(|_| char::from(ALPHABET[rand::random_range(0..ALPHABET.len())])).collect();
    let body = format!("ud_{}_{}_{secret}", kind.as_str(), id.simple());
    (format!("{body}{}", checksum(&body)), hash(&secret))
}

/// Takes a secret apart: its id and the hash to compare. None: not one of ours, or mistyped.
pub fn parse(kind: Kind, text: &str) -> Option<(Uuid, Vec<u8>)> {
    if text.len() > 128 || !text.is_ascii() {
        return None;
    }
    let rest = text.strip_prefix("ud_")?.strip_prefix(kind.as_str())?.strip_prefix('_')?;
    let (id, secret) = rest.split_once('_')?;
    if secret.len() != SECRET_DIGITS + CHECKSUM_DIGITS {
        return None;
    }
    let (body, sum) = text.split_at(text.len() - CHECKSUM_DIGITS);
    (checksum(body) == sum).then_some(())?;
    Some((Uuid::try_parse(id).ok()?, hash(&secret[..SECRET_DIGITS])))
}

/// Compares two hashes in a time that does not tell where they differ.
pub fn same(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

fn checksum(body: &str) -> String {
    let mut rest = crc32fast::hash(body.as_bytes()) as usize;
    let mut digits = [b'0'; CHECKSUM_DIGITS];
    for digit in digits.iter_mut().rev() {
        *digit = ALPHABET[rest % 62];
        rest /= 62;
    }
    digits.iter().map(|digit| char::from(*digit)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_a_mistyped_one_does_not() {
        let id = Uuid::from_u128(77);
        let (text, hash) = issue(Kind::Node, id);
        assert!(text.starts_with("ud_node_"));
        let (read, read_hash) = parse(Kind::Node, &text).expect("its own");
        assert!(read == id && same(&read_hash, &hash));
        assert_eq!(parse(Kind::ApiKey, &text), None);
        for at in 8..text.len() {
            let mut typo = text.clone().into_bytes();
            typo[at] = if typo[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(parse(Kind::Node, &String::from_utf8(typo).expect("ascii")), None, "a typo at {at}");
        }
        for hostile in ["", "ud_node_", "ud_node_x_y", &"ud_node_".repeat(1000), "ud_node_é_x"] {
            assert_eq!(parse(Kind::Node, hostile), None);
        }
    }
}
