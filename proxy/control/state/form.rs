//! How a record stands in its file, and every way in which a file can fail to hold one.

use std::path::Path;

use bgproxy_conf::ServiceName;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Record;

/// The newest form of the file that this code reads and writes.
const SCHEMA: u64 = 1;

/// One look at one file.
pub(super) enum Found {
    Absent,
    Good(Record),
    Damaged(String),
    /// Intact, but of a newer schema or with fields we do not know.
    Foreign(String),
}

/// The file's outer shell, with the record's bytes as they stand in it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Shell<'a> {
    schema: u64,
    checksum: String,
    service: ServiceName,
    #[serde(borrow)]
    record: &'a RawValue,
}

/// All that is asked of a file before its schema is known.
#[derive(Deserialize)]
struct Header {
    schema: u64,
}

pub(super) fn encode(service: &ServiceName, record: &Record) -> Vec<u8> {
    let record = serde_json::value::to_raw_value(record).expect("a record has no maps with odd keys");
    let shell = Shell { schema: SCHEMA, checksum: checksum(record.get()), service: service.clone(), record: &record };
    let mut bytes = serde_json::to_vec(&shell).expect("a shell has no maps with odd keys");
    bytes.push(b'\n');
    bytes
}

fn checksum(record: &str) -> String {
    format!("crc32:{:08x}", crc32fast::hash(record.as_bytes()))
}

pub(super) fn decode(path: &Path, bytes: &[u8], service: &ServiceName) -> Found {
    let damaged = |what: &dyn std::fmt::Display| Found::Damaged(format!("`{}` {what}", path.display()));
    let header: Header = match serde_json::from_slice(bytes) {
        Ok(header) => header,
        Err(fault) => return damaged(&format_args!("is not readable ({fault})")),
    };
    if header.schema > SCHEMA {
        return Found::Foreign(format!("is of schema {}, this bgproxy knows up to {SCHEMA}", header.schema));
    }
    let shell: Shell<'_> = match serde_json::from_slice(bytes) {
        Ok(shell) => shell,
        Err(fault) => return damaged(&format_args!("is not readable ({fault})")),
    };
    if shell.schema != SCHEMA {
        return damaged(&format_args!("claims schema {}, which never was", shell.schema));
    }
    if shell.checksum != checksum(shell.record.get()) {
        return damaged(&"does not match its checksum");
    }
    if shell.service != *service {
        return damaged(&format_args!("belongs to service `{}`", shell.service));
    }
    // The checksum fits, so this is what was written: no damage, but a writer that we do not understand.
    serde_json::from_str(shell.record.get())
        .map_or_else(|fault| Found::Foreign(format!("holds what this bgproxy does not know ({fault})")), Found::Good)
}

/// The generation in a file that nothing else can be read from; fewer than 16 digits, so that a broken one cannot
/// bring the count near its end.
pub(super) fn salvage(bytes: &[u8]) -> Option<u64> {
    let text = String::from_utf8_lossy(bytes);
    let (_, after) = text.split_once("\"generation\":")?;
    let digits = after.split(|c: char| !c.is_ascii_digit()).next()?;
    if digits.len() < 16 { digits.parse().ok() } else { None }
}
