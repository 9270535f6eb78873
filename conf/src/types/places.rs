//! Where is something? Hosts and path prefixes that requests ask for, addresses that backends listen on.

use std::borrow::Cow;
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use super::{Invalid, Text, shown, text_from, written_as_text};

/// A host that requests are routed by: exact, such as `portal.example.com`, `192.0.2.1` or `[2001:db8::1]`, or
/// everything below a domain, such as `*.example.com`. Lower case, without a port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Host {
    name: String,
    wildcard: bool,
}

/// The beginning of a path, on segment boundaries: `/a` covers `/a` and `/a/b`, not `/ab`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PathPrefix(String);

/// Where a backend is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// The absolute path of a unix socket.
    Unix(PathBuf),
    /// A TCP endpoint.
    Tcp {
        /// Host name or IP address; an IPv6 address stands here without brackets.
        host: String,
        /// Port, never 0.
        port: u16,
    },
}

// === impl Host ===

impl Host {
    /// True when it stands for everything below [`Host::name`], and not for the name itself.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether it is an IP address.
    pub fn is_address(&self) -> bool {
        self.name.starts_with('[') || self.name.parse::<Ipv4Addr>().is_ok()
    }

    /// The exact host, or the domain after `*.`.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl FromStr for Host {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let (wildcard, name) = match text.strip_prefix("*.") {
            Some(domain) => (true, domain),
            None => (false, text),
        };
        let name = host_name(name).map_err(|what| {
            let instead = match text.is_ascii() {
                true => "\"portal.example.com\" or \"*.example.com\"",
                false => "it as programs do, such as \"xn--mnchen-3ya.de\" for `münchen.de`",
            };
            Invalid::new(format!("`{}` is not a host: {what}", shown(text)), instead)
        })?;
        if wildcard && (name.starts_with('[') || name.parse::<Ipv4Addr>().is_ok()) {
            return Err(Invalid::new(
                format!("`{text}` is not a host: an IP address has nothing below it"),
                "\"*.example.com\"",
            ));
        }
        Ok(Host { name, wildcard })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let star = if self.wildcard { "*." } else { "" };
        write!(f, "{star}{}", self.name)
    }
}

/// The one way a host name is written: lower case, without the root's dot, IPv6 in brackets and in its short form.
fn host_name(text: &str) -> Result<String, &'static str> {
    if let Some(inside) = text.strip_prefix('[') {
        let inside =
            inside.strip_suffix(']').ok_or("an IPv6 address is closed by `]`, and a port has no place here")?;
        let ip: Ipv6Addr = inside.parse().map_err(|_| "there is no IPv6 address in the brackets")?;
        return Ok(format!("[{ip}]"));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    if name.is_empty() {
        return Err("it is empty");
    }
    if name == "*" {
        return Err("for every host, leave the list empty");
    }
    if name.contains("://") {
        return Err("a scheme has no place here");
    }
    if name.contains('/') {
        return Err("a path has no place here");
    }
    if name.parse::<Ipv6Addr>().is_ok() {
        return Err("an IPv6 address stands in brackets");
    }
    if name.contains(':') {
        return Err("a port has no place here");
    }
    if !name.is_ascii() {
        return Err("an international name is written in its `xn--` form");
    }
    if name.len() > 253 {
        return Err("it is longer than 253 characters");
    }
    if name.contains('*') {
        return Err("`*` may only be the whole first label");
    }
    if name.split('.').any(|label| label.is_empty() || label.len() > 63) {
        return Err("between the dots there are 1 to 63 characters");
    }
    if !name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
        return Err("it has letters, digits, `-`, `_` and `.` only");
    }
    Ok(name.to_ascii_lowercase())
}

// === impl PathPrefix ===

impl PathPrefix {
    /// `/`, which covers every path.
    pub fn root() -> Self {
        PathPrefix("/".to_owned())
    }

    /// As it is written; `/` is the only one that ends with a slash.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether `path` (without its query) lies at or below this prefix.
    pub fn covers(&self, path: &str) -> bool {
        self.0 == "/" || path.strip_prefix(self.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

impl FromStr for PathPrefix {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fault = |what: &str| {
            let what = format!("`{}` is not a path prefix: {what}", shown(text));
            Err(Invalid::new(what, "\"/\" or \"/shop\""))
        };
        let Some(rest) = text.strip_prefix('/') else {
            return fault("it starts with `/`");
        };
        if text.contains(['?', '#']) {
            return fault("`?` and `#` end a path");
        }
        if text.contains('*') {
            return fault("it has no wildcards, everything below it is covered");
        }
        if !text.bytes().all(|b| b.is_ascii_graphic()) {
            return fault("spaces and what is not ASCII are percent-encoded in a path");
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() && text.len() <= 1 {
            return Ok(PathPrefix::root());
        }
        if rest.split('/').any(|segment| matches!(segment, "" | "." | "..")) {
            return fault("empty, `.` and `..` segments cannot be routed by");
        }
        Ok(PathPrefix(format!("/{rest}")))
    }
}

impl fmt::Display for PathPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

// === impl Address ===

impl Address {
    /// The path of the unix socket, if it is one.
    pub fn socket(&self) -> Option<&Path> {
        match self {
            Address::Unix(path) => Some(path),
            Address::Tcp { .. } => None,
        }
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let fault = |what: &str, instead: &str| {
            Err(Invalid::new(format!("`{}` is not an address: {what}", shown(text)), instead))
        };
        let examples = "\"/run/app/nginx.sock\" or \"localhost:8080\"";
        if text.chars().any(char::is_control) {
            return fault("it contains a control character", examples);
        }
        if let Some(path) = text.strip_prefix("unix:") {
            return fault("a socket is its path alone", &format!("\"{}\"", path.trim_start_matches("//")));
        }
        if text.contains("://") {
            return fault("a scheme has no place here", examples);
        }
        if text.starts_with('/') {
            return Ok(Address::Unix(text.into()));
        }
        if text.contains('/') {
            return fault("a socket's path starts with `/`", examples);
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return fault("it has no port", examples);
        };
        let host = match host_name(host) {
            Ok(host) => host.trim_start_matches('[').trim_end_matches(']').to_owned(),
            Err(what) => return fault(what, examples),
        };
        match port.parse::<u16>() {
            Ok(port) if port > 0 => Ok(Address::Tcp { host, port }),
            _ => fault("a port is a number from 1 to 65535", examples),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Unix(path) => write!(f, "{}", path.display()),
            Address::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

// === as text ===

written_as_text!(
    Host,
    r"^(\*\.)?([A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]+\])$",
    "A host, exact or everything below a domain, without a port.",
    ["portal.example.com", "*.example.com", "192.0.2.1", "[2001:db8::1]"]
);

impl Text for Host {
    const EXPECTED: &str = "a host such as \"portal.example.com\"";
}

written_as_text!(
    PathPrefix,
    r##"^/[!-"$-)+->@-~]*$"##,
    "The beginning of a path, on segment boundaries.",
    ["/", "/shop"]
);

impl Text for PathPrefix {
    const EXPECTED: &str = "a path prefix such as \"/shop\"";
}

written_as_text!(
    Address,
    r"^(/.*|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})$",
    "The absolute path of a unix socket, or `host:port`.",
    ["/var/run/nginx/blue/nginx.sock", "localhost:8080"]
);

impl Text for Address {
    const EXPECTED: &str = "an address such as \"/run/app/nginx.sock\" or \"localhost:8080\"";

    fn of_number(number: &dyn fmt::Display) -> Invalid {
        Invalid::new("a port alone is not an address", format!("\"localhost:{number}\""))
    }
}
