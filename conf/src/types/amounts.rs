//! How much of something? Durations, sizes, numbers of workers, statuses and sets of them.

use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroUsize;
use std::str::FromStr;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

use super::{Invalid, Text, shown, text_from, written_as_text};

/// A duration, written with its unit: `30s`, `500ms`, `2m`. At most a year, so that adding it to any moment is safe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Seconds(Duration);

/// A number of bytes, written with its unit: `512B`, `64KiB`, `10MiB`, `1GiB`, `10MB`, or `0`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Bytes(u64);

/// How many worker threads there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Workers {
    /// One per core.
    Auto,
    /// This many.
    Count(NonZeroUsize),
}

/// A set of HTTP statuses, such as `200-399` or `200,204,300-399`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StatusRanges(Vec<(u16, u16)>);

/// The HTTP status of a failure, from 400 to 599.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ErrorStatus(u16);

// === impl Seconds ===

impl Seconds {
    /// `Instant + Duration` panics on overflow; nothing below this comes near it.
    const MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

    /// This many seconds, at most a year.
    pub const fn new(secs: u64) -> Self {
        let max = Self::MAX.as_secs();
        Seconds(Duration::from_secs(if secs < max { secs } else { max }))
    }

    /// This many milliseconds, at most a year.
    pub const fn millis(millis: u64) -> Self {
        let max = Self::MAX.as_secs() * 1000;
        Seconds(Duration::from_millis(if millis < max { millis } else { max }))
    }

    /// The duration.
    pub const fn get(self) -> Duration {
        self.0
    }

    /// Whether it is no time at all.
    pub const fn is_zero(self) -> bool {
        self.0.is_zero()
    }
}

impl FromStr for Seconds {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let trimmed = text.trim();
        if let Ok(number) = trimmed.parse::<u64>()
            && number > 0
        {
            return Err(Invalid::new(format!("`{number}` has no unit"), format!("\"{number}s\"")));
        }
        let duration = humantime::parse_duration(trimmed).map_err(|_| {
            Invalid::new(format!("`{}` is not a duration", shown(text)), "\"30s\", \"500ms\" or \"2m\"")
        })?;
        if duration > Self::MAX {
            return Err(Invalid::new(format!("`{}` is longer than a year", shown(text)), "a shorter duration"));
        }
        Ok(Seconds(duration))
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", humantime::format_duration(self.0))
    }
}

// === impl Bytes ===

impl Bytes {
    /// From the largest to the smallest, which is the order `Display` tries them in.
    const UNITS: [(&str, u64); 9] = [
        ("TiB", 1 << 40),
        ("TB", 1_000_000_000_000),
        ("GiB", 1 << 30),
        ("GB", 1_000_000_000),
        ("MiB", 1 << 20),
        ("MB", 1_000_000),
        ("KiB", 1 << 10),
        ("KB", 1000),
        ("B", 1),
    ];

    /// This many bytes.
    pub const fn new(bytes: u64) -> Self {
        Bytes(bytes)
    }

    /// This many times 1024 bytes.
    pub const fn kib(number: u64) -> Self {
        Bytes(number.saturating_mul(1 << 10))
    }

    /// This many times 1024 KiB.
    pub const fn mib(number: u64) -> Self {
        Bytes(number.saturating_mul(1 << 20))
    }

    /// The number of bytes.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Bytes {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let trimmed = text.trim();
        let (digits, unit) = trimmed.split_at(trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len()));
        let unit = unit.trim_start();
        let fault = || Invalid::new(format!("`{}` is not a size", shown(text)), "\"64KiB\", \"10MiB\" or \"512B\"");
        if digits.is_empty() {
            return Err(fault());
        }
        let too_big = || Invalid::new(format!("`{}` is too big a size", shown(text)), "a smaller one");
        let number: u64 = digits.parse().map_err(|_| too_big())?;
        if unit.is_empty() {
            return match number {
                0 => Ok(Bytes(0)),
                _ => Err(Invalid::new(format!("`{number}` has no unit"), format!("\"{number}B\" or \"64KiB\""))),
            };
        }
        let (_, factor) =
            Self::UNITS.into_iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(fault)?;
        number.checked_mul(factor).map(Bytes).ok_or_else(too_big)
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = Self::UNITS.into_iter().find(|(_, factor)| self.0.is_multiple_of(*factor));
        match unit {
            Some((name, factor)) if self.0 > 0 => write!(f, "{}{name}", self.0 / factor),
            _ => f.write_str("0"),
        }
    }
}

// === impl Workers ===

impl Workers {
    const MAX: usize = 1024;

    /// The number of threads; `auto` asks the system how many can run at once.
    pub fn count(self) -> usize {
        match self {
            Workers::Auto => std::thread::available_parallelism().map_or(1, NonZeroUsize::get).min(Self::MAX),
            Workers::Count(number) => number.get(),
        }
    }

    fn number(number: i128) -> Result<Self, Invalid> {
        let count = usize::try_from(number).ok().filter(|count| *count <= Self::MAX).and_then(NonZeroUsize::new);
        count.map(Workers::Count).ok_or_else(|| {
            Invalid::new(format!("`{number}` is not a number of workers"), "\"auto\" or a number from 1 to 1024")
        })
    }
}

impl FromStr for Workers {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "auto" {
            return Ok(Workers::Auto);
        }
        let number = text.parse::<i128>().map_err(|_| {
            Invalid::new(format!("`{}` is not a number of workers", shown(text)), "\"auto\" or a number from 1 to 1024")
        })?;
        Workers::number(number)
    }
}

impl fmt::Display for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Workers::Auto => f.write_str("auto"),
            Workers::Count(number) => write!(f, "{number}"),
        }
    }
}

impl Serialize for Workers {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Workers::Auto => serializer.serialize_str("auto"),
            Workers::Count(number) => number.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Workers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct WorkersVisitor;

        impl Visitor<'_> for WorkersVisitor {
            type Value = Workers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"auto\" or a number from 1 to 1024")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Workers, E> {
                match text.parse::<Workers>().map_err(E::custom)? {
                    Workers::Auto => Ok(Workers::Auto),
                    // One way to write it, so that the schema is the whole truth.
                    Workers::Count(number) => {
                        Err(E::custom(Invalid::new("a number stands without quotes", number.to_string())))
                    }
                }
            }

            fn visit_u64<E: de::Error>(self, number: u64) -> Result<Workers, E> {
                Workers::number(number.into()).map_err(E::custom)
            }

            fn visit_i64<E: de::Error>(self, number: i64) -> Result<Workers, E> {
                Workers::number(number.into()).map_err(E::custom)
            }
        }

        deserializer.deserialize_any(WorkersVisitor)
    }
}

impl JsonSchema for Workers {
    fn schema_name() -> Cow<'static, str> {
        "Workers".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`\"auto\"` (one per core) or a number.",
            "anyOf": [
                { "type": "string", "const": "auto" },
                { "type": "integer", "minimum": 1, "maximum": Workers::MAX },
            ],
        })
    }
}

// === impl StatusRanges ===

impl StatusRanges {
    /// Whether the status is one of them.
    pub fn contains(&self, status: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&status))
    }
}

impl Default for StatusRanges {
    fn default() -> Self {
        StatusRanges(vec![(200, 399)])
    }
}

impl FromStr for StatusRanges {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let status = |part: &str| {
            let part = part.trim();
            let digits = part.len() == 3 && part.bytes().all(|b| b.is_ascii_digit());
            part.parse::<u16>().ok().filter(|status| digits && (100..=599).contains(status))
        };
        let range = |part: &str| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (status(first)?, status(last)?);
            (first <= last).then_some((first, last)).filter(|_| part.matches('-').count() <= 1)
        };
        text.split(',').map(range).collect::<Option<Vec<_>>>().map(StatusRanges).ok_or_else(|| {
            let what = format!("`{}` is not a set of statuses from 100 to 599", shown(text));
            Invalid::new(what, "\"200-399\" or \"200,204\"")
        })
    }
}

impl fmt::Display for StatusRanges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (first, last)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{first}")?;
            if first != last {
                write!(f, "-{last}")?;
            }
        }
        Ok(())
    }
}

// === impl ErrorStatus ===

impl ErrorStatus {
    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }
}

impl FromStr for ErrorStatus {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let status = text.parse().ok().filter(|status| text.len() == 3 && (400..=599).contains(status));
        status.map(ErrorStatus).ok_or_else(|| {
            let what = format!("`{}` is not the status of a failure", shown(text));
            Invalid::new(what, "a status from 400 to 599, such as 502")
        })
    }
}

impl fmt::Display for ErrorStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

// === as text ===

written_as_text!(
    Seconds,
    r"^\s*(0|[0-9].*[A-Za-z])\s*$",
    "A duration with its unit, at most a year.",
    ["30s", "500ms", "2m", "1m 30s"]
);

impl Text for Seconds {
    const EXPECTED: &str = "a duration such as \"30s\"";

    fn of_number(number: &dyn fmt::Display) -> Invalid {
        Invalid::new("a duration needs its unit", format!("\"{number}s\""))
    }
}

written_as_text!(
    Bytes,
    r"^\s*(0|[0-9]+\s*([KkMmGgTt]([Ii])?)?[Bb])\s*$",
    "A number of bytes with its unit; `0` needs none.",
    ["64KiB", "10MiB", "1GiB", "512B", "0"]
);

impl Text for Bytes {
    const EXPECTED: &str = "a size such as \"64KiB\"";

    fn of_number(number: &dyn fmt::Display) -> Invalid {
        Invalid::new("a size needs its unit", format!("\"{number}B\" or, for example, \"64KiB\""))
    }
}

written_as_text!(
    StatusRanges,
    r"^\s*[1-5][0-9]{2}(\s*-\s*[1-5][0-9]{2})?(\s*,\s*[1-5][0-9]{2}(\s*-\s*[1-5][0-9]{2})?)*\s*$",
    "A set of HTTP statuses.",
    ["200-399", "200,204,300-399"]
);

written_as_text!(ErrorStatus, r"^[45][0-9]{2}$", "The HTTP status of a failure.", ["502"]);

impl Text for ErrorStatus {
    const EXPECTED: &str = "the status of a failure, such as 502";
}

impl Text for StatusRanges {
    const EXPECTED: &str = "statuses such as \"200-399\"";
}
