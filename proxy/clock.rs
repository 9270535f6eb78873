//! What time is it? For people and for files: RFC 3339, UTC, milliseconds.

use std::time::SystemTime;

/// Now.
pub fn now() -> String {
    humantime::format_rfc3339_millis(SystemTime::now()).to_string()
}
