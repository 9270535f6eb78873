//! How one line of the access log is written: as JSON or "combined", so that nothing a client sends can forge a line
//! or a field, or reach the terminal of whoever reads the log.

use std::fmt::{self, Display, Write as _};
use std::io::{self, Write};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::Line;

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// The last second of the year 9999: later ones have no RFC 3339 form.
const LAST: Duration = Duration::from_secs(253_402_300_799);

/// A time in both formats; the calendar is worked out once a second, not once a line.
#[derive(Debug, Default)]
pub(super) struct Stamp {
    second: Option<u64>,
    rfc3339: String,
    clf: String,
}

/// Bytes from a client, as text: what is no UTF-8, and the control characters that JSON would let pass (DEL, C1 and
/// the Unicode line breaks), become `\xHH`.
struct Text<'a>(&'a [u8]);

struct Json<'a>(&'a str, &'a Line<'a>);

/// Appends a line as a JSON object; what is not known has no key.
pub(super) fn json(out: &mut Vec<u8>, stamp: &mut Stamp, line: &Line<'_>) -> io::Result<()> {
    serde_json::to_writer(&mut *out, &Json(stamp.rfc3339(line.time), line))?;
    out.push(b'\n');
    Ok(())
}

/// Appends a line in the "combined" format, escaped as nginx does.
pub(super) fn combined(out: &mut Vec<u8>, stamp: &mut Stamp, line: &Line<'_>) -> io::Result<()> {
    write!(out, "{} - - [{}] \"", line.client, stamp.clf(line.time))?;
    escaped(out, line.method.as_bytes())?;
    out.push(b' ');
    escaped(out, line.target)?;
    write!(out, " {}\" {} {} \"", line.protocol, line.status, line.bytes_out)?;
    escaped(out, line.referer.unwrap_or(b"-"))?;
    out.extend_from_slice(b"\" \"");
    escaped(out, line.user_agent.unwrap_or(b"-"))?;
    out.extend_from_slice(b"\"\n");
    Ok(())
}

/// nginx's default escape: printable ASCII except quote and backslash stays, the rest becomes `\xHH`.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) -> io::Result<()> {
    for &byte in bytes {
        match byte {
            b'"' | b'\\' => write!(out, "\\x{byte:02X}")?,
            b' '..=b'~' => out.push(byte),
            _ => write!(out, "\\x{byte:02X}")?,
        }
    }
    Ok(())
}

// === impl Stamp ===

impl Stamp {
    /// `2026-01-31T23:59:59.123Z`
    fn rfc3339(&mut self, time: SystemTime) -> &str {
        let millis = self.turn(time);
        self.rfc3339.truncate("2026-01-31T23:59:59".len());
        let _ = write!(self.rfc3339, ".{millis:03}Z");
        &self.rfc3339
    }

    /// `31/Jan/2026:23:59:59 +0000`
    fn clf(&mut self, time: SystemTime) -> &str {
        self.turn(time);
        &self.clf
    }

    fn turn(&mut self, time: SystemTime) -> u32 {
        // A clock before 1970 is a host without one; its lines are still worth having.
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default().min(LAST);
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.rfc3339.clear();
            let _ = write!(self.rfc3339, "{}", humantime::format_rfc3339_seconds(UNIX_EPOCH + since));
            let (date, clock) = self.rfc3339.split_at("2026-01-31".len());
            let (year, month, day) = (&date[..4], &date[5..7], &date[8..]);
            let month = month.parse::<usize>().map_or("-", |month| MONTHS[month - 1]);
            self.clf.clear();
            let _ = write!(self.clf, "{day}/{month}/{year}:{} +0000", &clock[1..9]);
        }
        since.subsec_millis()
    }
}

// === impl Json ===

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Json(time, line) = self;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("time", time)?;
        map.serialize_entry("client", &line.client)?;
        map.serialize_entry("method", line.method)?;
        map.serialize_entry("host", &Text(line.host))?;
        map.serialize_entry("target", &Text(line.target))?;
        map.serialize_entry("protocol", line.protocol)?;
        map.serialize_entry("status", &line.status)?;
        map.serialize_entry("bytes_in", &line.bytes_in)?;
        map.serialize_entry("bytes_out", &line.bytes_out)?;
        map.serialize_entry("seconds", &micros(line.seconds))?;
        known(&mut map, "first_byte", line.first_byte.map(micros))?;
        known(&mut map, "service", line.service)?;
        known(&mut map, "color", line.color)?;
        known(&mut map, "generation", line.generation)?;
        known(&mut map, "reason", line.reason)?;
        map.serialize_entry("retries", &line.retries)?;
        known(&mut map, "request_id", line.request_id.map(Text))?;
        known(&mut map, "user_agent", line.user_agent.map(Text))?;
        known(&mut map, "referer", line.referer.map(Text))?;
        map.end()
    }
}

fn known<M: SerializeMap>(map: &mut M, key: &'static str, value: Option<impl Serialize>) -> Result<(), M::Error> {
    value.map_or(Ok(()), |value| map.serialize_entry(key, &value))
}

/// Microseconds are what a clock is worth here; more digits only make the line longer.
fn micros(seconds: f64) -> f64 {
    (seconds * 1e6).round() / 1e6
}

// === impl Text ===

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match str::from_utf8(self.0) {
            Ok(text) if !text.contains(unprintable) => serializer.serialize_str(text),
            _ => serializer.collect_str(self),
        }
    }
}

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for part in chunk.valid().split_inclusive(unprintable) {
                let plain = part.trim_end_matches(unprintable);
                f.write_str(plain)?;
                hex(f, &part.as_bytes()[plain.len()..])?;
            }
            hex(f, chunk.invalid())?;
        }
        Ok(())
    }
}

fn hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02X}"))
}

/// C0 is left out: JSON escapes it, and says more by doing so.
fn unprintable(character: char) -> bool {
    matches!(character, '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}')
}
