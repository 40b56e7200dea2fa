//! `backup`: what is there, how old it is, and whether it was restored once.

use super::View;
use crate::{
    style::Tone,
    table::{Cell, Table},
    text::{clean, plural, show_age},
};
use backup::{Backup, WalStatus, restore::Back};
use chrono::{DateTime, Utc};
use domain::quantity::{show_bytes, show_duration_ms};

pub fn for_people(all: &[Backup], view: &View) -> String {
    table(all, view).for_people(&view.style, view.width)
}

pub fn for_programs(all: &[Backup], view: &View) -> String {
    table(all, view).for_programs()
}

fn table(all: &[Backup], view: &View) -> Table {
    let mut table = Table::new(["NAME", "KIND", "AGE", "SIZE", "VERIFIED"]);
    for one in all {
        table.row([
            one.name.as_str().into(),
            one.kind.as_str().into(),
            show_age(view.now.to_utc() - one.at).into(),
            show_bytes(one.bytes).into(),
            verified(one, view),
        ]);
    }
    table
}

fn verified(one: &Backup, view: &View) -> Cell {
    let why_not = one.record.as_ref().and_then(|record| record.not_verified.as_ref());
    match (one.verified(), why_not) {
        (Some(verified), _) if verified.broken.is_empty() => {
            let age = show_age(view.now.to_utc() - verified.at);
            let (tasks, took) = (plural(verified.tasks, "task"), show_duration_ms(verified.took_ms));
            Cell::toned(format!("{age} ago, audit clean, {tasks}, in {took}"), Tone::Good)
        }
        (Some(verified), _) => Cell::toned(format!("NOT CLEAN: {}", verified.broken.join("; ")), Tone::Bad),
        (None, Some(why)) => Cell::toned(format!("FAILED: {}", why.lines().next().unwrap_or_default()), Tone::Bad),
        (None, None) => Cell::toned("not yet", Tone::Warning),
    }
}

/// How near to now a restore comes.
pub fn footer(shown: usize, wal: Option<&WalStatus>, now: DateTime<Utc>) -> String {
    let backups = plural(shown as u64, "backup");
    match wal {
        None => {
            format!("{backups}. No log of the database is received: a restore brings back the moment of its backup")
        }
        Some(wal) => {
            let behind = (now - wal.at).num_seconds().max(0) + wal.behind_s.ceil() as i64;
            format!(
                "{backups}. The log of the database is received, {} behind",
                show_duration_ms(behind.unsigned_abs() * 1_000)
            )
        }
    }
}

pub fn restored(name: &str, back: &Back, next: &str) -> String {
    let contents = &back.contents;
    let last = contents.last_event_at.map_or_else(
        || "nothing had happened in it".to_owned(),
        |at| {
            format!(
                "the last thing that happened in it was at {}; what came later is lost",
                at.format("%Y-%m-%d %H:%M:%S UTC")
            )
        },
    );
    let mut text = format!("restored {}: {}, {last}\n", clean(name), plural(contents.tasks, "task"));
    if let Some(aside) = &back.aside {
        text += &format!("what was there before is in {}; delete it once all is well\n", aside.display());
    }
    text += &format!(
        "epoch {} has begun: nothing is placed before the nodes are back, and what they run goes on\n",
        contents.epoch
    );
    text + next + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::style::Style;
    use backup::{Kind, Record, Verified};

    #[test]
    fn a_list_says_what_was_restored_once_and_what_was_not() {
        let time = |text: &str| -> DateTime<Utc> { text.parse().expect("a time") };
        let began_at = time("2026-11-23T03:00:00Z");
        let record = |verified, not_verified: Option<&str>| Record {
            began_at,
            finished_at: began_at,
            restored_bytes: 0,
            postgres_version: 15,
            unidesk_version: "0.1.0".into(),
            role: "unidesk".into(),
            database: "unidesk".into(),
            sha256: None,
            wal: None,
            first_segment: None,
            verified,
            not_verified: not_verified.map(str::to_owned),
        };
        let looked = |broken: &[&str]| Verified {
            at: time("2026-11-23T03:01:00Z"),
            took_ms: 4_000,
            tasks: 1_200,
            last_event_at: None,
            broken: broken.iter().map(|one| (*one).to_owned()).collect(),
        };
        let one = |name: &str, kind, record| Backup {
            name: name.into(),
            kind,
            at: began_at,
            bytes: 3 << 20,
            path: "".into(),
            record,
        };
        let all = [
            one("c", Kind::Base, Some(record(Some(looked(&[])), None))),
            one("b.dump", Kind::Dump, Some(record(Some(looked(&["one-live: 2 rows"])), None))),
            one("a.dump", Kind::Dump, Some(record(None, Some("restoring it takes about 3 GiB")))),
            one("0.dump", Kind::Dump, None),
        ];
        let style = Style { colour: false, unicode: true };
        let view = View { style, width: 100, now: time("2026-11-23T05:00:00Z").fixed_offset() };
        let expected = "\
NAME    KIND  AGE  SIZE   VERIFIED
c       base  2h   3 MiB  1h 59m ago, audit clean, 1,200 tasks, in 4.0 s
b.dump  dump  2h   3 MiB  NOT CLEAN: one-live: 2 rows
a.dump  dump  2h   3 MiB  FAILED: restoring it takes about 3 GiB
0.dump  dump  2h   3 MiB  not yet
";
        assert_eq!(for_people(&all, &view), expected);
        let wal = WalStatus { at: time("2026-11-23T04:59:58Z"), behind_s: 1.2 };
        assert_eq!(
            footer(4, Some(&wal), view.now.to_utc()),
            "4 backups. The log of the database is received, 4.0 s behind"
        );
    }
}
