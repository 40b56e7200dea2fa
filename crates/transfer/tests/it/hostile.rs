//! Archives that were made to do harm. Each is refused, and what lies outside is as it was.

use crate::fake::names_in;
use std::{
    fs::{self, File},
    io::{self, Cursor, Read, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};
use tar::{EntryType, Header};
use transfer::{Limits, Rights, UnpackError, list, unpack};

struct Archive(tar::Builder<Vec<u8>>);

impl Archive {
    fn new() -> Self {
        Self(tar::Builder::new(Vec::new()))
    }
    /// An entry as it is told, without the crate's own checks.
    fn entry(mut self, name: &str, kind: EntryType, target: &str, content: &[u8]) -> Self {
        let header = header(name, kind, target, content.len() as u64);
        self.0.append(&header, content).expect("writing");
        self
    }
    fn file(self, name: &str, content: &str) -> Self {
        self.entry(name, EntryType::Regular, "", content.as_bytes())
    }
    fn link(self, name: &str, target: &str) -> Self {
        self.entry(name, EntryType::Symlink, target, b"")
    }
    fn directory(self, name: &str) -> Self {
        self.entry(name, EntryType::Directory, "", b"")
    }
    fn pax(self, records: &[(&str, &str)]) -> Self {
        let mut text = String::new();
        for (key, value) in records {
            let rest = format!(" {key}={value}\n");
            let length =
                (1..).find(|length: &usize| length.to_string().len() + rest.len() == *length).expect("a length");
            text += &format!("{length}{rest}");
        }
        self.entry("PaxHeaders/x", EntryType::XHeader, "", text.as_bytes())
    }
    fn zstd(self) -> Vec<u8> {
        zstd::encode_all(Cursor::new(self.0.into_inner().expect("an archive")), 3).expect("compressing")
    }
}

fn header(name: &str, kind: EntryType, target: &str, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o6777);
    header.set_size(size);
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
    header.set_cksum();
    header
}

/// A place with something beside it that must stay as it is.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("canary"), "alive").expect("writing");
        fs::create_dir(dir.path().join("into")).expect("a directory");
        Self(dir)
    }
    fn inside(&self) -> std::path::PathBuf {
        self.0.path().join("into")
    }
    fn unpack(&self, archive: impl Read, limits: &Limits) -> Result<transfer::Unpacked, UnpackError> {
        unpack(archive, &File::open(self.inside()).expect("a directory").into(), limits)
    }
    fn assert_untouched(&self) {
        assert_eq!(names_in(self.0.path()), ["canary", "into"]);
        let canary = self.0.path().join("canary");
        assert_eq!(fs::read_to_string(&canary).expect("it is there"), "alive");
        assert_eq!(fs::metadata(canary).expect("it is there").permissions().mode() & 0o6111, 0);
    }
}

#[test]
fn an_archive_that_reaches_out_is_refused() {
    let outside = tempfile::tempdir().expect("a directory");
    let out = |name: &str| format!("{}/{name}", outside.path().display());
    let nested = Archive::new().file("inner", "x").0.into_inner().expect("an archive");
    let archives = [
        ("a name upwards", Archive::new().file("../canary", "dead")),
        ("upwards in the middle", Archive::new().file("a/../../canary", "dead")),
        ("a directory upwards", Archive::new().directory("../other/")),
        ("an absolute name", Archive::new().file(&out("x"), "dead")),
        ("a link out, then through it", Archive::new().link("up", "..").file("up/canary", "dead")),
        ("an absolute link, then through it", Archive::new().link("up", &out("")).file("up/x", "dead")),
        ("a link out alone", Archive::new().link("passwd", "/etc/passwd")),
        ("a link that goes down before it goes up", Archive::new().directory("a/").link("up", "a/../../canary")),
        ("a link within, then through it", Archive::new().directory("real/").link("l", "real").file("l/x", "dead")),
        ("a link, then a directory of its name", Archive::new().link("l", "real").directory("l/")),
        ("a link, then a file of its name", Archive::new().link("l", "real").file("l", "dead")),
        ("a file twice", Archive::new().file("f", "one").file("f", "two")),
        ("a file, then below it", Archive::new().file("f", "one").file("f/x", "two")),
        ("a hard link out", Archive::new().entry("h", EntryType::Link, "/etc/passwd", b"")),
        ("a hard link upwards", Archive::new().entry("h", EntryType::Link, "../canary", b"")),
        ("a device", Archive::new().entry("null", EntryType::Char, "", b"")),
        ("a disk", Archive::new().entry("sda", EntryType::Block, "", b"")),
        ("a pipe", Archive::new().entry("pipe", EntryType::Fifo, "", b"")),
        ("a sparse file", Archive::new().entry("sparse", EntryType::GNUSparse, "", b"")),
        ("an unknown kind", Archive::new().entry("odd", EntryType::new(b'Z'), "", b"")),
        ("a link with content", Archive::new().entry("l", EntryType::Symlink, "x", b"content")),
        (
            "a long name upwards",
            Archive::new().entry("././@LongLink", EntryType::GNULongName, "", b"../canary\0").file("f", "dead"),
        ),
        (
            "a long name twice",
            Archive::new()
                .entry("L", EntryType::GNULongName, "", b"a\0")
                .entry("L", EntryType::GNULongName, "", b"b\0")
                .file("f", "x"),
        ),
        ("a long link out", Archive::new().entry("L", EntryType::GNULongLink, "", b"/etc/passwd\0").link("l", "safe")),
        ("a PAX name upwards", Archive::new().pax(&[("path", "../canary")]).file("f", "dead")),
        ("a PAX link out", Archive::new().pax(&[("linkpath", "/etc/passwd")]).link("l", "safe")),
        ("two sizes", Archive::new().pax(&[("size", "0")]).entry("f", EntryType::Regular, "", &nested)),
        (
            "a PAX name and a long name",
            Archive::new().pax(&[("path", "a")]).entry("L", EntryType::GNULongName, "", b"b\0").file("f", "x"),
        ),
        ("PAX holes", Archive::new().pax(&[("GNU.sparse.major", "1")]).file("f", "x")),
        ("a name for all", Archive::new().entry("g", EntryType::XGlobalHeader, "", b"10 path=a\n").file("f", "x")),
        ("a zero byte in a name", Archive::new().entry("L", EntryType::GNULongName, "", b"a\0b").file("f", "x")),
    ];
    for (what, archive) in archives {
        let (place, archive) = (Place::new(), archive.zstd());
        let unpacked = place.unpack(archive.as_slice(), &Limits::default());
        assert!(matches!(unpacked, Err(UnpackError::Refused { .. })), "{what}: {unpacked:?}");
        place.assert_untouched();
        assert_eq!(names_in(outside.path()), Vec::<String>::new(), "{what}");
    }
    assert!(fs::read_to_string("/etc/passwd").is_ok_and(|text| text != "dead"));
}

#[test]
fn archives_of_other_tools_are_read() {
    let archive = Archive::new()
        .directory("./")
        .directory("./d/")
        .pax(&[("mtime", "1.5"), ("path", "d/a name of PAX")])
        .file("short", "one")
        .entry("L", EntryType::GNULongName, "", b"d/long\0")
        .file("short", "two")
        .file("undeclared/parents/f", "three")
        .link("d/l", "../undeclared/parents/f");
    let (place, archive) = (Place::new(), archive.zstd());
    let unpacked = place.unpack(archive.as_slice(), &Limits::default()).expect("it unpacks");
    assert_eq!((unpacked.entries, unpacked.bytes), (5, 11));
    let read = |name: &str| fs::read_to_string(place.inside().join(name)).expect("it is there");
    assert_eq!([read("d/a name of PAX"), read("d/long"), read("d/l")], ["one", "two", "three"]);
    let modes = fs::metadata(place.inside().join("d/long")).expect("it is there").permissions().mode();
    assert_eq!(modes & 0o6000, 0, "no setuid bit");
}

/// Gives so many bytes of a compressed archive, and never ends by itself.
fn bomb(content: u64) -> impl Read {
    let mut packed = Vec::new();
    {
        let mut zstd = zstd::Encoder::new(&mut packed, 3).expect("an encoder");
        zstd.write_all(header("zeros", EntryType::Regular, "", content).as_bytes()).expect("writing");
        io::copy(&mut io::repeat(0).take(content), &mut zstd).expect("writing");
        zstd.finish().expect("an archive");
    }
    Cursor::new(packed)
}

#[test]
fn a_bomb_ends_at_the_limit_and_takes_no_room() {
    let content = 64 << 20;
    for limits in
        [Limits { bytes: Some(10 << 20), ..Limits::default() }, Limits { ratio: Some(200), ..Limits::default() }]
    {
        let place = Place::new();
        let unpacked = place.unpack(bomb(content), &limits);
        assert!(matches!(unpacked, Err(UnpackError::TooLarge { .. } | UnpackError::Bomb { .. })), "{unpacked:?}");
        let listed = list(bomb(content), &limits);
        assert!(matches!(listed, Err(UnpackError::TooLarge { .. } | UnpackError::Bomb { .. })), "{listed:?}");
        place.assert_untouched();
    }
}

#[test]
fn an_extension_header_of_a_quarter_gibibyte_takes_no_memory() {
    let mut packed = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
    packed.write_all(header("L", EntryType::GNULongName, "", 256 << 20).as_bytes()).expect("writing");
    io::copy(&mut io::repeat(b'x').take(256 << 20), &mut packed).expect("writing");
    let packed = packed.finish().expect("an archive");
    let before = peak_memory();
    let unpacked = Place::new().unpack(packed.as_slice(), &Limits::default());
    assert!(matches!(unpacked, Err(UnpackError::Refused { .. })), "{unpacked:?}");
    assert!(peak_memory() - before < 64 << 20, "{} more", peak_memory() - before);
}

#[test]
fn a_window_that_takes_much_memory_is_refused() {
    let mut packed = zstd::Encoder::new(Vec::new(), 3).expect("an encoder");
    packed.window_log(30).expect("a window");
    packed.long_distance_matching(true).expect("far back");
    io::copy(&mut io::repeat(b'x').take(64 << 20), &mut packed).expect("writing");
    let packed = packed.finish().expect("an archive");
    let unpacked = Place::new().unpack(packed.as_slice(), &Limits::default());
    assert!(matches!(&unpacked, Err(UnpackError::Garbled(_))), "{unpacked:?}");
}

#[test]
fn an_archive_that_is_cut_off_or_damaged_is_no_directory() {
    let whole = Archive::new().file("f", &"content ".repeat(1_000)).zstd();
    for packed in [&whole[..whole.len() / 2], &b"no archive at all"[..]] {
        let unpacked = Place::new().unpack(packed, &Limits::default());
        assert!(matches!(unpacked, Err(UnpackError::Garbled(_) | UnpackError::Cut)), "{unpacked:?}");
    }
    // An entry whose content is shorter than it says, and an extension of nothing.
    let mut tar = header("f", EntryType::Regular, "", 1_000).as_bytes().to_vec();
    tar.extend_from_slice(b"short");
    let packed = zstd::encode_all(tar.as_slice(), 3).expect("compressing");
    assert!(Place::new().unpack(packed.as_slice(), &Limits::default()).is_err());
    assert!(list(packed.as_slice(), &Limits::default()).is_err(), "nor in a list");
    let packed = Archive::new().entry("L", EntryType::GNULongName, "", b"x\0").zstd();
    assert!(Place::new().unpack(packed.as_slice(), &Limits::default()).is_err());
}

/// Of this process, in bytes.
fn peak_memory() -> u64 {
    let status = fs::read_to_string(Path::new("/proc/self/status")).expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[test]
fn what_is_relayed_is_what_would_be_unpacked_and_is_for_those_it_is_meant_for() {
    let theirs = Rights { owner: (7, 8), is_writable: true, mtime: 9 };
    for (rights, modes) in [(Rights::READ_ONLY, [0o555, 0o555, 0o777]), (theirs, [0o755, 0o755, 0o777])] {
        let archive = Archive::new().directory("d").file("d/x", "content").link("l", "d/x").zstd();
        let mut tar = Vec::new();
        let relayed = transfer::relay(Cursor::new(archive), &Limits::default(), &rights, &mut tar);
        let unpacked = relayed.expect("it is harmless");
        assert_eq!((unpacked.entries, unpacked.bytes), (3, 7));
        let mut plain = tar::Archive::new(tar.as_slice());
        let entries = plain.entries().expect("a tar").map(|entry| {
            let entry = entry.expect("an entry");
            let header = entry.header();
            let owner = (header.uid().expect("a user") as u32, header.gid().expect("a group") as u32);
            assert_eq!((owner, header.mtime().expect("a time")), (rights.owner, rights.mtime));
            (entry.path().expect("a name").display().to_string(), header.mode().expect("a mode"))
        });
        let expected = ["d/", "d/x", "l"].map(str::to_owned).into_iter().zip(modes);
        assert_eq!(entries.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

#[test]
fn nothing_harmful_is_relayed() {
    let long = "x".repeat(50);
    for (archive, why) in [
        (Archive::new().file("../x", ""), "leads upwards"),
        (Archive::new().file("/x", ""), "absolute"),
        (Archive::new().link("l", "/etc"), "leads out"),
        (Archive::new().link("l", "d").file("l/x", ""), "no directory of the archive"),
        (Archive::new().file("x", "").file("x", ""), "twice"),
        (Archive::new().file("x", "").directory("x"), "twice"),
        (Archive::new().directory("x").link("x", "y"), "twice"),
        (Archive::new().file("x", "").file("x/y", &long), "no directory of the archive"),
        (Archive::new().entry("x", EntryType::Link, "y", b""), "hard link"),
        (Archive::new().entry("x", EntryType::Char, "", b""), "device"),
    ] {
        let error = transfer::relay(Cursor::new(archive.zstd()), &Limits::default(), &Rights::READ_ONLY, io::sink());
        let error = error.expect_err(why);
        assert!(error.to_string().contains(why), "{why}: {error}");
    }
    // One that breaks off is no archive, and is told apart from one that can't be written.
    let whole = Archive::new().file("x", &long).zstd();
    let error =
        transfer::relay(Cursor::new(&whole[..whole.len() - 6]), &Limits::default(), &Rights::READ_ONLY, io::sink());
    assert!(matches!(error, Err(UnpackError::Garbled(_) | UnpackError::Cut)), "{error:?}");
}
