//! The small pieces that answers for people are made of: paint, numbers, times, names.

/// Whether text is painted for a terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Paint {
    /// Letters only.
    Plain,
    /// With ANSI colors.
    Ansi,
}

impl Paint {
    /// Painted, when that is wanted.
    pub(crate) fn when(wanted: bool) -> Self {
        if wanted { Paint::Ansi } else { Paint::Plain }
    }

    /// With the codes of "select graphic rendition".
    pub(crate) fn sgr(self, code: &str, text: &str) -> String {
        match self {
            Paint::Ansi if !code.is_empty() => format!("\x1b[{code}m{text}\x1b[0m"),
            _ => text.to_owned(),
        }
    }

    /// A color's name in its own color, as far as terminals have it.
    pub(crate) fn color(self, color: &str, text: &str) -> String {
        let code = match color {
            "red" => "31",
            "green" => "32",
            "yellow" => "33",
            "blue" => "34",
            "magenta" => "35",
            "cyan" => "36",
            _ => "",
        };
        self.sgr(code, text)
    }

    /// What somebody has to look at.
    pub(crate) fn bad(self, text: &str) -> String {
        self.sgr("31", text)
    }

    /// What matters most.
    pub(crate) fn strong(self, text: &str) -> String {
        self.sgr("1", text)
    }
}

/// What was probably meant, if anything comes near.
pub(crate) fn did_you_mean<'a>(typed: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let (_, name) = known
        .into_iter()
        .map(|name| (strsim::damerau_levenshtein(typed, name), name))
        // A third of the letters may be wrong, and one always.
        .filter(|(distance, name)| *distance <= (name.len().max(typed.len()) / 3).max(1))
        .min_by_key(|(distance, _)| *distance)?;
    Some(format!("did you mean `{name}`?"))
}

/// Names as a list for people.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let mut names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    match names.pop() {
        Some(last) if !names.is_empty() => format!("{} and {last}", names.join(", ")),
        only => only.unwrap_or_default(),
    }
}

/// A number with its noun.
pub(crate) fn count(number: u64, noun: &str) -> String {
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

/// How long something took or takes, to the precision that people care for.
pub(crate) fn seconds(seconds: f64) -> String {
    let whole = seconds.round() as u64;
    match seconds {
        ..0.0005 => "0 ms".into(),
        ..0.9995 => format!("{:.0} ms", seconds * 1000.0),
        ..59.95 => format!("{seconds:.1} s"),
        ..3599.5 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

/// A time of day without its fraction.
pub(crate) fn clock(at: &str) -> String {
    match at.split_once('.') {
        Some((seconds, fraction)) => {
            clean(&format!("{seconds}{}", fraction.trim_start_matches(|c: char| c.is_ascii_digit())))
        }
        None => clean(at),
    }
}

/// Every line two columns to the right.
pub(crate) fn indent(text: &str) -> String {
    text.lines().map(|line| format!("  {}\n", clean(line))).collect()
}

/// Text that others had a hand in (the first bytes of a page, a request's path) without what would steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}
