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
            io::ErrorKind::NotFound => Some("create it, or name another file with `-c FILE`".to_owned()),
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
            "`address`" => Some("write `address = \"0.0.0.0:80\"`, for example"),
            _ => None,
        };
        return (format!("missing key {name}"), hint.map(str::to_owned));
    }
    match message {
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
        let (expected, hint) = match expected {
            "usize" | "u64" | "u32" | "u16" => ("a whole number", None),
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
    names
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(found, name), name))
        // A third of the letters may be wrong, and one always: `frist`, `backend`, `lisen`.
        .filter(|(distance, name)| *distance <= (name.len().max(found.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;
    use crate::Config;

    fn fault(text: &str) -> ConfigError {
        Config::parse(text, Path::new("/etc/bgproxy/bgproxy.toml")).expect_err("a fault")
    }

    #[test]
    fn a_missing_file_says_what_to_do() {
        let fault = Config::load(Path::new("/nonexistent/bgproxy.toml")).expect_err("a fault");
        assert_snapshot!(fault, @"
        error: cannot read the configuration: No such file or directory (os error 2)
        --> /nonexistent/bgproxy.toml
         = help: create it, or name another file with `-c FILE`
        ");
        assert!(fault.source().is_some());
    }

    #[test]
    fn a_forbidden_file_says_what_to_do() {
        let fault = ConfigError::unreadable(Path::new("bgproxy.toml"), io::Error::from_raw_os_error(13));
        assert_snapshot!(fault, @"
        error: cannot read the configuration: Permission denied (os error 13)
        --> bgproxy.toml
         = help: let the user that runs bgproxy read it, and pass through the directories above it (`namei -l FILE` shows them)
        ");
    }

    #[test]
    fn an_unknown_key_names_the_one_that_was_meant() {
        assert_snapshot!(fault("[service.portal]\nbackend = { blue = \"/b\" }\n"), @r#"
        error: unknown key `backend`
         --> /etc/bgproxy/bgproxy.toml:2:1
          |
        2 | backend = { blue = "/b" }
          | ^^^^^^^
          |
          = help: did you mean `backends`?
        "#);
        assert_snapshot!(fault("lisen = []\n").hint().expect("a hint"), @"did you mean `listen`?");
        assert_snapshot!(fault("[drain]\ndeadline = \"1s\"\n"), @"
        error: unknown key `drain`
         --> /etc/bgproxy/bgproxy.toml:1:2
          |
        1 | [drain]
          |  ^^^^^
          |
          = help: known here: `workers`, `listen`, `control`, `admin`, `state`, `trusted`, `limits`, `shutdown`, `log`, `service`
        ");
    }

    #[test]
    fn a_missing_key_is_named() {
        assert_snapshot!(fault("workers = 1\n\n[service.portal]\nhosts = [\"portal.example.com\"]\n"), @r#"
        error: missing key `backends`
         --> /etc/bgproxy/bgproxy.toml:3:1
          |
        3 | [service.portal]
          | ^^^^^^^^^^^^^^^^
          |
          = help: write where its colors are, such as `backends.blue = "/var/run/nginx/blue/nginx.sock"`
        "#);
    }

    #[test]
    fn a_value_of_the_wrong_type_says_what_is_expected() {
        assert_snapshot!(fault("[limits]\nconnections = \"many\"\n"), @r#"
        error: expected a whole number, found string "many"
         --> /etc/bgproxy/bgproxy.toml:2:15
          |
        2 | connections = "many"
          |               ^^^^^^
        "#);
        assert_snapshot!(fault("[service.a]\nhosts = \"a.example.com\"\nbackends.blue = \"/b\"\n"), @r#"
        error: expected a list, found string "a.example.com"
         --> /etc/bgproxy/bgproxy.toml:2:9
          |
        2 | hosts = "a.example.com"
          |         ^^^^^^^^^^^^^^^
          |
          = help: write it in brackets: `["a", "b"]`
        "#);
        assert_snapshot!(fault("limits = 5\n"), @"
        error: expected a section, found integer `5`
         --> /etc/bgproxy/bgproxy.toml:1:10
          |
        1 | limits = 5
          |          ^
        ");
        assert_snapshot!(fault("listen = [\"0.0.0.0:80\"]\n"), @r#"
        error: expected a section, found string "0.0.0.0:80"
         --> /etc/bgproxy/bgproxy.toml:1:11
          |
        1 | listen = ["0.0.0.0:80"]
          |           ^^^^^^^^^^^^
        "#);
        assert_snapshot!(fault("limits.connections = -1\n").message(), @"expected a whole number, found integer `-1`");
    }

    #[test]
    fn a_plain_number_asks_for_its_unit() {
        assert_snapshot!(fault("[shutdown]\ndeadline = 30\n"), @r#"
        error: a duration needs its unit
         --> /etc/bgproxy/bgproxy.toml:2:12
          |
        2 | deadline = 30
          |            ^^
          |
          = help: write "30s"
        "#);
        assert_snapshot!(fault("[limits]\nbody_size = 1048576\n"), @r#"
        error: a size needs its unit
         --> /etc/bgproxy/bgproxy.toml:2:13
          |
        2 | body_size = 1048576
          |             ^^^^^^^
          |
          = help: write "1048576B" or, for example, "64KiB"
        "#);
        assert_snapshot!(fault("[service.a]\nbackends.blue = 8080\n").hint().expect("a hint"), @r#"write "localhost:8080""#);
        assert_snapshot!(fault("[service.a]\nbackends.blue = \"/b\"\nready.expect = 200\n").hint().expect("a hint"), @r#"write "200""#);
    }

    #[test]
    fn a_bad_value_says_why() {
        assert_snapshot!(fault("[service.a]\nhosts = [\"a.example.com\", \"https://b.example.com\"]\nbackends.blue = \"/b\"\n"), @r#"
        error: `https://b.example.com` is not a host: a scheme has no place here
         --> /etc/bgproxy/bgproxy.toml:2:27
          |
        2 | hosts = ["a.example.com", "https://b.example.com"]
          |                           ^^^^^^^^^^^^^^^^^^^^^^^
          |
          = help: write "portal.example.com" or "*.example.com"
        "#);
        assert_snapshot!(fault("[service.a.backends]\nBlue = \"/run/blue.sock\"\n"), @r#"
        error: `Blue` is not a color
         --> /etc/bgproxy/bgproxy.toml:2:1
          |
        2 | Blue = "/run/blue.sock"
          | ^^^^
          |
          = help: write up to 32 of a-z, 0-9, `-` and `_` beginning with a letter, such as "green"
        "#);
        assert_snapshot!(fault("[service.a.backends]\nblue = \"run/blue.sock\"\n"), @r#"
        error: `run/blue.sock` is not an address: a socket's path starts with `/`
         --> /etc/bgproxy/bgproxy.toml:2:8
          |
        2 | blue = "run/blue.sock"
          |        ^^^^^^^^^^^^^^^
          |
          = help: write "/run/app/nginx.sock" or "localhost:8080"
        "#);
        assert_snapshot!(fault("workers = \"4\"\n"), @r#"
        error: a number stands without quotes
         --> /etc/bgproxy/bgproxy.toml:1:11
          |
        1 | workers = "4"
          |           ^^^
          |
          = help: write 4
        "#);
        assert_snapshot!(fault("[trusted]\nproxies = [\"10.0.0.0\"]\n"), @r#"
        error: not a range of IP addresses
         --> /etc/bgproxy/bgproxy.toml:2:12
          |
        2 | proxies = ["10.0.0.0"]
          |            ^^^^^^^^^^
          |
          = help: write "10.0.0.0/8", for example, or "192.0.2.1/32" for one address
        "#);
        assert_snapshot!(fault("[admin]\naddress = \"localhost:9180\"\n"), @r#"
        error: not an IP address with a port
         --> /etc/bgproxy/bgproxy.toml:2:11
          |
        2 | address = "localhost:9180"
          |           ^^^^^^^^^^^^^^^^
          |
          = help: write "0.0.0.0:80" or "[::]:80", for example
        "#);
    }

    #[test]
    fn an_unknown_variant_names_the_known_ones() {
        assert_snapshot!(fault("[log]\nformat = \"jsno\"\n"), @r#"
        error: unknown value `jsno`
         --> /etc/bgproxy/bgproxy.toml:2:10
          |
        2 | format = "jsno"
          |          ^^^^^^
          |
          = help: did you mean `json`?
        "#);
        assert_snapshot!(fault("[log]\nformat = \"logfmt\"\n"), @r#"
        error: unknown value `logfmt`
         --> /etc/bgproxy/bgproxy.toml:2:10
          |
        2 | format = "logfmt"
          |          ^^^^^^^^
          |
          = help: known here: `plain`, `json`
        "#);
    }

    #[test]
    fn what_is_not_toml_is_shown_where_it_stops_being_toml() {
        assert_snapshot!(fault("[admin]\naddress = 127.0.0.1:9180\n"), @r#"
        error: invalid float
         --> /etc/bgproxy/bgproxy.toml:2:16
          |
        2 | address = 127.0.0.1:9180
          |                ^^^^^^^^^
          |
          = help: write it in quotes: "127.0.0.1:9180"
        "#);
        assert_snapshot!(fault("shutdown.deadline = 30s # soon\n"), @r#"
        error: string values must be quoted, expected literal string
         --> /etc/bgproxy/bgproxy.toml:1:21
          |
        1 | shutdown.deadline = 30s # soon
          |                     ^^^
          |
          = help: write it in quotes: "30s"
        "#);
        assert_snapshot!(fault("limits.body_size = 10MiB\n"), @r#"
        error: string values must be quoted, expected literal string
         --> /etc/bgproxy/bgproxy.toml:1:20
          |
        1 | limits.body_size = 10MiB
          |                    ^^^^^
          |
          = help: write it in quotes: "10MiB"
        "#);
        assert_snapshot!(fault("control.socket = /run/x.sock\n"), @r#"
        error: string values must be quoted, expected literal string
         --> /etc/bgproxy/bgproxy.toml:1:18
          |
        1 | control.socket = /run/x.sock
          |                  ^^^^^^^^^^^
          |
          = help: write it in quotes: "/run/x.sock"
        "#);
        assert_snapshot!(fault("log.level = info\n").hint().expect("a hint"), @r#"write it in quotes: "info""#);
        assert_snapshot!(fault("listen = [{ address = 1.1.1.1:80 }]\n"), @"
        error: invalid float
         --> /etc/bgproxy/bgproxy.toml:1:26
          |
        1 | listen = [{ address = 1.1.1.1:80 }]
          |                          ^^^^^^^
        ");
        assert_snapshot!(fault("[log\nlevel = \"info\"\n"), @"
        error: unclosed table, expected `]`
         --> /etc/bgproxy/bgproxy.toml:1:5
          |
        1 | [log
          |     ^
        ");
        assert_snapshot!(fault("[log]\nlevel = \"info\n"), @r#"
        error: invalid basic string, expected `"`
         --> /etc/bgproxy/bgproxy.toml:2:14
          |
        2 | level = "info
          |              ^
        "#);
        assert_snapshot!(fault("[log]\nlevel = \"info\"\nlevel = \"debug\"\n"), @r#"
        error: duplicate key
         --> /etc/bgproxy/bgproxy.toml:3:1
          |
        3 | level = "debug"
          | ^^^^^
        "#);
        assert_snapshot!(fault("[log]\nlevel =\n"), @"
        error: string values must be quoted, expected literal string
         --> /etc/bgproxy/bgproxy.toml:2:8
          |
        2 | level =
          |        ^
          |
          = help: write a value after the `=`
        ");
        assert_snapshot!(fault("workers"), @"
        error: key with no value, expected `=`
         --> /etc/bgproxy/bgproxy.toml:1:8
          |
        1 | workers
          |        ^
        ");
    }

    #[test]
    fn text_of_many_bytes_before_the_fault_does_not_shift_the_mark() {
        let fault = fault("# größer – 日本語\nlog = { level = \"日本語\", formt = \"plain\" } # ü\n");
        assert_snapshot!(fault, @r#"
        error: unknown key `formt`
         --> /etc/bgproxy/bgproxy.toml:2:24
          |
        2 | log = { level = "日本語", formt = "plain" } # ü
          |                           ^^^^^
          |
          = help: did you mean `format`?
        "#);
        assert_eq!((fault.line(), fault.column()), (Some(2), Some(24)));
    }

    #[test]
    fn lines_that_end_like_on_windows_are_counted_once() {
        let fault = fault("workers = 1\r\n[log]\r\nlevel = 3\r\n");
        assert_snapshot!(fault, @"
        error: expected a string, found integer `3`
         --> /etc/bgproxy/bgproxy.toml:3:9
          |
        3 | level = 3
          |         ^
        ");
        assert_eq!((fault.line(), fault.column()), (Some(3), Some(9)));
    }

    #[test]
    fn no_span_is_too_odd_to_be_shown() {
        for text in ["", "\n", "ü", "a\nü", "\r\n\r\n", "ü\n\n日本", "\t\u{feff}x\0\u{1b}[31m"] {
            for start in 0..text.len() + 3 {
                for end in 0..text.len() + 3 {
                    let fault = ConfigError::at(Path::new("x"), text, Some(start..end), "m", None);
                    assert!(fault.line() >= Some(1) && fault.column() >= Some(1), "{text:?} {start} {end}");
                    assert!(!fault.to_string().is_empty() && !fault.colored().is_empty());
                }
            }
        }
    }

    #[test]
    fn colors_are_for_those_who_ask() {
        let fault = fault("workers = 0\n");
        assert!(!fault.to_string().contains('\u{1b}'));
        assert!(fault.colored().contains('\u{1b}'));
    }
}
