//! How are headers written on HTTP/2? As far as a client needs it that allows no dynamic table. Written from RFC 7541
//! alone.

/// Fields as HPACK says them in the plainest way: literally, and to be forgotten.
pub(crate) fn block<N: AsRef<[u8]>, V: AsRef<[u8]>>(fields: &[(N, V)]) -> Vec<u8> {
    let literal = |(name, value): &(N, V)| [&[0][..], &text(name.as_ref()), &text(value.as_ref())].concat();
    fields.iter().flat_map(literal).collect()
}

/// A literal that enters the dynamic table, as its entry 62.
pub(crate) fn remembered(name: &str, value: &str) -> Vec<u8> {
    [&[0x40][..], &text(name.as_bytes()), &text(value.as_bytes())].concat()
}

/// The newest entry of the dynamic table, in a single byte.
pub(crate) const AGAIN: u8 = 0x80 | 62;

fn text(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let length = bytes.len();
    if length < 0x7f {
        out.push(u8::try_from(length).expect("below 127"));
    } else {
        out.push(0x7f);
        let mut rest = length - 0x7f;
        while rest >= 0x80 {
            out.push(u8::try_from(rest & 0x7f).expect("7 bits") | 0x80);
            rest >>= 7;
        }
        out.push(u8::try_from(rest).expect("7 bits"));
    }
    out.extend_from_slice(bytes);
    out
}

/// The names of the static table, and the values of those entries that have one and that a door sends, from the second
/// on.
const NAMES: &str = ":authority :method :method :path :path :scheme :scheme :status :status :status :status :status \
    :status :status accept-charset accept-encoding accept-language accept-ranges accept \
    access-control-allow-origin age allow authorization cache-control content-disposition content-encoding \
    content-language content-length content-location content-range content-type cookie date etag expect expires from \
    host if-match if-modified-since if-none-match if-range if-unmodified-since last-modified link location \
    max-forwards proxy-authenticate proxy-authorization range referer refresh retry-after server set-cookie \
    strict-transport-security transfer-encoding user-agent vary via www-authenticate";
const VALUES: [&str; 13] =
    ["GET", "POST", "/", "/index.html", "http", "https", "200", "204", "206", "304", "400", "404", "500"];

/// The fields of a block.
pub(crate) fn read_block(mut block: &[u8]) -> Vec<(String, String)> {
    let mut fields = Vec::new();
    while let Some(first) = block.first() {
        match first {
            0x80.. => {
                let index = take_number(&mut block, 7);
                let value = index.checked_sub(2).and_then(|at| VALUES.get(at)).expect("an entry with a value");
                fields.push((static_name(index), (*value).to_owned()));
            }
            0x20..0x40 => assert_eq!(take_number(&mut block, 5), 0, "the size of a table"),
            first => {
                let index = take_number(&mut block, if *first >= 0x40 { 6 } else { 4 });
                let name = if index == 0 { take_text(&mut block) } else { static_name(index) };
                fields.push((name, take_text(&mut block)));
            }
        }
    }
    fields
}

fn static_name(index: usize) -> String {
    NAMES.split_whitespace().nth(index - 1).expect("an entry of the static table").to_owned()
}

fn take_number(block: &mut &[u8], bits: u32) -> usize {
    let most = (1 << bits) - 1;
    let mut number = usize::from(take_byte(block)) & most;
    let mut shift = 0;
    while number >= most {
        let byte = take_byte(block);
        number += usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    number
}

fn take_byte(block: &mut &[u8]) -> u8 {
    let (first, rest) = block.split_first().expect("a byte more");
    *block = rest;
    *first
}

fn take_text(block: &mut &[u8]) -> String {
    let is_huffman = block.first().is_some_and(|first| *first >= 0x80);
    let length = take_number(block, 7);
    let (bytes, rest) = block.split_at(length);
    *block = rest;
    if is_huffman { huffman(bytes) } else { String::from_utf8_lossy(bytes).into_owned() }
}

/// The characters of each length of Huffman code, in their order: the code is canonical, so this is all of it.
const CODES: [(u32, &str); 10] = [
    (5, "012aceiost"),
    (6, " %-./3456789=A_bdfghlmnpru"),
    (7, ":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, "&*,;XZ"),
    (10, "!\"()?"),
    (11, "'+|"),
    (12, "#>"),
    (13, "\0$@[]~"),
    (14, "^}"),
    (15, "<`{"),
];

fn huffman(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut code, mut length) = (0_u32, 0);
    for at in 0..bytes.len() * 8 {
        code = code << 1 | u32::from(bytes[at / 8] >> (7 - at % 8) & 1);
        length += 1;
        if let Some(character) = decoded(code, length) {
            text.push(character);
            (code, length) = (0, 0);
        }
    }
    assert!(length < 8 && code == (1 << length) - 1, "what is left is no padding");
    text
}

fn decoded(code: u32, length: u32) -> Option<char> {
    let (mut first, mut before) = (0, 0);
    for (of, characters) in CODES {
        first <<= of - before;
        before = of;
        let count = u32::try_from(characters.len()).expect("few");
        if of == length && (first..first + count).contains(&code) {
            return characters.chars().nth(usize::try_from(code - first).expect("few"));
        }
        first += count;
    }
    None
}

#[test]
fn the_examples_of_rfc_7541_are_read() {
    // Appendix C.6.1, without the indexing; and C.2.4, C.4.1.
    let example = b"\x48\x82\x64\x02\x58\x85\xae\xc3\x77\x1a\x4b\x61\x96\xd0\x7a\xbe\x94\x10\x54\xd4\x44\xa8\x20\x05\x95\
        \x04\x0b\x81\x66\xe0\x82\xa6\x2d\x1b\xff\x6e\x91\x9d\x29\xad\x17\x18\x63\xc7\x8f\x0b\x97\xc8\xe9\xae\x82\xae\x43\
        \xd3";
    let fields = read_block(example);
    let expected = [
        (":status", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ];
    assert_eq!(fields, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    assert_eq!(read_block(&block(&[("x", "y".repeat(400))])), [("x".to_owned(), "y".repeat(400))]);
}
