//! Moments: read from an archive's `Release` file, written into the lock, asked of a snapshot mirror.

use crate::base::error::{Error, Result};
use std::fmt;
use std::str::FromStr;

const SECONDS_OF_DAY: u64 = 86_400;
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// A second between 1970 and 9999, in UTC. Written `2026-09-12T07:55:41Z` (RFC 3339).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment(u64);

impl Moment {
    /// The moment so many seconds after 1970-01-01T00:00:00Z.
    pub fn at(unix: u64) -> Self {
        Self(unix)
    }

    /// What this machine's clock says.
    pub fn now() -> Self {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Self(since.map(|since| since.as_secs()).unwrap_or_default())
    }

    /// Seconds since 1970-01-01T00:00:00Z.
    pub fn unix(self) -> u64 {
        self.0
    }

    /// The same time of day, `count` days later.
    #[must_use]
    pub fn days_later(self, count: u64) -> Self {
        Self(self.0 + count * SECONDS_OF_DAY)
    }

    /// The form that snapshot mirrors have in their paths: `20260912T075541Z`.
    pub fn stamp(self) -> String {
        self.to_string().replace(['-', ':'], "")
    }

    /// Reads the `Date` of a `Release` file: RFC 2822 with the zone as `UTC`, `GMT` or an offset
    /// (`Sat, 12 Sep 2026 07:55:41 UTC`). The day of the week is not checked.
    ///
    /// # Errors
    /// Another form, or a day that the calendar does not have.
    pub fn from_release(text: &str) -> Result<Self> {
        Self::read_release(text).ok_or_else(|| Error::new(format!("`{text}` is no date of a Release file")))
    }

    fn read_release(text: &str) -> Option<Self> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let words = if words.first()?.ends_with(',') { &words[1..] } else { &words[..] };
        let [day, month, year, time, zone] = words else { return None };
        let month = 1 + MONTHS.iter().position(|name| name == month)? as u64;
        let local = Self::from_parts(number(year, 4)?, month, day.parse().ok()?, time)?;
        let offset = match *zone {
            "UTC" | "GMT" | "Z" => 0,
            offset => {
                let minutes = |digits: &str| Some(number(digits.get(..2)?, 2)? * 60 + number(digits.get(2..)?, 2)?);
                match offset.split_at_checked(1)? {
                    ("+", digits) => minutes(digits)? as i64,
                    ("-", digits) => -(minutes(digits)? as i64),
                    _ => return None,
                }
            }
        };
        local.0.checked_add_signed(-offset * 60).map(Self)
    }

    fn read_rfc3339(text: &str) -> Option<Self> {
        let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
        let parts: Vec<&str> = date.split('-').collect();
        let [year, month, day] = parts[..] else { return None };
        Self::from_parts(number(year, 4)?, number(month, 2)?, number(day, 2)?, time)
    }

    fn from_parts(year: u64, month: u64, day: u64, time: &str) -> Option<Self> {
        let parts: Vec<&str> = time.split(':').collect();
        let [hour, minute, second] = parts[..] else { return None };
        let (hour, minute, second) = (number(hour, 2)?, number(minute, 2)?, number(second, 2)?);
        let known = (1970..=9999).contains(&year)
            && (1..=12).contains(&month)
            && (1..=days_of_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        let days: u64 = (1970..year).map(days_of_year).sum::<u64>()
            + (1..month).map(|month| days_of_month(year, month)).sum::<u64>()
            + day.checked_sub(1)?;
        known.then_some(Self(days * SECONDS_OF_DAY + hour * 3600 + minute * 60 + second))
    }
}

fn number(digits: &str, length: usize) -> Option<u64> {
    let plain = digits.len() == length && digits.bytes().all(|c| c.is_ascii_digit());
    plain.then(|| digits.parse().ok()).flatten()
}

fn leaps(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_of_year(year: u64) -> u64 {
    if leaps(year) { 366 } else { 365 }
}

fn days_of_month(year: u64, month: u64) -> u64 {
    match month {
        2 if leaps(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl FromStr for Moment {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::read_rfc3339(text)
            .ok_or_else(|| Error::new(format!("`{text}` is no date")).next("write it as 2026-09-12T07:55:41Z"))
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (mut days, seconds) = (self.0 / SECONDS_OF_DAY, self.0 % SECONDS_OF_DAY);
        let mut year = 1970;
        while days >= days_of_year(year) {
            days -= days_of_year(year);
            year += 1;
        }
        let mut month = 1;
        while days >= days_of_month(year, month) {
            days -= days_of_month(year, month);
            month += 1;
        }
        let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{:02}T{hour:02}:{minute:02}:{second:02}Z", days + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_release_files_date_becomes_seconds_rfc_3339_and_a_snapshot_stamp() {
        let cases = [
            ("Sat, 12 Sep 2026 07:55:41 UTC", 1_789_199_741, "2026-09-12T07:55:41Z", "20260912T075541Z"),
            ("Thu, 29 Feb 2024 23:59:59 +0000", 1_709_251_199, "2024-02-29T23:59:59Z", "20240229T235959Z"),
            ("1 Mar 2100 00:30:00 +0130", 4_107_538_800, "2100-02-28T23:00:00Z", "21000228T230000Z"),
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0, "1970-01-01T00:00:00Z", "19700101T000000Z"),
        ];
        for (text, unix, rfc3339, stamp) in cases {
            let moment = Moment::from_release(text).unwrap();
            assert_eq!((moment.unix(), moment.to_string().as_str(), moment.stamp().as_str()), (unix, rfc3339, stamp));
            assert_eq!(rfc3339.parse::<Moment>().unwrap(), moment);
        }
    }

    #[test]
    fn a_day_that_the_calendar_does_not_have_is_no_date() {
        for bad in
            ["2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-01-00T00:00:00Z", "2026-01-01T24:00:00Z", "2026-1-1T0:0:0Z"]
        {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
        for bad in [
            "",
            "Sat, 12 Sep 2026",
            "Sat, 31 Sep 2026 07:55:41 UTC",
            "Sat, 12 Sep 2026 07:55:41 CEST",
            "1 Jan 1970 00:00:00 +0100",
        ] {
            assert!(Moment::from_release(bad).is_err(), "{bad}");
        }
    }
}
