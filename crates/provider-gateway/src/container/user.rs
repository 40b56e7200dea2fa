//! Who a container runs as, in numbers: the code must belong to that user, and files are owned by numbers.

/// Reads `uid`, `uid:gid`, `name`, `name:group` as Docker does. Errors: a sentence that names what the image does not have.
pub(super) fn resolve(user: &str, passwd: &str, group: &str) -> Result<(u32, u32), String> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let user = if user.is_empty() { "0" } else { user };
    let entry = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>()).find(|fields| {
        fields.len() >= 4 && (fields[0] == user || user.parse::<u32>().is_ok_and(|uid| fields[2].parse() == Ok(uid)))
    });
    let listed = entry.and_then(|fields| Some((fields[2].parse().ok()?, fields[3].parse().ok()?)));
    let (uid, own_group) = match (listed, user.parse()) {
        (Some(ids), _) => ids,
        // A number needs no entry.
        (None, Ok(uid)) => (uid, 0),
        (None, Err(_)) => return Err(format!("the image has no user {user:?}")),
    };
    let Some(wanted_group) = wanted_group else { return Ok((uid, own_group)) };
    if let Ok(gid) = wanted_group.parse() {
        return Ok((uid, gid));
    }
    let gid = group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find_map(|fields| (fields.first() == Some(&wanted_group)).then(|| fields.get(2)?.parse().ok()).flatten());
    gid.map(|gid| (uid, gid)).ok_or_else(|| format!("the image has no group {wanted_group:?}"))
}

/// Whether the files of the image have to be read for it.
pub(super) fn is_plain(user: &str) -> bool {
    user.is_empty()
        || user.split_once(':').is_some_and(|(uid, gid)| uid.parse::<u32>().is_ok() && gid.parse::<u32>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nana:x:1000:1001::/home/ana:/bin/sh\nbroken\n";
    const GROUP: &str = "root:x:0:\nlab:x:2000:ana\n";

    #[test]
    fn users_are_read_as_docker_reads_them() {
        for (user, ids) in [
            ("", Ok((0, 0))),
            ("1000", Ok((1000, 1001))),
            ("1234", Ok((1234, 0))),
            ("1234:77", Ok((1234, 77))),
            ("ana", Ok((1000, 1001))),
            ("ana:lab", Ok((1000, 2000))),
            ("bob", Err("the image has no user \"bob\"".to_owned())),
            ("ana:gym", Err("the image has no group \"gym\"".to_owned())),
        ] {
            assert_eq!(resolve(user, PASSWD, GROUP), ids, "{user}");
        }
        assert!(is_plain("1:2") && is_plain("") && !is_plain("1000") && !is_plain("ana"));
    }
}
