//! Durations, bandwidths and times of day as people write them in a spec.
//!
//! The CRD's patterns let only what parses here pass; an object that came in otherwise is an error, not a panic.

use std::time::Duration;

/// `30s`, `5m`, `24h`, `7d`.
pub const DURATION_PATTERN: &str = "^[1-9][0-9]{0,5}(s|m|h|d)$";
/// `512kbit`, `100Mbit`, `1.5Gbit`, per second.
pub const BANDWIDTH_PATTERN: &str = "^[0-9]{1,6}(\\.[0-9]{1,3})?(k|M|G)bit$";
/// `18:30`.
pub const TIME_OF_DAY_PATTERN: &str = "^([01][0-9]|2[0-3]):[0-5][0-9]$";

/// The duration that a text of [`DURATION_PATTERN`] says.
pub fn duration(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let number: u64 = text[..text.len() - unit.len_utf8()].parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        _ => return None,
    };
    number.checked_mul(seconds).map(Duration::from_secs)
}

/// The bytes per second that a text of [`BANDWIDTH_PATTERN`] says; at least 1.
pub fn bytes_per_second(text: &str) -> Option<u64> {
    let number = text.strip_suffix("bit")?;
    let unit = number.chars().last()?;
    let bits: u64 = match unit {
        'k' => 1_000,
        'M' => 1_000_000,
        'G' => 1_000_000_000,
        _ => return None,
    };
    let number = &number[..number.len() - unit.len_utf8()];
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if fraction.len() > 3 {
        return None;
    }
    let whole: u64 = whole.parse().ok()?;
    let thousandths: u64 = format!("{fraction:0<3}").parse().ok()?;
    let bits = bits
        .checked_mul(whole)?
        .checked_add(bits / 1000 * thousandths)?;
    Some((bits / 8).max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_said_in_seconds_minutes_hours_and_days() {
        assert_eq!(duration("30s"), Some(Duration::from_secs(30)));
        assert_eq!(duration("15m"), Some(Duration::from_secs(900)));
        assert_eq!(duration("7d"), Some(Duration::from_secs(604_800)));
        for wrong in ["", "5", "m", "5w", "-1s", "ü", "99999999999999999999d"] {
            assert_eq!(duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn bandwidth_is_said_in_bits_and_used_in_bytes() {
        assert_eq!(bytes_per_second("100Mbit"), Some(12_500_000));
        assert_eq!(bytes_per_second("1.5Gbit"), Some(187_500_000));
        assert_eq!(bytes_per_second("512kbit"), Some(64_000));
        assert_eq!(bytes_per_second("0kbit"), Some(1));
        for wrong in ["", "bit", "100", "100mbit", "1.2345Gbit", "Mbit"] {
            assert_eq!(bytes_per_second(wrong), None, "{wrong}");
        }
    }
}
