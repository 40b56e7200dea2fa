//! Directories: packed, stored, fetched, unpacked.

use crate::fake::{Fake, Fault, names_in, noise, quick};
use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    fs::{self, File},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{MetadataExt, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};
use transfer::{
    Content, Limits, Observer, PackError, PartSizes, Silent, Source, Store, TransferError, UnpackError, Unpacked, list,
    pack, survey, to_directory, upload,
};

fn packed(dir: &Path) -> Result<Vec<u8>, PackError> {
    let mut archive = Vec::new();
    pack(dir, &mut archive, &|_| {})?;
    Ok(archive)
}

/// Everything that should come back: by relative name, what it is.
fn tree(root: &Path) -> BTreeMap<Vec<u8>, String> {
    let (mut found, mut dirs) = (BTreeMap::new(), vec![root.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            let meta = fs::symlink_metadata(&path).expect("it is there");
            let name = path.strip_prefix(root).expect("below").as_os_str().as_bytes().to_vec();
            let what = if meta.is_dir() {
                dirs.push(path);
                "directory".to_owned()
            } else if meta.is_symlink() {
                format!("-> {:?}", fs::read_link(&path).expect("a link"))
            } else {
                let content = fs::read(&path).expect("readable");
                format!(
                    "{} bytes, {:?}, executable: {}",
                    content.len(),
                    crate::fake::sha256(&content),
                    meta.mode() & 0o100 != 0
                )
            };
            found.insert(name, what);
        }
    }
    found
}

/// All that is odd about names, sizes and links.
fn odd_tree(root: &Path) {
    let write = |name: &OsStr, content: &[u8]| {
        let path = root.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
        fs::write(path, content).expect("writing");
    };
    write(OsStr::new("new\nline"), b"1");
    write(OsStr::new("smile \u{1f600}"), b"2");
    write(OsStr::from_bytes(b"not \xff\xfe utf-8"), b"3");
    write(OsStr::new(&"x".repeat(255)), b"4");
    write(OsStr::new("...dots.."), b"5");
    write(OsStr::new("back\\slash"), b"6");
    write(OsStr::new(" -rf *"), b"7");
    let deep: PathBuf = (0..40).map(|n| format!("{n:0>60}")).collect();
    write(deep.join("deep").as_os_str(), b"8");
    // Exactly as long as a header's field, and one more.
    write(OsStr::new(&format!("d/{}", "y".repeat(98))), b"9");
    write(OsStr::new(&format!("d/{}", "z".repeat(99))), b"10");
    write(OsStr::new("empty"), b"");
    write(OsStr::new("large"), &noise(300_000));
    write(OsStr::new("a-b"), b"sorted by bytes");
    write(OsStr::new("a/b"), b"sorted by bytes");
    write(OsStr::new("run.sh"), b"#!/bin/sh\n");
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o4711)).expect("modes");
    fs::create_dir(root.join("empty directory")).expect("a directory");
    symlink("../a/b", root.join("d/link")).expect("a link");
    symlink("no such file", root.join("dangling")).expect("a link");
    symlink(OsString::from_vec([b"a//./".as_slice(), &b"q".repeat(150)].concat()), root.join("long link"))
        .expect("a link");
    fs::hard_link(root.join("large"), root.join("large too")).expect("a hard link");
}

async fn stored(dir: &Path) -> Fake {
    let fake = Fake::start().await;
    let silent: Arc<dyn Observer> = Arc::new(Silent);
    let uploaded =
        upload(&Store::new(), Source::Directory(dir.to_owned()), PartSizes::equal(50_000), &fake, &quick(), &silent)
            .await
            .expect("it arrives");
    let content = fake.assembled();
    fake.state().content = content;
    assert_eq!(fake.content(), Content { size: uploaded.size, sha256: uploaded.sha256 });
    fake
}

async fn get(fake: &Fake, target: &Path, limits: Limits) -> Result<Unpacked, TransferError> {
    to_directory(&Store::new(), fake.content(), target, limits, fake, &quick(), &Silent).await
}

#[tokio::test]
async fn a_directory_comes_back_as_it_was_whatever_is_in_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).expect("a directory");
    odd_tree(&source);
    let fake = stored(&source).await;
    assert!(fake.state().parts.len() > 3, "more than one part");
    let unpacked = get(&fake, &target, Limits::default()).await.expect("it comes");
    assert_eq!(tree(&target), tree(&source));
    let surveyed = survey(&source).expect("a survey");
    assert_eq!((unpacked.entries, unpacked.bytes), (surveyed.entries, surveyed.bytes));
    assert_eq!(fs::metadata(target.join("run.sh")).expect("it is there").mode() & 0o7000, 0, "no setuid bit");
    assert_eq!(names_in(dir.path()), ["source", "target"]);
    // What came back makes the same bytes again.
    assert!(packed(&target).expect("an archive") == packed(&source).expect("an archive"));
}

#[tokio::test]
async fn an_empty_directory_is_one_too_and_may_stand_there_already() {
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for path in [&source, &target] {
        fs::create_dir(path).expect("a directory");
    }
    let fake = stored(&source).await;
    get(&fake, &target, Limits::default()).await.expect("it comes");
    assert_eq!(names_in(&target), Vec::<String>::new());
    let plain = fs::metadata(&source).expect("it is there").mode();
    assert_eq!(fs::metadata(&target).expect("it is there").mode(), plain, "as mkdir makes it");
    fs::write(target.join("mine"), "keep").expect("writing");
    let error = get(&fake, &target, Limits::default()).await.expect_err("not empty");
    assert!(matches!(error, TransferError::NotEmpty { .. }), "{error}");
    assert_eq!(names_in(&target), ["mine"]);
}

#[test]
fn equal_directories_are_equal_bytes_and_others_are_not() {
    let make = |order: &[&str]| {
        let dir = tempfile::tempdir().expect("a directory");
        for name in order {
            fs::write(dir.path().join(name), name).expect("writing");
            let file = File::open(dir.path().join(name)).expect("a file");
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(order.len() as u64))
                .expect("a time");
        }
        dir
    };
    let (one, other) = (make(&["b", "a", "c"]), make(&["c", "b", "a"]));
    fs::set_permissions(other.path().join("a"), fs::Permissions::from_mode(0o600)).expect("modes");
    let first = packed(one.path()).expect("an archive");
    assert!(first == packed(other.path()).expect("an archive"), "order, times and most modes do not count");
    fs::set_permissions(other.path().join("a"), fs::Permissions::from_mode(0o700)).expect("modes");
    assert!(first != packed(other.path()).expect("an archive"), "executable is another content");
    fs::rename(one.path().join("a"), one.path().join("d")).expect("renaming");
    assert!(first != packed(one.path()).expect("an archive"));
}

#[test]
fn what_could_not_be_unpacked_is_not_packed_and_its_path_is_told() {
    let refuses = |make: &dyn Fn(&Path), words: &str| {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("in")).expect("a directory");
        make(dir.path());
        for error in [survey(dir.path()).expect_err("refused"), packed(dir.path()).expect_err("refused")] {
            let told = error.to_string();
            assert!(told.contains(words) && told.contains("in/odd"), "{told}");
        }
    };
    refuses(&|dir| drop(UnixListener::bind(dir.join("in/odd")).expect("a socket")), "is a socket");
    refuses(
        &|dir| {
            rustix::fs::mknodat(
                rustix::fs::CWD,
                dir.join("in/odd"),
                rustix::fs::FileType::Fifo,
                rustix::fs::Mode::RWXU,
                0,
            )
            .expect("a pipe")
        },
        "is a named pipe",
    );
    for target in ["/etc/passwd", "../../x", "a/../../../x"] {
        refuses(&|dir| symlink(target, dir.join("in/odd")).expect("a link"), "leads out");
    }
    let dir = tempfile::tempdir().expect("a directory");
    let deep: PathBuf = (0..300).map(|_| "d").collect();
    fs::create_dir_all(dir.path().join(deep)).expect("directories");
    assert!(matches!(packed(dir.path()), Err(PackError::TooDeep { .. })));
}

#[test]
fn holes_of_a_sparse_file_stay_holes() {
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for path in [&source, &target] {
        fs::create_dir(path).expect("a directory");
    }
    for (name, data) in [("hole at the end", "begin"), ("nothing but a hole", "")] {
        fs::write(source.join(name), data).expect("writing");
        File::options().write(true).open(source.join(name)).and_then(|file| file.set_len(64 << 20)).expect("a hole");
    }
    let archive = packed(&source).expect("an archive");
    assert!(archive.len() < 1 << 20, "{}", archive.len());
    transfer::unpack(archive.as_slice(), &File::open(&target).expect("a directory").into(), &Limits::default())
        .expect("it unpacks");
    assert_eq!(tree(&target), tree(&source));
    let blocks: u64 = fs::read_dir(&target)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").metadata().expect("it is there").blocks())
        .sum();
    assert!(blocks * 512 < 1 << 20, "{blocks} blocks");
}

#[tokio::test]
async fn a_damaged_archive_is_fetched_once_more_and_never_gets_the_name() {
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).expect("a directory");
    fs::write(source.join("file"), noise(200_000)).expect("writing");
    let fake = stored(&source).await;
    fake.faults([Fault::None, Fault::WrongByte]);
    get(&fake, &target, Limits::default()).await.expect("it comes");
    assert_eq!(tree(&target), tree(&source));
    fs::remove_dir_all(&target).expect("removing");
    let content = fake.content();
    for at in [2, 5_000, 199_000] {
        fake.state().content[at] ^= 1;
        let got = to_directory(&Store::new(), content, &target, Limits::default(), &fake, &quick(), &Silent).await;
        assert!(matches!(got, Err(TransferError::WrongDigest { .. })), "{got:?}");
        assert_eq!(names_in(dir.path()), ["source"], "nothing is left");
        fake.state().content[at] ^= 1;
    }
    // What a killed process has left is no hindrance.
    let left = dir.path().join(format!(".unidesk-{}.new", &content.sha256.to_string()[..16]));
    fs::create_dir_all(left.join("half/of/it")).expect("directories");
    fs::write(left.join("file"), "half").expect("writing");
    get(&fake, &target, Limits::default()).await.expect("it comes");
    assert_eq!(tree(&target), tree(&source));
}

#[tokio::test]
async fn limits_end_it_with_nothing_left_behind() {
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).expect("a directory");
    fs::write(source.join("zeros"), vec![0; 8 << 20]).expect("writing");
    fs::write(source.join("more"), "more").expect("writing");
    let fake = stored(&source).await;
    let plain = Limits::default();
    for (limits, words) in [
        (Limits { bytes: Some(1 << 20), ..plain }, "more than 1 MiB"),
        (Limits { entries: 1, ..plain }, "more than 1 entries"),
        (Limits { ratio: Some(200), ..plain }, "more than 200 times"),
    ] {
        let error = get(&fake, &target, limits).await.expect_err("too much");
        assert!(matches!(error, TransferError::Unpack(_)) && error.to_string().contains(words), "{error}");
        assert_eq!(names_in(dir.path()), ["source"]);
    }
    get(&fake, &target, Limits { bytes: Some(9 << 20), entries: 2, ratio: Some(1_000_000) }).await.expect("it comes");
}

#[test]
fn a_list_tells_what_is_in_an_archive_without_unpacking_it() {
    let dir = tempfile::tempdir().expect("a directory");
    odd_tree(dir.path());
    let listed = list(packed(dir.path()).expect("an archive").as_slice(), &Limits::default()).expect("a list");
    let here = tree(dir.path());
    assert_eq!(listed.keys().collect::<Vec<_>>(), here.keys().collect::<Vec<_>>());
    let transfer::Listed::File { size, sha256, is_executable } = &listed[&b"large"[..]] else { panic!("a file") };
    assert_eq!((*size, *sha256, *is_executable), (300_000, crate::fake::sha256(&noise(300_000)), false));
    let error = list(noise(10_000).as_slice(), &Limits::default()).expect_err("no archive");
    assert!(matches!(error, UnpackError::Garbled(_)), "{error}");
}

/// `TRANSFER_FILES=100000` asks for more. The time is printed, and not asserted.
#[test]
fn many_small_files_come_back() {
    let many: usize = std::env::var("TRANSFER_FILES").ok().and_then(|text| text.parse().ok()).unwrap_or(10_000);
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    for n in 0..many {
        let (dir, file) = (source.join(format!("{:03}", n / 1_000)), format!("{:03}.json", n % 1_000));
        fs::create_dir_all(&dir).expect("directories");
        fs::write(dir.join(file), format!("{{\"n\": {n}}}\n").repeat(20)).expect("writing");
    }
    fs::create_dir(&target).expect("a directory");
    let began = std::time::Instant::now();
    let surveyed = survey(&source).expect("a survey");
    println!("survey {:?}: {surveyed:?}", began.elapsed());
    let began = std::time::Instant::now();
    let archive = packed(&source).expect("an archive");
    println!("packed to {} bytes in {:?}", archive.len(), began.elapsed());
    let began = std::time::Instant::now();
    let unpacked =
        transfer::unpack(archive.as_slice(), &File::open(&target).expect("a directory").into(), &Limits::default());
    println!("unpacked in {:?}", began.elapsed());
    assert_eq!(unpacked.expect("it unpacks").entries, (many + many.div_ceil(1_000)) as u64);
    let last = target.join(format!("{:03}/{:03}.json", (many - 1) / 1_000, (many - 1) % 1_000));
    assert_eq!(fs::read_to_string(last).expect("it is there"), format!("{{\"n\": {}}}\n", many - 1).repeat(20));
}

/// Keeps where it was flushed.
#[derive(Default)]
struct Flushed {
    bytes: Vec<u8>,
    ends: Vec<u64>,
}
impl std::io::Write for Flushed {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.bytes.extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.ends.push(self.bytes.len() as u64);
        Ok(())
    }
}

#[tokio::test]
async fn of_a_directory_in_which_little_changed_little_is_sent() {
    const MIB: usize = 1 << 20;
    let dir = tempfile::tempdir().expect("a directory");
    let (source, target) = (dir.path().join("source"), dir.path().join("target"));
    fs::create_dir(&source).expect("a directory");
    let content = noise(60 * MIB);
    for (at, bytes) in content.chunks(15 * MIB).enumerate() {
        fs::write(source.join(at.to_string()), bytes).expect("writing");
    }
    let sizes = PartSizes { most: 16 << 20, least: Some(5 << 20) };
    let silent: Arc<dyn Observer> = Arc::new(Silent);
    let (fake, store) = (Fake::start().await, Store::new());
    let send = async |source: Source, sizes| upload(&store, source, sizes, &fake, &quick(), &silent).await;
    let whole = send(Source::Directory(source.clone()), sizes).await.expect("it arrives");
    let first = fake.state().parts.clone();
    let (_, all_but_last) =
        first.values().collect::<Vec<_>>().split_last().map(|(last, rest)| (*last, rest.to_vec())).expect("parts");
    assert!(all_but_last.iter().all(|part| (8 * MIB..=16 * MIB).contains(&part.len())) && first.len() > 4);
    assert!(first.values().all(|part| part.starts_with(&[0x28, 0xb5, 0x2f, 0xfd])), "each is a frame of its own");
    // Packed before it is sent, it is cut at the same places.
    let mut packed = Flushed::default();
    pack(&source, &mut packed, &|_| {}).expect("packed");
    let path = dir.path().join("packed");
    fs::write(&path, &packed.bytes).expect("writing");
    let again = Source::Packed { file: File::open(&path).expect("a file"), path: path.clone(), ends: packed.ends };
    fake.state().parts.clear();
    let sent = send(again, sizes).await.expect("it arrives");
    assert!(
        (sent.size, sent.sha256, sent.parts) == (whole.size, whole.sha256, whole.parts) && fake.state().parts == first
    );
    // Some bytes more in one of the files.
    let changed = [&content[20 * MIB..25 * MIB], b"more", &content[25 * MIB..30 * MIB]].concat();
    fs::write(source.join("1"), [&content[15 * MIB..20 * MIB], &changed].concat()).expect("writing");
    *fake.known.lock().expect("no panic") =
        first.iter().map(|(number, bytes)| (*number, crate::fake::sha256(bytes))).collect();
    fake.state().puts.clear();
    let sent = send(Source::Directory(source.clone()), sizes).await.expect("it arrives");
    let puts = fake.state().puts.len() as u32;
    let told = format!("{puts} of {} parts, {} bytes were there", sent.parts, sent.had_bytes);
    assert!(puts * 2 <= sent.parts && sent.had_bytes > sent.size / 3, "{told}");
    fs::create_dir(&target).expect("a directory");
    let place = File::open(&target).expect("a directory").into();
    transfer::unpack(fake.assembled().as_slice(), &place, &Limits::default()).expect("it unpacks");
    assert_eq!(tree(&target), tree(&source));
    // Where parts must be equal, they are.
    fake.state().parts.clear();
    fake.known.lock().expect("no panic").clear();
    let sent = send(Source::Directory(source), PartSizes::equal(16 << 20)).await.expect("it arrives");
    let state = fake.state();
    let full = state.parts.values().filter(|part| part.len() == 16 * MIB).count();
    assert_eq!(full as u64, sent.size / (16 << 20));
}
