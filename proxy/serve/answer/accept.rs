//! What kind of text does a client want to read? What its Accept header prefers (RFC 9110, section 12.5.1) of the three
//! kinds there are. Pure.

use crate::pages::Kind;

/// No client has more to say; a header full of commas costs no more than one of its answers.
const RANGES: usize = 64;

/// How much a client wants one kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Wish {
    /// From 0 to 1000.
    quality: u16,
    /// How exactly it was named: not at all, `*/*`, `text/*`, `text/html`.
    exact: u8,
    /// What is named first comes first, where nothing else decides.
    earliness: usize,
}

/// The kind that a client wants most. Where it names none, or wants all alike, it gets the `file`'s, or else plain
/// text.
pub(super) fn choose(accept: Option<&[u8]>, file: Option<Kind>) -> Kind {
    let otherwise = file.unwrap_or(Kind::Text);
    let Some(accept) = accept else { return otherwise };
    let mut wishes = [Wish::default(); 3];
    for (position, range) in accept.split(|byte| *byte == b',').enumerate().take(RANGES) {
        let mut parts = range.split(|byte| *byte == b';').map(<[u8]>::trim_ascii);
        let Some((named, exact)) = parts.next().and_then(named) else { continue };
        let wish = Wish { quality: quality(parts), exact, earliness: usize::MAX - position };
        for (kind, best) in Kind::ALL.into_iter().zip(&mut wishes) {
            // The most exact range says what is thought of a kind, not the one with the highest quality.
            if named.is_none_or(|named| named.contains(&kind))
                && (wish.exact, wish.quality) > (best.exact, best.quality)
            {
                *best = wish;
            }
        }
    }
    let wanted = Kind::ALL.into_iter().zip(wishes).filter(|(_, wish)| wish.quality > 0);
    wanted.max_by_key(|(kind, wish)| (*wish, *kind == otherwise)).map_or(otherwise, |(kind, _)| kind)
}

/// The kinds that a range names (none is all of them), and how exactly.
fn named(range: &[u8]) -> Option<(Option<&'static [Kind]>, u8)> {
    let is = |name: &str| range.eq_ignore_ascii_case(name.as_bytes());
    if is("*/*") {
        return Some((None, 1));
    }
    if is("text/*") {
        return Some((Some(&[Kind::Html, Kind::Text]), 2));
    }
    if is("application/*") {
        return Some((Some(&[Kind::Json]), 2));
    }
    if is("text/html") || is("application/xhtml+xml") {
        return Some((Some(&[Kind::Html]), 3));
    }
    if is("text/plain") {
        return Some((Some(&[Kind::Text]), 3));
    }
    let is_json = is("application/json") || range.len() > 5 && range[range.len() - 5..].eq_ignore_ascii_case(b"+json");
    is_json.then_some((Some(&[Kind::Json]), 3))
}

/// The quality among a range's parameters, from 0 to 1000; 1000 where none is given, or none that can be read.
fn quality<'a>(mut parameters: impl Iterator<Item = &'a [u8]>) -> u16 {
    let quality = parameters.find_map(|it| it.strip_prefix(b"q=").or(it.strip_prefix(b"Q=")));
    let quality: Option<f32> = quality.and_then(|text| std::str::from_utf8(text).ok()?.parse().ok());
    quality.map_or(1000, |quality| (quality.clamp(0.0, 1.0) * 1000.0) as u16)
}

#[cfg(test)]
mod tests {
    use super::Kind::{Html, Json, Text};
    use super::*;

    #[test]
    fn each_kind_of_client_reads_what_it_asks_for() {
        let cases: [(&str, Kind); 22] = [
            ("", Text),
            // curl, and what fetch() says by itself.
            ("*/*", Text),
            // Browsers: a page, an image, a style sheet.
            ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8", Html),
            ("image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8", Text),
            ("text/css,*/*;q=0.1", Text),
            // Clients of interfaces.
            ("application/json", Json),
            ("application/problem+json", Json),
            ("application/json, text/plain, */*", Json),
            ("application/vnd.api+json", Json),
            ("APPLICATION/JSON;charset=utf-8", Json),
            ("application/*", Json),
            // Quality before order, order where quality is the same.
            ("text/html;q=0.5, application/json;q=0.9", Json),
            ("text/html, application/json", Html),
            ("application/json, text/html", Json),
            ("text/plain ; q=1, text/html; q=0.2", Text),
            // The more exact range says what is thought of a kind.
            ("text/html;q=0.1, */*;q=0.5", Text),
            ("text/plain;q=0, */*", Html),
            ("text/*", Text),
            // Nothing that there is, or nothing that can be read.
            ("image/png", Text),
            ("*/*;q=0", Text),
            ("text/html;q=much", Html),
            (",;,q=1,/", Text),
        ];
        for (accept, kind) in cases {
            assert_eq!(choose(Some(accept.as_bytes()), None), kind, "{accept}");
        }
        assert_eq!(choose(None, None), Text);
    }

    #[test]
    fn what_comes_behind_an_endless_list_is_not_read() {
        let behind = |commas: usize| [&b",".repeat(commas)[..], b"application/json"].concat();
        assert_eq!(choose(Some(&behind(RANGES - 1)), None), Json);
        assert_eq!(choose(Some(&behind(RANGES)), None), Text);
    }

    #[test]
    fn a_file_is_for_those_who_do_not_mind() {
        let file = Some(Html);
        for (accept, kind) in [
            ("*/*", Html),
            ("text/*", Html),
            ("", Html),
            ("image/png", Html),
            ("text/html", Html),
            ("application/json", Json),
            ("application/json, */*", Json),
            ("text/plain", Text),
            ("text/html;q=0, */*;q=0.1", Text),
        ] {
            assert_eq!(choose(Some(accept.as_bytes()), file), kind, "{accept}");
        }
        assert_eq!(choose(None, file), Html);
        assert_eq!(choose(Some(b"text/html,*/*;q=0.8"), Some(Json)), Html);
    }
}
