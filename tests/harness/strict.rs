//! A reader of requests that accepts one form of each and nothing else: what a backend was sent must pass it.
//! Written from RFC 9112 alone; it shares nothing with the door or with hyper.

/// One request as it stands on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// `METHOD TARGET VERSION`
    pub(crate) line: String,
    /// Names as they came, values without the space around them.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) chunked: bool,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
}

impl Request {
    /// The values of every field of this name, as text.
    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let same = self.fields.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name));
        same.map(|(_, value)| String::from_utf8_lossy(value).into_owned()).collect()
    }

    /// The only field of this name; fails when there are several.
    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> Option<String> {
        let all = self.all(name);
        assert!(all.len() <= 1, "{name}: {all:?}");
        all.into_iter().next()
    }

    /// Its target.
    pub(crate) fn target(&self) -> &str {
        self.line.split(' ').nth(1).unwrap_or_default()
    }
}

/// What a connection's bytes are cut into.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    pub(crate) requests: Vec<Request>,
    /// The bytes end within a request (whose head may be whole), as when a connection is given up.
    pub(crate) partial: bool,
}

/// Why bytes cannot be read in exactly one way; or that there are too few of them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    Short,
    Wrong(String),
}

type Read<T> = Result<T, Fault>;

fn wrong<T>(what: &str, bytes: &[u8]) -> Read<T> {
    Err(Fault::Wrong(format!("{what}: {}", bytes.escape_ascii())))
}

/// Cuts all that came over a connection into requests.
pub(crate) fn cut(mut bytes: &[u8]) -> Result<Cut, String> {
    let mut requests = Vec::new();
    while !bytes.is_empty() {
        match request(bytes) {
            Ok((request, rest)) => {
                requests.push(request);
                bytes = rest;
            }
            Err(Fault::Short) => return Ok(Cut { requests, partial: true }),
            Err(Fault::Wrong(why)) => return Err(why),
        }
    }
    Ok(Cut { requests, partial: false })
}

fn request(bytes: &[u8]) -> Read<(Request, &[u8])> {
    let (line, rest) = take_line(bytes)?;
    request_line(line)?;
    let (fields, rest) = take_fields(rest)?;
    let line = String::from_utf8_lossy(line).into_owned();
    let all = |name: &str| {
        let same = |field: &&(String, Vec<u8>)| field.0.eq_ignore_ascii_case(name);
        fields.iter().filter(same).map(|field| field.1.as_slice()).collect::<Vec<_>>()
    };
    match all("host")[..] {
        [host] if is_host(host) => {}
        [] if line.ends_with("HTTP/1.0") => {}
        _ => return wrong("Host", bytes),
    }
    // Both or none; what follows such a request is not HTTP once it was answered with 101, which no backend here does.
    let upgrades = all("upgrade") == [b"websocket"] && all("connection") == [b"upgrade"];
    let connection = if upgrades { "upgrade" } else { "te" };
    for (name, allowed) in [("connection", connection), ("te", "trailers"), ("expect", "100-continue")] {
        let values = all(name);
        if values.len() > 1 || values.iter().any(|value| !value.eq_ignore_ascii_case(allowed.as_bytes())) {
            return wrong(name, bytes);
        }
    }
    if !upgrades && !all("upgrade").is_empty() {
        return wrong("upgrade", bytes);
    }
    for name in ["http2-settings", "keep-alive", "proxy-connection", "proxy-authorization"] {
        if !all(name).is_empty() {
            return wrong(name, bytes);
        }
    }
    let chunked = match (&all("transfer-encoding")[..], &all("content-length")[..]) {
        ([], _) => false,
        ([b"chunked"], []) if line.ends_with("HTTP/1.1") => true,
        _ => return wrong("Transfer-Encoding", bytes),
    };
    let (body, trailers, rest) = if chunked {
        take_chunks(rest)?
    } else {
        let length = match all("content-length")[..] {
            [] => 0,
            [text] => number(text, 10)?,
            _ => return wrong("Content-Length", bytes),
        };
        let (body, rest) = take(rest, length)?;
        (body.to_vec(), Vec::new(), rest)
    };
    Ok((Request { line, fields, chunked, body, trailers }, rest))
}

fn request_line(line: &[u8]) -> Read<()> {
    let parts: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
    let [method, target, version] = parts[..] else { return wrong("request line", line) };
    let good_target = match target {
        [b'/', ..] => target.iter().all(|byte| *byte > b' ' && *byte != 0x7f && *byte != b'#'),
        b"*" => method == b"OPTIONS",
        _ => false,
    };
    let good = is_token(method) && method != b"CONNECT" && good_target && matches!(version, b"HTTP/1.1" | b"HTTP/1.0");
    if good { Ok(()) } else { wrong("request line", line) }
}

type Fields = Vec<(String, Vec<u8>)>;

fn take_fields(mut bytes: &[u8]) -> Read<(Fields, &[u8])> {
    let mut fields = Vec::new();
    loop {
        let (line, rest) = take_line(bytes)?;
        bytes = rest;
        if line.is_empty() {
            return Ok((fields, bytes));
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { return wrong("header line", line) };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        // Also what begins with a space: an obsolete fold.
        if !is_token(name) || value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
            return wrong("header line", line);
        }
        fields.push((String::from_utf8_lossy(name).into_owned(), value.to_vec()));
    }
}

fn take_chunks(mut bytes: &[u8]) -> Read<(Vec<u8>, Fields, &[u8])> {
    let mut body = Vec::new();
    loop {
        let (line, rest) = take_line(bytes)?;
        let size = number(line, 16)?;
        if size == 0 {
            let (trailers, rest) = take_fields(rest)?;
            let forbidden = ["content-length", "transfer-encoding", "host", "trailer", "te", "connection"];
            if trailers.iter().any(|(name, _)| forbidden.contains(&name.to_ascii_lowercase().as_str())) {
                return wrong("trailers", bytes);
            }
            return Ok((body, trailers, rest));
        }
        let (data, rest) = take(rest, size)?;
        body.extend_from_slice(data);
        let (end, rest) = take(rest, 2)?;
        if end != b"\r\n" {
            return wrong("chunk's end", end);
        }
        bytes = rest;
    }
}

/// A line without its CRLF; neither CR nor LF may stand alone.
fn take_line(bytes: &[u8]) -> Read<(&[u8], &[u8])> {
    let Some(end) = bytes.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else { return Err(Fault::Short) };
    match &bytes[end..] {
        [b'\r', b'\n', rest @ ..] => Ok((&bytes[..end], rest)),
        [b'\r'] => Err(Fault::Short),
        _ => wrong("line end", &bytes[..end]),
    }
}

fn take(bytes: &[u8], count: usize) -> Read<(&[u8], &[u8])> {
    if count > bytes.len() { Err(Fault::Short) } else { Ok(bytes.split_at(count)) }
}

/// Digits and nothing else: no sign, no space, no extension.
fn number(text: &[u8], radix: u32) -> Read<usize> {
    let digits = !text.is_empty() && text.iter().all(|byte| char::from(*byte).is_digit(radix));
    let parsed = std::str::from_utf8(text).ok().and_then(|text| usize::from_str_radix(text, radix).ok());
    match parsed {
        Some(number) if digits => Ok(number),
        _ => wrong("number", text),
    }
}

fn is_token(name: &[u8]) -> bool {
    !name.is_empty() && name.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte))
}

fn is_host(host: &[u8]) -> bool {
    !host.is_empty() && host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(byte))
}

#[test]
fn the_strict_reader_accepts_one_form_only() {
    let read = |text: &str| cut(text.as_bytes());
    let two = "GET / HTTP/1.1\r\nHost: a\r\n\r\nPOST /x HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi";
    let cut_in_two = read(two).unwrap();
    assert_eq!((cut_in_two.requests.len(), cut_in_two.partial), (2, false));
    assert_eq!(cut_in_two.requests[1].body, b"hi");
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\n";
    assert_eq!(read(chunked).unwrap().requests[0].trailers, [("x".to_owned(), b"y".to_vec())]);
    assert!(read(&two[..two.len() - 1]).unwrap().partial);
    assert!(read(&chunked[..chunked.len() - 1]).unwrap().partial);
    for bad in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\nHost: a\n\n",
        "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n z\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nhost: b\r\n\r\n",
    ] {
        assert!(read(bad).is_err(), "{bad:?}");
    }
}
