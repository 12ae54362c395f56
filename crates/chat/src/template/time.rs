//! `strftime` for templates that tell the model the date.

/// A local civil time. Whoever renders passes it in: nothing here reads a clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CivilTime {
    /// The year.
    pub year: i32,
    /// The month, from 1.
    pub month: u8,
    /// The day of the month, from 1.
    pub day: u8,
    /// The hour, from 0.
    pub hour: u8,
    /// The minute.
    pub minute: u8,
    /// The second.
    pub second: u8,
}

const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

impl CivilTime {
    /// The time of a count of seconds since 1970-01-01 00:00, in the same zone.
    pub fn from_unix(seconds: i64) -> Self {
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        // Days since 0000-03-01: years that start in March end with the leap day.
        let shifted = days + 719_468;
        let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
        let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
        let day_of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let month = (month_from_march + 2) % 12 + 1;
        Self {
            year: (year_of_era + era * 400 + i64::from(month <= 2)) as i32,
            month: month as u8,
            day: (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8,
            hour: (of_day / 3_600) as u8,
            minute: (of_day / 60 % 60) as u8,
            second: (of_day % 60) as u8,
        }
    }

    /// The same time a day earlier.
    pub(super) fn day_before(self) -> Self {
        let is_leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        let (year, month, day) = match (self.month, self.day) {
            (1, 1) => (self.year - 1, 12, 31),
            (3, 1) => (self.year, 2, if is_leap { 29 } else { 28 }),
            (5 | 7 | 10 | 12, 1) => (self.year, self.month - 1, 30),
            (_, 1) => (self.year, self.month - 1, 31),
            _ => (self.year, self.month, self.day - 1),
        };
        Self { year, month, day, ..self }
    }

    fn day_of_year(&self) -> i64 {
        const BEFORE: [i64; 12] = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334];
        let leap = self.year % 4 == 0 && (self.year % 100 != 0 || self.year % 400 == 0);
        BEFORE[usize::from(self.month.clamp(1, 12)) - 1]
            + i64::from(self.day)
            + i64::from(leap && self.month > 2)
    }

    /// From 0, Sunday.
    fn weekday(&self) -> i64 {
        let y = i64::from(self.year) - 1;
        (y * 365 + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400) + self.day_of_year()).rem_euclid(7)
    }

    /// Year and number of the ISO week.
    fn iso_week(&self) -> (i64, i64) {
        let monday_based = (self.weekday() + 6) % 7 + 1;
        let week = (self.day_of_year() - monday_based + 10) / 7;
        let year = i64::from(self.year);
        let weeks_in = |y: i64| {
            let p = |y: i64| (y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400)).rem_euclid(7);
            if p(y) == 4 || p(y - 1) == 3 { 53 } else { 52 }
        };
        match week {
            0 => (year - 1, weeks_in(year - 1)),
            w if w > weeks_in(year) => (year + 1, 1),
            w => (year, w),
        }
    }

    /// Formats as `strftime` does, with English names. What is no directive stays as it is.
    pub fn format(&self, format: &str) -> String {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next();
            let mut plain = false;
            if directive == Some('-') {
                plain = true;
                directive = chars.next();
            }
            let hour12 = i64::from((self.hour + 11) % 12 + 1);
            let weekday = self.weekday();
            let number = |value: i64, width: usize, fill: char| match (plain, fill) {
                (true, _) => value.to_string(),
                (_, ' ') => format!("{value:>width$}"),
                _ => format!("{value:0>width$}"),
            };
            let month = MONTHS[usize::from(self.month.clamp(1, 12)) - 1];
            let day = DAYS[weekday as usize];
            match directive {
                Some('Y') => out.push_str(&self.year.to_string()),
                Some('y') => out.push_str(&number(i64::from(self.year).rem_euclid(100), 2, '0')),
                Some('C') => out.push_str(&number(i64::from(self.year).div_euclid(100), 2, '0')),
                Some('m') => out.push_str(&number(self.month.into(), 2, '0')),
                Some('d') => out.push_str(&number(self.day.into(), 2, '0')),
                Some('e') => out.push_str(&number(self.day.into(), 2, ' ')),
                Some('H') => out.push_str(&number(self.hour.into(), 2, '0')),
                Some('k') => out.push_str(&number(self.hour.into(), 2, ' ')),
                Some('I') => out.push_str(&number(hour12, 2, '0')),
                Some('l') => out.push_str(&number(hour12, 2, ' ')),
                Some('M') => out.push_str(&number(self.minute.into(), 2, '0')),
                Some('S') => out.push_str(&number(self.second.into(), 2, '0')),
                Some('f') => out.push_str("000000"),
                Some('j') => out.push_str(&number(self.day_of_year(), 3, '0')),
                Some('p') => out.push_str(if self.hour < 12 { "AM" } else { "PM" }),
                Some('P') => out.push_str(if self.hour < 12 { "am" } else { "pm" }),
                Some('A') => out.push_str(day),
                Some('a') => out.push_str(&day[..3]),
                Some('B') => out.push_str(month),
                Some('b' | 'h') => out.push_str(&month[..3]),
                Some('w') => out.push_str(&weekday.to_string()),
                Some('u') => out.push_str(&((weekday + 6) % 7 + 1).to_string()),
                Some('U') => out.push_str(&number((self.day_of_year() - 1 + 7 - weekday) / 7, 2, '0')),
                Some('W') => {
                    out.push_str(&number((self.day_of_year() - 1 + 7 - (weekday + 6) % 7) / 7, 2, '0'))
                }
                Some('G') => out.push_str(&self.iso_week().0.to_string()),
                Some('V') => out.push_str(&number(self.iso_week().1, 2, '0')),
                Some('D' | 'x') => out.push_str(&self.format("%m/%d/%y")),
                Some('F') => out.push_str(&self.format("%Y-%m-%d")),
                Some('T' | 'X') => out.push_str(&self.format("%H:%M:%S")),
                Some('R') => out.push_str(&self.format("%H:%M")),
                Some('r') => out.push_str(&self.format("%I:%M:%S %p")),
                Some('c') => out.push_str(&self.format("%a %b %e %H:%M:%S %Y")),
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('%') => out.push('%'),
                // The time carries no zone, as Python's `datetime.now()` doesn't.
                Some('z' | 'Z') => {}
                Some(other) => {
                    out.push('%');
                    if plain {
                        out.push('-');
                    }
                    out.push(other);
                }
                None => out.push('%'),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_as_strftime() {
        let time = CivilTime { year: 2025, month: 3, day: 4, hour: 15, minute: 9, second: 26 };
        for (format, expected) in [
            ("%Y-%m-%d %H:%M:%S", "2025-03-04 15:09:26"),
            ("%d %b %Y, %-d %B %y, %e|", "04 Mar 2025, 4 March 25,  4|"),
            ("%A %a %j %w %u %I %p %-I", "Tuesday Tue 063 2 2 03 PM 3"),
            ("%D %F %T %R %c", "03/04/25 2025-03-04 15:09:26 15:09 Tue Mar  4 15:09:26 2025"),
            ("100%% %Q %", "100% %Q %"),
            ("%U %W %V %G", "09 09 10 2025"),
        ] {
            assert_eq!(time.format(format), expected, "{format}");
        }
        let new_year = CivilTime { year: 2021, month: 1, day: 3, hour: 0, minute: 0, second: 0 };
        assert_eq!(new_year.format("%V %G %U %W %I"), "53 2020 01 00 12");
    }

    #[test]
    fn counts_from_the_epoch() {
        assert_eq!(CivilTime::from_unix(0).format("%F %T %a"), "1970-01-01 00:00:00 Thu");
        assert_eq!(CivilTime::from_unix(1_741_964_966).format("%F %T"), "2025-03-14 15:09:26");
        assert_eq!(CivilTime::from_unix(951_782_400).format("%F"), "2000-02-29");
        assert_eq!(CivilTime::from_unix(-1).format("%F %T"), "1969-12-31 23:59:59");
    }
}
