//! Values that cannot be wrong: once one of these exists, nobody has to check it again.
//!
//! Each is written as text, in the configuration file as well as over the control socket; [`Invalid`] says what is
//! wrong with a text and what to write instead.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use serde::{Serialize, Serializer};

/// Why a text is not such a value: what is wrong, then what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}; write {instead}")]
pub struct Invalid {
    what: String,
    instead: String,
}

impl Invalid {
    fn new(what: impl Into<String>, instead: impl Into<String>) -> Self {
        Invalid { what: what.into(), instead: instead.into() }
    }
}

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

/// The name of one of the places a service may live. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Color(Arc<str>);

/// The name of a service; safe as a file name. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

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

/// Who may do something.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Principal {
    /// A user, by name or number.
    User(String),
    /// A group, by name or number.
    Group(String),
    /// Everybody who can open the socket.
    Everybody,
}

/// A set of HTTP statuses, such as `200-399` or `200,204,300-399`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StatusRanges(Vec<(u16, u16)>);

// === impl Host ===

impl Host {
    /// True when it stands for everything below [`Host::name`], and not for the name itself.
    pub fn is_wildcard(&self) -> bool {
        self.wildcard
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
            Invalid::new(
                format!("`{}` is not a host: {what}", shown(text)),
                "\"portal.example.com\" or \"*.example.com\"",
            )
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

// === impl Color and ServiceName ===

impl Color {
    /// The color named `blue`.
    pub fn blue() -> Self {
        Color("blue".into())
    }

    /// The color named `green`.
    pub fn green() -> Self {
        Color("green".into())
    }

    /// Its name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl ServiceName {
    /// The name itself.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Color {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        label("color", "green", text).map(Color)
    }
}

impl FromStr for ServiceName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        label("service name", "portal", text).map(ServiceName)
    }
}

fn label(what: &str, example: &str, text: &str) -> Result<Arc<str>, Invalid> {
    let mut bytes = text.bytes();
    let fits = bytes.next().is_some_and(|b| b.is_ascii_lowercase())
        && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
        && text.len() <= 32;
    if fits {
        return Ok(text.into());
    }
    Err(Invalid::new(
        format!("`{}` is not a {what}", shown(text)),
        format!("up to 32 of a-z, 0-9, `-` and `_` beginning with a letter, such as \"{example}\""),
    ))
}

impl fmt::Display for Color {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl AsRef<str> for Color {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl AsRef<str> for ServiceName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Color {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ServiceName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

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

// === impl Principal ===

impl FromStr for Principal {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text == "*" {
            return Ok(Principal::Everybody);
        }
        let (group, name) = match text.strip_prefix('@') {
            Some(name) => (true, name),
            None => (false, text),
        };
        // Not stricter than this: directories hand out names such as `jane.doe@example.com`.
        let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, ':' | ',' | '/' | '*');
        if name.is_empty() || name.len() > 256 || name.starts_with(['-', '@']) || name.contains(odd) {
            let what = format!("`{}` is neither a user nor a group", shown(text));
            return Err(Invalid::new(what, "\"deploy\" for a user, \"@deploy\" for a group, or \"*\" for everybody"));
        }
        Ok(if group { Principal::Group(name.to_owned()) } else { Principal::User(name.to_owned()) })
    }
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Principal::User(name) => f.write_str(name),
            Principal::Group(name) => write!(f, "@{name}"),
            Principal::Everybody => f.write_str("*"),
        }
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

// === text in, text out ===

/// A value that is written as text.
trait Text: FromStr<Err = Invalid> + fmt::Display {
    /// Completes "expected ...".
    const EXPECTED: &str;

    /// What to say to a plain number, which is the commonest slip of all.
    fn of_number(number: &dyn fmt::Display) -> Invalid {
        Invalid::new(format!("expected {}, found the number `{number}`", Self::EXPECTED), format!("\"{number}\""))
    }
}

fn text_from<'de, T: Text, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    struct TextVisitor<T>(std::marker::PhantomData<T>);

    impl<T: Text> Visitor<'_> for TextVisitor<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(T::EXPECTED)
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(E::custom)
        }

        fn visit_i64<E: de::Error>(self, number: i64) -> Result<T, E> {
            Err(E::custom(T::of_number(&number)))
        }

        fn visit_u64<E: de::Error>(self, number: u64) -> Result<T, E> {
            Err(E::custom(T::of_number(&number)))
        }

        fn visit_f64<E: de::Error>(self, number: f64) -> Result<T, E> {
            Err(E::custom(T::of_number(&number)))
        }
    }

    deserializer.deserialize_str(TextVisitor(std::marker::PhantomData))
}

/// The text of a refused value, as far as it fits on a line.
fn shown(text: &str) -> String {
    let mut shown: String = text.chars().take(80).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    if text.chars().nth(80).is_some() {
        shown.push_str("...");
    }
    shown
}

macro_rules! written_as_text {
    ($type:ident, $pattern:expr, $description:expr, $examples:expr) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text_from(deserializer)
            }
        }

        impl TryFrom<String> for $type {
            type Error = Invalid;

            fn try_from(text: String) -> Result<Self, Invalid> {
                text.parse()
            }
        }

        impl From<$type> for String {
            fn from(value: $type) -> String {
                value.to_string()
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": "string",
                    "description": $description,
                    "pattern": $pattern,
                    "examples": $examples,
                })
            }
        }
    };
}

written_as_text!(
    Host,
    r"^(\*\.)?([A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?|\[[0-9A-Fa-f:.]+\])$",
    "A host, exact or everything below a domain, without a port.",
    ["portal.example.com", "*.example.com", "192.0.2.1", "[2001:db8::1]"]
);
written_as_text!(
    PathPrefix,
    r##"^/[!-"$-)+->@-~]*$"##,
    "The beginning of a path, on segment boundaries.",
    ["/", "/shop"]
);
written_as_text!(
    Address,
    r"^(/.*|(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5})$",
    "The absolute path of a unix socket, or `host:port`.",
    ["/var/run/nginx/blue/nginx.sock", "localhost:8080"]
);
written_as_text!(Color, r"^[a-z][a-z0-9_-]{0,31}$", "The name of a color.", ["blue", "green"]);
written_as_text!(ServiceName, r"^[a-z][a-z0-9_-]{0,31}$", "The name of a service.", ["default", "portal"]);
written_as_text!(
    Seconds,
    r"^\s*(0|[0-9].*[A-Za-z])\s*$",
    "A duration with its unit, at most a year.",
    ["30s", "500ms", "2m", "1m 30s"]
);
written_as_text!(
    Bytes,
    r"^\s*(0|[0-9]+\s*([KkMmGgTt]([Ii])?)?[Bb])\s*$",
    "A number of bytes with its unit; `0` needs none.",
    ["64KiB", "10MiB", "1GiB", "512B", "0"]
);
written_as_text!(
    Principal,
    r"^(\*|@?[^-@*\s:,/][^*\s:,/]*)$",
    "A user, a group as `@group`, or `*` for everybody.",
    ["deploy", "@deploy", "*"]
);
written_as_text!(
    StatusRanges,
    r"^\s*[1-5][0-9]{2}(\s*-\s*[1-5][0-9]{2})?(\s*,\s*[1-5][0-9]{2}(\s*-\s*[1-5][0-9]{2})?)*\s*$",
    "A set of HTTP statuses.",
    ["200-399", "200,204,300-399"]
);

impl Text for Host {
    const EXPECTED: &str = "a host such as \"portal.example.com\"";
}

impl Text for PathPrefix {
    const EXPECTED: &str = "a path prefix such as \"/shop\"";
}

impl Text for Address {
    const EXPECTED: &str = "an address such as \"/run/app/nginx.sock\" or \"localhost:8080\"";

    fn of_number(number: &dyn fmt::Display) -> Invalid {
        Invalid::new("a port alone is not an address", format!("\"localhost:{number}\""))
    }
}

impl Text for Color {
    const EXPECTED: &str = "a color such as \"green\"";
}

impl Text for ServiceName {
    const EXPECTED: &str = "a service name such as \"portal\"";
}

impl Text for Seconds {
    const EXPECTED: &str = "a duration such as \"30s\"";

    fn of_number(number: &dyn fmt::Display) -> Invalid {
        Invalid::new("a duration needs its unit", format!("\"{number}s\""))
    }
}

impl Text for Bytes {
    const EXPECTED: &str = "a size such as \"64KiB\"";

    fn of_number(number: &dyn fmt::Display) -> Invalid {
        Invalid::new("a size needs its unit", format!("\"{number}B\" or, for example, \"64KiB\""))
    }
}

impl Text for Principal {
    const EXPECTED: &str = "a user such as \"deploy\" or a group such as \"@deploy\"";
}

impl Text for StatusRanges {
    const EXPECTED: &str = "statuses such as \"200-399\"";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault<T: FromStr<Err = Invalid> + fmt::Debug>(text: &str) -> String {
        text.parse::<T>().expect_err(text).to_string()
    }

    /// Reads, writes and reads again, as text and as JSON.
    fn round<T>(text: &str) -> String
    where
        T: FromStr<Err = Invalid> + fmt::Display + fmt::Debug + PartialEq + Serialize + serde::de::DeserializeOwned,
    {
        let value: T = text.parse().expect(text);
        let written = value.to_string();
        assert_eq!(written.parse::<T>().as_ref(), Ok(&value), "{text}");
        let json = serde_json::to_string(&value).expect("serializes");
        assert_eq!(serde_json::from_str::<T>(&json).expect("deserializes"), value, "{json}");
        written
    }

    #[test]
    fn a_host_is_lower_case_and_without_the_dot_of_the_root() {
        assert_eq!(round::<Host>("Portal.Example.COM."), "portal.example.com");
        assert_eq!(round::<Host>("*.Example.com"), "*.example.com");
        assert_eq!(round::<Host>("192.0.2.1"), "192.0.2.1");
        assert_eq!(round::<Host>("[2001:DB8:0::1]"), "[2001:db8::1]");
        let wildcard: Host = "*.example.com".parse().expect("a host");
        assert!(wildcard.is_wildcard());
        assert_eq!(wildcard.name(), "example.com");
    }

    #[test]
    fn what_is_more_than_a_host_is_refused_with_the_reason() {
        for (text, reason) in [
            ("", "it is empty"),
            ("*", "for every host, leave the list empty"),
            ("*.", "it is empty"),
            ("a.*.example.com", "`*` may only be the whole first label"),
            ("http://example.com", "a scheme has no place here"),
            ("example.com/shop", "a path has no place here"),
            ("example.com:80", "a port has no place here"),
            ("[::1]:80", "a port has no place here"),
            ("::1", "an IPv6 address stands in brackets"),
            ("[::1", "closed by `]`"),
            ("*.[::1]", "has nothing below it"),
            ("*.192.0.2.1", "has nothing below it"),
            ("a..b", "between the dots"),
            ("bücher.example", "`xn--` form"),
            ("a b", "letters, digits"),
            ("a\0b", "letters, digits"),
        ] {
            let said = fault::<Host>(text);
            assert!(said.contains(reason), "{text:?}: {said}");
        }
        assert!(fault::<Host>(&"a".repeat(64)).contains("1 to 63"));
        assert!(fault::<Host>(&"a.".repeat(130)).contains("longer than 253"));
    }

    #[test]
    fn a_path_prefix_covers_whole_segments() {
        assert_eq!(round::<PathPrefix>("/"), "/");
        assert_eq!(round::<PathPrefix>("/shop/"), "/shop");
        let shop: PathPrefix = "/shop".parse().expect("a prefix");
        assert!(shop.covers("/shop") && shop.covers("/shop/") && shop.covers("/shop/cart"));
        assert!(!shop.covers("/shops") && !shop.covers("/"));
        assert!(PathPrefix::root().covers("/shop") && PathPrefix::root().covers("*"));
        for text in ["", "shop", "/a?b", "/a#b", "/a b", "/a\n", "/ä", "//", "/a//b", "/a/../b", "/./", "/a/*"] {
            assert!(text.parse::<PathPrefix>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_address_is_a_socket_or_host_and_port() {
        assert_eq!(round::<Address>("/run/app.sock"), "/run/app.sock");
        assert_eq!(round::<Address>("LocalHost:8080"), "localhost:8080");
        assert_eq!(round::<Address>("[::1]:8080"), "[::1]:8080");
        let ipv6 = "[::1]:8080".parse();
        assert_eq!(ipv6, Ok(Address::Tcp { host: "::1".to_owned(), port: 8080 }));
        assert!(fault::<Address>("unix:/run/app.sock").ends_with("write \"/run/app.sock\""));
        for text in [
            "",
            "run/app.sock",
            "localhost",
            "localhost:",
            "localhost:0",
            "localhost:65536",
            "http://a:80",
            ":80",
            "::1:80",
            "/a\0",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn colors_and_service_names_are_safe_as_file_names() {
        assert_eq!(round::<Color>("blue"), "blue");
        assert_eq!(round::<ServiceName>("portal-2_b"), "portal-2_b");
        for text in ["", "Blue", "2blue", "-blue", "..", "a/b", "a.b", "a b", "blüe", &"a".repeat(33)] {
            assert!(text.parse::<Color>().is_err(), "{text:?}");
            assert!(text.parse::<ServiceName>().is_err(), "{text:?}");
        }
        let colors = std::collections::BTreeMap::from([(Color::blue(), 1), (Color::green(), 2)]);
        assert_eq!(colors.get("green"), Some(&2));
    }

    #[test]
    fn a_duration_has_a_unit_and_is_at_most_a_year() {
        assert_eq!(round::<Seconds>("30s"), "30s");
        assert_eq!(round::<Seconds>("90s"), "1m 30s");
        assert_eq!(round::<Seconds>(" 500 ms "), "500ms");
        assert_eq!(round::<Seconds>("0"), "0s");
        assert_eq!("2m".parse::<Seconds>().map(Seconds::get), Ok(Duration::from_secs(120)));
        assert_eq!(fault::<Seconds>("30"), "`30` has no unit; write \"30s\"");
        assert_eq!(fault::<Seconds>("soon"), "`soon` is not a duration; write \"30s\", \"500ms\" or \"2m\"");
        for text in ["", "-1s", "2years", "99999999999999999999s", "18446744073709551615s", "1e3s"] {
            assert!(text.parse::<Seconds>().is_err(), "{text:?}");
        }
        assert!(std::time::Instant::now().checked_add(Seconds::new(u64::MAX).get()).is_some());
        assert_eq!(Seconds::millis(u64::MAX), Seconds::new(u64::MAX));
    }

    #[test]
    fn a_size_is_written_in_its_largest_exact_unit() {
        assert_eq!(round::<Bytes>("64KiB"), "64KiB");
        assert_eq!(round::<Bytes>("1024 kib"), "1MiB");
        assert_eq!(round::<Bytes>("10MB"), "10MB");
        assert_eq!(round::<Bytes>("512B"), "512B");
        assert_eq!(round::<Bytes>("1GiB"), "1GiB");
        assert_eq!(round::<Bytes>("0"), "0");
        assert_eq!(round::<Bytes>("0KiB"), "0");
        assert_eq!(Bytes::new(u64::MAX).to_string(), "18446744073709551615B");
        assert_eq!(Bytes::mib(10).get(), 10 * 1024 * 1024);
        assert_eq!(fault::<Bytes>("512"), "`512` has no unit; write \"512B\" or \"64KiB\"");
        for text in ["", "KiB", "1.5MiB", "-1B", "10 minutes", "16777216TiB", "99999999999999999999B", "10µB"] {
            assert!(text.parse::<Bytes>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn workers_are_auto_or_a_number() {
        let read = serde_json::from_str::<Workers>;
        assert_eq!(read("\"auto\"").expect("workers"), Workers::Auto);
        assert_eq!(read("4").expect("workers").count(), 4);
        assert_eq!(serde_json::to_string(&read("4").expect("workers")).expect("serializes"), "4");
        assert!(Workers::Auto.count() >= 1);
        for text in ["0", "1025", "-1", "18446744073709551615", "\"4\"", "\"all\"", "null", "1.5"] {
            assert!(read(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_principal_is_a_user_a_group_or_everybody() {
        assert_eq!("deploy".parse(), Ok(Principal::User("deploy".to_owned())));
        assert_eq!("@deploy".parse(), Ok(Principal::Group("deploy".to_owned())));
        assert_eq!("*".parse(), Ok(Principal::Everybody));
        for text in ["deploy", "@deploy", "*", "1000", "jane.doe@example.com"] {
            assert_eq!(round::<Principal>(text), text);
        }
        for text in ["", "@", "@@a", "-a", "a b", "a:b", "a,b", "@*"] {
            assert!(text.parse::<Principal>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn statuses_are_ranges_and_numbers_from_100_to_599() {
        let statuses: StatusRanges = "200, 204,300-399".parse().expect("statuses");
        assert_eq!(statuses.to_string(), "200,204,300-399");
        assert_eq!(
            [200, 201, 204, 299, 300, 399, 400].map(|status| statuses.contains(status)),
            [true, false, true, false, true, true, false]
        );
        assert_eq!(round::<StatusRanges>("200-399"), StatusRanges::default().to_string());
        for text in ["", "200,", "99", "600", "0200", "399-200", "200-300-400", "2xx", "+20", "-200"] {
            assert!(text.parse::<StatusRanges>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn every_example_of_the_schema_is_such_a_value() {
        fn examples<T: FromStr<Err = Invalid> + JsonSchema>() {
            let schema = schemars::schema_for!(T);
            let examples = schema.get("examples").and_then(|list| list.as_array()).expect("examples");
            assert!(
                examples.iter().all(|text| text.as_str().is_some_and(|text| text.parse::<T>().is_ok())),
                "{schema:?}"
            );
        }
        examples::<Host>();
        examples::<PathPrefix>();
        examples::<Address>();
        examples::<Color>();
        examples::<ServiceName>();
        examples::<Seconds>();
        examples::<Bytes>();
        examples::<Principal>();
        examples::<StatusRanges>();
    }

    /// A refused value is somebody's input: it must not break the line, the terminal or the log.
    #[test]
    fn a_refused_value_is_shown_on_one_short_line() {
        let said = fault::<Color>(&format!("\u{1b}[31m\n{}", "x".repeat(1000)));
        assert!(said.len() < 250 && !said.contains(char::is_control), "{said:?}");
    }
}
