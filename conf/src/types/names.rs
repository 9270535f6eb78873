//! What is something called? Colors, services, and those who may do something.

use std::borrow::{Borrow, Cow};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use serde::{Serialize, Serializer};

use super::{Invalid, Text, shown, text_from, written_as_text};

/// The name of one of the places a service may live. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Color(Arc<str>);

/// The name of a service; safe as a file name. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceName(Arc<str>);

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

/// A protocol that a connection may be upgraded to (RFC 9110, section 7.8). Lower case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpgradeToken(String);

// === impl UpgradeToken ===

impl UpgradeToken {
    /// `websocket`.
    pub fn websocket() -> Self {
        UpgradeToken("websocket".to_owned())
    }

    /// The token, in lower case.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UpgradeToken {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let token = text.to_ascii_lowercase();
        // RFC 9110, section 5.6.2.
        let is_token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let (name, version) = token.split_once('/').unwrap_or((&token, "1"));
        if token.len() > 64 || [name, version].iter().any(|part| part.is_empty() || !part.bytes().all(is_token)) {
            return Err(Invalid::new(format!("`{}` is not a protocol", shown(text)), "\"websocket\""));
        }
        if matches!(name, "h2c" | "h2" | "http" | "tls") {
            return Err(Invalid::new(
                format!("a connection is not upgraded to `{}` here: requests inside it would pass unseen", shown(text)),
                "\"websocket\", or the name of your application's own protocol",
            ));
        }
        Ok(UpgradeToken(token))
    }
}

impl fmt::Display for UpgradeToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
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

// === as text ===

written_as_text!(Color, r"^[a-z][a-z0-9_-]{0,31}$", "The name of a color.", ["blue", "green"]);

impl Text for Color {
    const EXPECTED: &str = "a color such as \"green\"";
}

written_as_text!(ServiceName, r"^[a-z][a-z0-9_-]{0,31}$", "The name of a service.", ["default", "portal"]);

impl Text for ServiceName {
    const EXPECTED: &str = "a service name such as \"portal\"";
}

written_as_text!(
    Principal,
    r"^(\*|@?[^-@*\s:,/][^*\s:,/]*)$",
    "A user, a group as `@group`, or `*` for everybody.",
    ["deploy", "@deploy", "*"]
);

impl Text for Principal {
    const EXPECTED: &str = "a user such as \"deploy\" or a group such as \"@deploy\"";
}

written_as_text!(
    UpgradeToken,
    r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+(/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?$",
    "A protocol that a connection may be upgraded to.",
    ["websocket"]
);

impl Text for UpgradeToken {
    const EXPECTED: &str = "a protocol such as \"websocket\"";
}
