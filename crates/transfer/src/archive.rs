//! What both sides of an archive agree on: which names and links may be in it. Pure.

/// Directories within directories, at most: on both sides each takes an open file.
pub const MAX_DEPTH: usize = 256;

/// The components of a name. Errors: why it may not be in an archive.
pub(crate) fn components(name: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if name.starts_with(b"/") {
        return Err("its name is absolute");
    }
    if name.contains(&0) {
        return Err("its name has a zero byte");
    }
    // One slash at the end is how archives mark directories, a dot at the beginning how some tools begin.
    let name = name.strip_suffix(b"/").unwrap_or(name);
    let mut found = Vec::new();
    for component in name.split(|byte| *byte == b'/') {
        match component {
            b"." => {}
            b".." => return Err("its name leads upwards"),
            b"" if name.is_empty() => return Err("it has no name"),
            b"" => return Err("its name has two slashes in a row"),
            component if component.len() > 255 => return Err("a part of its name is longer than 255 bytes"),
            component => found.push(component),
        }
    }
    if found.len() > MAX_DEPTH { Err("it lies too deep") } else { Ok(found) }
}

/// Whether a symbolic link stays within the directory, wherever that is put. `depth`: how many directories it lies in.
///
/// Dots upwards may stand at the beginning only: there they are counted from the link's own directory, which is never a link itself. After
/// a name they would be counted from wherever another link leads.
pub fn stays_within(target: &[u8], depth: usize) -> bool {
    if target.is_empty() || target.starts_with(b"/") || target.contains(&0) {
        return false;
    }
    let mut parts = target.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").peekable();
    let mut up = 0;
    while parts.next_if(|part| *part == b"..").is_some() {
        up += 1;
    }
    up <= depth && !parts.any(|part| part == b"..")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_name_that_leads_out_is_refused() {
        for name in ["../x", "/x", "a/../x", "a/..", "..", "", "a//b", "//"] {
            assert!(components(name.as_bytes()).is_err(), "{name}");
        }
        assert!(components(&[b'x'; 256]).is_err());
        assert!(components("d/".repeat(MAX_DEPTH + 1).as_bytes()).is_err());
        assert_eq!(components(b"./a/b/"), Ok(vec![&b"a"[..], b"b"]));
        assert_eq!(components(b"./"), Ok(vec![]));
        assert_eq!(components(b"a\n\xff/..."), Ok(vec![&b"a\n\xff"[..], b"..."]));
    }

    #[test]
    fn a_link_that_leads_out_is_refused() {
        for (target, depth) in
            [("/etc/passwd", 3), ("..", 0), ("../../x", 1), ("a/..", 5), ("a/../../../x", 2), ("", 0)]
        {
            assert!(!stays_within(target.as_bytes(), depth), "{target} at {depth}");
        }
        for (target, depth) in [("a", 0), ("../a", 1), (".././../a", 2), ("./a/b//c", 0), ("..", 1), (".", 0)] {
            assert!(stays_within(target.as_bytes(), depth), "{target} at {depth}");
        }
    }

    proptest! {
        /// Links that stay within, followed one after the other through a tree of links, never leave.
        #[test]
        fn links_that_stay_within_never_lead_out_together(links in proptest::collection::vec((0usize..4, "(\\.\\./){0,3}[ab](/[ab]){0,3}"), 1..6)) {
            let dir = tempfile::tempdir().expect("a directory");
            let root = dir.path().join("root");
            let mut made = Vec::new();
            for (depth, target) in &links {
                let mut place = root.clone();
                for _ in 0..*depth { place.push("a"); }
                if std::fs::create_dir_all(&place).is_err() { continue }
                let place = place.join("b");
                // Its directory must be a real one, as it is for whoever unpacks.
                let is_real = std::fs::canonicalize(place.parent().expect("a parent")).is_ok_and(|real| {
                    std::fs::canonicalize(&root).is_ok_and(|root| real.strip_prefix(&root).is_ok_and(|rest| rest.components().count() == *depth))
                });
                if is_real && stays_within(target.as_bytes(), *depth) && std::os::unix::fs::symlink(target, &place).is_ok() {
                    made.push(place);
                }
            }
            for link in made {
                if let Ok(real) = std::fs::canonicalize(&link) {
                    prop_assert!(real.starts_with(std::fs::canonicalize(&root).expect("the root")), "{link:?} -> {real:?}");
                }
            }
        }
    }
}
