//! Values that cannot be wrong: once one of these exists, nobody has to check it again.
//!
//! Each is written as text, in the configuration file as well as over the control socket; [`Invalid`] says what is
//! wrong with a text and what to write instead.

mod amounts;
mod names;
mod places;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;

use serde::de::{self, Deserializer, Visitor};

pub use amounts::{Bytes, ErrorStatus, Seconds, StatusRanges, Workers};
pub use names::{Color, Principal, ServiceName, UpgradeToken};
pub use places::{Address, Host, PathPrefix};

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

use written_as_text;
