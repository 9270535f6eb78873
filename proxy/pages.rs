//! What does a client read when a request fails? The pages that the operator has put in place, by status; pure.
//!
//! The control wing reads them from files, the serving wing chooses between them and what is built in.

use std::collections::BTreeMap;
use std::path::Path;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

/// What kind of text a page is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// For programs.
    Json,
    /// For browsers.
    Html,
    /// For everybody else.
    Text,
}

/// One page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// What kind of text it is.
    pub kind: Kind,
    /// The text.
    pub text: Bytes,
}

/// The operator's pages.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Pages(BTreeMap<u16, Page>);

impl Kind {
    /// Every kind.
    pub const ALL: [Kind; 3] = [Kind::Json, Kind::Html, Kind::Text];

    /// What a file of this name is.
    pub fn of(path: &Path) -> Option<Kind> {
        match path.extension()?.to_str()? {
            "json" => Some(Kind::Json),
            "html" => Some(Kind::Html),
            "txt" => Some(Kind::Text),
            _ => None,
        }
    }

    /// The same as a Content-Type.
    pub fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Kind::Json => "application/json",
            Kind::Html => "text/html; charset=utf-8",
            Kind::Text => "text/plain; charset=utf-8",
        })
    }
}

impl Pages {
    /// The operator's page for a status, if there is one.
    pub fn of(&self, status: StatusCode) -> Option<&Page> {
        self.0.get(&status.as_u16())
    }
}

impl FromIterator<(u16, Page)> for Pages {
    fn from_iter<I: IntoIterator<Item = (u16, Page)>>(pages: I) -> Pages {
        Pages(pages.into_iter().collect())
    }
}
