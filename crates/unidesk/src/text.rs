//! How values look to people: ages, times, plurals, and texts of others made harmless.

use chrono::{DateTime, FixedOffset, TimeDelta, Utc};
use domain::{quantity::show_duration_ms, resources::Amounts};
use std::fmt::Write;

/// A text of somebody else's (a name, a message of the server) for one line of a terminal: what could move the cursor, recolour
/// or reorder the line is shown as an escape instead.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => cleaned.push_str("\\n"),
            '\t' => cleaned.push(' '),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}' => {
                let _ = write!(cleaned, "\\u{{{:x}}}", c as u32);
            }
            c if c.is_control() => {
                let _ = write!(cleaned, "\\x{:02x}", c as u32);
            }
            c => cleaned.push(c),
        }
    }
    cleaned
}

/// The same for a text of several lines.
pub fn clean_lines(text: &str) -> Vec<String> {
    text.lines().map(clean).collect()
}

/// `12s`, `4m`, `1h 21m`, `2h`, `3d 4h`: how long ago, for a column.
pub fn show_age(age: TimeDelta) -> String {
    let seconds = age.num_seconds().max(0);
    let pair = |large: i64, unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{large}{unit}") } else { format!("{large}{unit} {small}{small_unit}") }
    };
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86400 => pair(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => pair(seconds / 86400, "d", seconds % 86400 / 3600, "h"),
    }
}

/// `28m 02s`: how long something took, or takes so far.
pub fn show_span(from: DateTime<Utc>, to: DateTime<Utc>) -> String {
    show_duration_ms((to - from).num_milliseconds().max(0) as u64)
}

/// `6h`, `1h 30m`: a limit that somebody set, so without what is zero.
pub fn show_limit(ms: u64) -> String {
    let shown = show_duration_ms(ms);
    if let Some(whole) = shown.strip_suffix(".0 s") {
        return format!("{whole} s");
    }
    let zero = [" 00m", " 00s", " 0h"].into_iter().find_map(|zero| shown.strip_suffix(zero));
    zero.unwrap_or(&shown).to_owned()
}

/// The local time of day, with the day when it is not today's.
pub fn show_clock(at: DateTime<Utc>, now: DateTime<FixedOffset>) -> String {
    let at = at.with_timezone(now.offset());
    let form = if at.date_naive() == now.date_naive() { "%H:%M:%S" } else { "%-d %b %H:%M:%S" };
    at.format(form).to_string()
}

/// `1,204`.
pub fn show_count(count: u64) -> String {
    let digits = count.to_string();
    let mut grouped = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// `1 task`, `3 tasks`.
pub fn plural(count: u64, word: &str) -> String {
    format!("{} {word}{}", show_count(count), if count == 1 { "" } else { "s" })
}

/// `4`, `0.5`: thousandths of a CPU.
pub fn show_cpus(millis: u64) -> String {
    if millis.is_multiple_of(1000) {
        (millis / 1000).to_string()
    } else {
        format!("{:.3}", millis as f64 / 1000.0).trim_end_matches('0').to_owned()
    }
}

/// `4 cpu, 16 GiB, 1 gpu with 24 GiB, 50 GiB disk`.
pub fn show_needs(amounts: &Amounts) -> String {
    use domain::quantity::show_bytes;
    let mut needs = format!("{} cpu, {}", show_cpus(amounts.cpu_millis), show_bytes(amounts.memory_bytes));
    if amounts.gpus > 0 {
        needs += &format!(", {}", plural(amounts.gpus.into(), "gpu"));
        if amounts.gpu_memory_bytes > 0 {
            needs += &format!(" with {}", show_bytes(amounts.gpu_memory_bytes));
        }
    }
    needs + &format!(", {} disk", show_bytes(amounts.disk_bytes))
}

/// Cuts to `width` characters, with an ellipsis.
pub fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    short.push('…');
    short
}

/// Where a text begins that the server adds to a message about a failure that is not retried.
const NOT_RETRIED: &str = " (not retried: ";

/// Parts a task's message from the reason why it is not retried. The reason that needs no words (nobody asked for retries) is left out.
pub fn split_not_retried(message: &str) -> (&str, Option<&str>) {
    match message.rsplit_once(NOT_RETRIED) {
        Some((message, reason)) => {
            let reason = reason.trim_end_matches(')');
            (message, Some(reason).filter(|reason| !reason.ends_with("max_retries is 0")))
        }
        None => (message, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_name_moves_no_cursor() {
        let hostile = "a\x1b[2J\x1b]0;x\x07b\rc\u{9b}31m\u{202e}d\u{7f}\n";
        let cleaned = clean(hostile);
        assert_eq!(cleaned, "a\\x1b[2J\\x1b]0;x\\x07b\\x0dc\\x9b31m\\u{202e}d\\x7f\\n");
        assert!(!cleaned.chars().any(char::is_control));
        assert_eq!(clean("größe 中 ok"), "größe 中 ok");
    }

    #[test]
    fn ages_are_short() {
        for (seconds, shown) in
            [(3, "3s"), (720, "12m"), (4860, "1h 21m"), (7200, "2h"), (273_600, "3d 4h"), (-5, "0s")]
        {
            assert_eq!(show_age(TimeDelta::seconds(seconds)), shown);
        }
    }

    #[test]
    fn counts_and_fractions_read_well() {
        assert_eq!([show_count(4), show_count(1204), show_count(1_000_000)], ["4", "1,204", "1,000,000"]);
        assert_eq!([show_cpus(4000), show_cpus(500), show_cpus(1250)], ["4", "0.5", "1.25"]);
        assert_eq!(plural(1, "task"), "1 task");
    }

    #[test]
    fn the_obvious_reason_is_left_out() {
        let told = "it exited with 3 (not retried: on_exit_codes has only [75])";
        assert_eq!(split_not_retried(told), ("it exited with 3", Some("on_exit_codes has only [75]")));
        assert_eq!(split_not_retried("x (not retried: its own failure, and max_retries is 0)"), ("x", None));
        assert_eq!(split_not_retried("plain"), ("plain", None));
    }
}
