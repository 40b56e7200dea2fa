//! Sizes and durations as people write them.

/// Bytes of `16GiB`, `512MiB`, `1.5 GB` or a plain number. Binary units have an `i`; `K`, `M`, `G`, `T` alone are binary too.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => 1 << 20,
        "g" | "gi" | "gib" => 1 << 30,
        "t" | "ti" | "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return None,
    };
    scale(number, factor)
}

/// Milliseconds of `30s`, `6h`, `1h30m`, `500ms`, `2d`, or a plain number of seconds.
pub fn parse_duration_ms(text: &str) -> Option<u64> {
    let text = text.trim();
    if text.is_empty() {
        return None;
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return scale(text, 1_000);
    }
    let mut rest = text;
    let mut total: u64 = 0;
    while !rest.is_empty() {
        let number_end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(number_end);
        let unit_end = tail.find(|c: char| c.is_ascii_digit() || c == ' ').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        let factor = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" | "min" => 60_000,
            "h" => 3_600_000,
            "d" => 86_400_000,
            _ => return None,
        };
        total = total.checked_add(scale(number, factor)?)?;
        rest = tail.trim_start();
    }
    Some(total)
}

fn split_unit(text: &str) -> Option<(&str, &str)> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    (!number.is_empty()).then_some((number, unit.trim()))
}

fn scale(number: &str, factor: u64) -> Option<u64> {
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(factor);
    }
    let value = number.parse::<f64>().ok()? * factor as f64;
    (value.is_finite() && value >= 0.0 && value < (1u64 << 53) as f64).then_some(value.round() as u64)
}

/// `9.2 GiB`, `48 KiB`, `512 B`: binary units, one decimal below ten.
pub fn show_bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit != "B" && value < 9.95 && (value - value.round()).abs() >= 0.05 {
        format!("{value:.1} {unit}")
    } else {
        format!("{value:.0} {unit}")
    }
}

/// `0.4 s`, `12 s`, `1m 12s`, `3h 08m`, `4d 2h`.
pub fn show_duration_ms(ms: u64) -> String {
    let seconds = ms / 1000;
    match seconds {
        0..10 => format!("{:.1} s", ms as f64 / 1000.0),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{}m {:02}s", seconds / 60, seconds % 60),
        3600..86400 => format!("{}h {:02}m", seconds / 3600, seconds % 3600 / 60),
        _ => format!("{}d {}h", seconds / 86400, seconds % 86400 / 3600),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("16GiB", Some(16 << 30)),
            ("1.5 GiB", Some(3 << 29)),
            ("512", Some(512)),
            ("2 GB", Some(2_000_000_000)),
            ("16 gigs", None),
            ("", None),
            ("-1GiB", None),
            ("1e400", None),
            ("99999999999TiB", None),
        ] {
            assert_eq!(parse_bytes(text), bytes, "{text}");
        }
    }

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, ms) in [
            ("30s", Some(30_000)),
            ("1h30m", Some(5_400_000)),
            ("1h 30m", Some(5_400_000)),
            ("500ms", Some(500)),
            ("2.5s", Some(2_500)),
            ("90", Some(90_000)),
            ("soon", None),
            ("5 fortnights", None),
            ("", None),
        ] {
            assert_eq!(parse_duration_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn people_read_short_figures() {
        assert_eq!(show_bytes(512), "512 B");
        assert_eq!(show_bytes(9_878_424_780), "9.2 GiB");
        assert_eq!(show_bytes(16 << 30), "16 GiB");
        assert_eq!(show_duration_ms(400), "0.4 s");
        assert_eq!(show_duration_ms(72_000), "1m 12s");
        assert_eq!(show_duration_ms(11_280_000), "3h 08m");
    }
}
