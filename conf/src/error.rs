//! How a fault in the configuration is shown: `file:line:column`, the line itself with the spot marked, and a hint.

use std::error::Error;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};

/// What is wrong with a configuration file, where, and what to do about it.
// Boxed because it is as large as it is rare, and every parsing function returns it by value.
#[derive(Debug)]
pub struct ConfigError(Box<Fault>);

#[derive(Debug)]
struct Fault {
    path: String,
    message: String,
    hint: Option<String>,
    place: Option<Place>,
    source: Option<io::Error>,
}

/// A spot on one line of the file.
#[derive(Debug)]
struct Place {
    line: usize,
    column: usize,
    /// The line's text, without its end.
    text: String,
    /// What to mark of it, in bytes, on character boundaries.
    mark: Range<usize>,
}

impl ConfigError {
    /// The file cannot be read.
    pub fn unreadable(path: &Path, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => Some("create it, or name another file: `bgproxy run -c FILE`, `bgctl check FILE`".to_owned()),
            io::ErrorKind::PermissionDenied => Some(
                "let the user that runs bgproxy read it, and pass through the directories above it (`namei -l FILE` shows them)".to_owned(),
            ),
            io::ErrorKind::IsADirectory => Some("name the file inside this directory".to_owned()),
            io::ErrorKind::InvalidData => Some("save it as UTF-8".to_owned()),
            _ => None,
        };
        ConfigError(Box::new(Fault {
            path: path.display().to_string(),
            message: format!("cannot read the configuration: {source}"),
            hint,
            place: None,
            source: Some(source),
        }))
    }

    /// The file is not TOML, or does not fit the structure of [`Config`](crate::Config).
    pub fn syntax(path: &Path, text: &str, fault: &toml::de::Error) -> Self {
        let (message, hint) = explain(fault.message());
        let mut shown = ConfigError::at(path, text, fault.span(), message, hint);
        // The parser stops at the first character that fits no number, which tells nobody that quotes are missing.
        if shown.0.hint.is_none() && toml::de::DeTable::parse(text).is_err() {
            shown.0.hint = shown.0.place.as_ref().and_then(|place| unquoted(&place.text));
        }
        shown
    }

    /// A rule is broken at `span` of the file's text; without a span, somewhere in the file.
    pub fn at(
        path: &Path,
        text: &str,
        span: Option<Range<usize>>,
        message: impl Into<String>,
        hint: Option<String>,
    ) -> Self {
        ConfigError(Box::new(Fault {
            path: path.display().to_string(),
            message: message.into(),
            hint,
            place: span.map(|span| Place::new(text, span)),
            source: None,
        }))
    }

    /// What is wrong, in one line.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }

    /// The line, counted from 1.
    pub fn line(&self) -> Option<usize> {
        self.0.place.as_ref().map(|place| place.line)
    }

    /// The column in characters, counted from 1.
    pub fn column(&self) -> Option<usize> {
        self.0.place.as_ref().map(|place| place.column)
    }

    /// As `Display`, with ANSI colors for a terminal.
    pub fn colored(&self) -> String {
        self.render(&Renderer::styled())
    }

    fn render(&self, renderer: &Renderer) -> String {
        let fault = &*self.0;
        let title = Level::ERROR.primary_title(fault.message.as_str());
        let hint = fault.hint.as_deref().map(|hint| Level::HELP.message(hint));
        let group = match &fault.place {
            Some(place) => title.element(
                Snippet::source(place.text.as_str())
                    .path(fault.path.as_str())
                    .line_start(place.line)
                    .annotation(AnnotationKind::Primary.span(place.mark.clone())),
            ),
            None => Group::with_title(title).element(annotate_snippets::Origin::path(fault.path.as_str())),
        };
        renderer.render(&[group.elements(hint)])
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&Renderer::plain()))
    }
}

impl Error for ConfigError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

impl Place {
    /// Takes any span, however odd: it is moved to the nearest character boundaries and cut at the end of its line.
    fn new(text: &str, span: Range<usize>) -> Self {
        let boundary = |at: usize| (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        let mut start = boundary(span.start);
        // At the end of the file the last line says more than the nothing behind it.
        let end_of_text = text.trim_end().len();
        if start >= text.len() {
            start = end_of_text;
        }
        let line_start = text[..start].rfind('\n').map_or(0, |newline| newline + 1);
        let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
        let line = text[line_start..line_end].trim_end_matches('\r');
        let from = (start - line_start).min(line.len());
        let to = boundary(span.end).saturating_sub(line_start).clamp(from, line.len());
        Place {
            line: text[..line_start].matches('\n').count() + 1,
            column: line[..from].chars().count() + 1,
            text: line.to_owned(),
            mark: from..to,
        }
    }
}

/// Says in our words what the parser says in its own, and what to do about it.
fn explain(message: &str) -> (String, Option<String>) {
    for (theirs, ours) in [("unknown field ", "unknown key "), ("unknown variant ", "unknown value ")] {
        if let Some(rest) = message.strip_prefix(theirs) {
            let (found, expected) = rest.split_once(", expected ").unwrap_or((rest, ""));
            let names = quoted(expected);
            let hint = match nearest(found.trim_matches('`'), names.iter().copied()) {
                Some(name) => Some(format!("did you mean `{name}`?")),
                None if names.is_empty() => None,
                None => Some(format!("known here: {}", listed(names))),
            };
            return (format!("{ours}{found}"), hint);
        }
    }
    if let Some(name) = message.strip_prefix("missing field ") {
        let hint = match name {
            "`backends`" => {
                Some("write where its colors are, such as `backends.blue = \"/var/run/nginx/blue/nginx.sock\"`")
            }
            "`socket`" => Some("write where it listens, such as `socket = \"/run/app.sock\"`"),
            "`cert`" | "`key`" => Some("a certificate is two files: `cert` and `key`"),
            "`address`" => Some("write `address = \"0.0.0.0:80\"`, for example"),
            _ => None,
        };
        return (format!("missing key {name}"), hint.map(str::to_owned));
    }
    match message {
        // A choice, given as something else than text.
        "wanted string or table" => return ("expected a word in quotes".to_owned(), None),
        "invalid IP address syntax" => {
            let hint = "write \"10.0.0.0/8\", for example, or \"192.0.2.1/32\" for one address";
            return ("not a range of IP addresses".to_owned(), Some(hint.to_owned()));
        }
        "invalid socket address syntax" => {
            let hint = "write \"0.0.0.0:80\" or \"[::]:80\", for example";
            return ("not an IP address with a port".to_owned(), Some(hint.to_owned()));
        }
        _ => {}
    }
    let mismatch = message.strip_prefix("invalid type: ").or(message.strip_prefix("invalid value: "));
    if let Some((found, expected)) = mismatch.and_then(|rest| rest.rsplit_once(", expected ")) {
        let is_integer = message.starts_with("invalid value: integer ");
        let (expected, hint) = match expected {
            // A number it is, but not one of these; the largest that TOML knows is none that anybody means.
            "usize" | "u64" if is_integer => ("a whole number from 0", None),
            "u32" if is_integer => ("a whole number from 0 to 4294967295", None),
            "u16" if is_integer => ("a whole number from 0 to 65535", None),
            "usize" | "u64" | "u32" | "u16" => ("a whole number", None),
            "a boolean" => ("true or false", Some("write `true` or `false`, without quotes")),
            "a sequence" => ("a list", Some("write it in brackets: `[\"a\", \"b\"]`")),
            "a map" => ("a section", None),
            expected if expected.starts_with("struct ") => ("a section", None),
            expected => (expected, None),
        };
        return (format!("expected {expected}, found {found}"), hint.map(str::to_owned));
    }
    if let Some((what, instead)) = message.rsplit_once("; write ") {
        return (what.to_owned(), Some(format!("write {instead}")));
    }
    (message.trim_end_matches(", expected nothing").to_owned(), None)
}

/// What to say to a line such as `deadline = 30s`.
fn unquoted(line: &str) -> Option<String> {
    let value = line.split_once('=')?.1.split('#').next()?.trim();
    if value.is_empty() {
        return Some("write a value after the `=`".to_owned());
    }
    if let "yes" | "no" | "on" | "off" = value {
        return Some(format!("write it in quotes: \"{value}\"; or `true` or `false`, where that is the question"));
    }
    let quoted = value.contains(['"', '\'', '[', ']', '{', '}', ',', '\\']) || value.contains(char::is_control);
    (!quoted).then(|| format!("write it in quotes: \"{value}\""))
}

/// The words between backticks.
fn quoted(text: &str) -> Vec<&str> {
    text.split('`').skip(1).step_by(2).collect()
}

/// Names as a list for people.
pub(crate) fn listed<T: fmt::Display>(names: impl IntoIterator<Item = T>) -> String {
    names.into_iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// The name that was probably meant, when one is near enough.
pub(crate) fn nearest<'a>(found: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A digit is chosen, not mistyped: who writes `http2` does not mean `http1`.
    let digits = |text: &str| text.chars().filter(char::is_ascii_digit).collect::<String>();
    let wanted = digits(found);
    names
        .into_iter()
        .filter(|name| wanted.is_empty() || wanted == digits(name))
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        // A third of the letters may be wrong, and one always: `frist`, `backend`, `lisen`.
        .filter(|(distance, name)| *distance <= (name.len().max(found.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests;
