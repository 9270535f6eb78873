//! Hostile and odd requests, by what is odd about them.
//!
//! Behind each one, in the same bytes, comes a good `GET /last`: whether it is answered tells whether the door still
//! trusts the connection. A `GET /smuggled` within a body must never become a request.

/// What hides in bodies: 35 bytes.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";

/// One request, or what passes itself off as one.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
}

pub(crate) fn cases() -> Vec<Case> {
    let mut cases = Cases(Vec::new());
    lengths(&mut cases);
    codings(&mut cases);
    chunks(&mut cases);
    lines(&mut cases);
    request_lines(&mut cases);
    targets(&mut cases);
    hosts(&mut cases);
    connections(&mut cases);
    expectations(&mut cases);
    pipelines(&mut cases);
    sizes(&mut cases);
    cases.0
}

struct Cases(Vec<Case>);

impl Cases {
    fn raw(&mut self, name: &str, bytes: impl AsRef<[u8]>) {
        self.0.push(Case { name: name.to_owned(), bytes: bytes.as_ref().to_vec() });
    }

    /// A GET with these header lines (each with its end) behind a good Host.
    fn get(&mut self, name: &str, lines: impl AsRef<[u8]>) {
        self.raw(name, [b"GET / HTTP/1.1\r\nHost: a\r\n", lines.as_ref(), b"\r\n"].concat());
    }

    /// A POST with these header lines and this body.
    fn post(&mut self, name: &str, lines: impl AsRef<[u8]>, body: impl AsRef<[u8]>) {
        self.raw(name, [b"POST / HTTP/1.1\r\nHost: a\r\n", lines.as_ref(), b"\r\n", body.as_ref()].concat());
    }

    /// A chunked POST with this body.
    fn chunked(&mut self, name: &str, body: impl AsRef<[u8]>) {
        self.post(name, "Transfer-Encoding: chunked\r\n", body);
    }

    /// A GET with this request line.
    fn line(&mut self, name: &str, line: impl AsRef<[u8]>) {
        self.raw(name, [line.as_ref(), b"\r\nHost: a\r\n\r\n"].concat());
    }
}

fn lengths(cases: &mut Cases) {
    let mut of = |name: &str, value: &str| cases.post(name, format!("Content-Length: {value}\r\n"), "hello");
    of("length", "5");
    of("length with leading zeros", "005");
    of("length between spaces", "  5  ");
    of("length between tabs", "\t5\t");
    of("length negative", "-5");
    of("length with plus", "+5");
    of("length in hex", "0x5");
    of("length with a fraction", "5.0");
    of("length empty", "");
    of("length of two numbers", "5 5");
    of("length as a list of the same", "5, 5");
    of("length as a list of others", "5, 6");
    of("length with a parameter", "5;x=1");
    of("length in arabic digits", "\u{665}");
    of("length one past 64 bits", "18446744073709551616");
    of("length of 64 bits", "18446744073709551615");
    of("length of 63 bits and one", "9223372036854775808");
    of("length past the limit", "104857601");
    of("length folded", "\r\n 5");
    cases.post("length twice the same", "Content-Length: 5\r\nContent-Length: 5\r\n", "hello");
    cases.post("length twice, written otherwise", "Content-Length: 5\r\nContent-Length: 05\r\n", "hello");
    cases.post("length twice, another", "Content-Length: 5\r\nContent-Length: 40\r\n", ["hello", SMUGGLED].concat());
    cases.post("length three times", "Content-Length: 5\r\nContent-Length: 5\r\nContent-Length: 6\r\n", "hello");
    cases.post("length with a space before the colon", "Content-Length : 35\r\n", SMUGGLED);
    cases.post("length nul", b"Content-Length: 5\0\r\n", "hello");
    cases.post("length too short for the body", "Content-Length: 2\r\n", "hello");
    cases.post("length with an underscore", "Content_Length: 5\r\n", "");
    cases.get("length of a get", "Content-Length: 0\r\n");
    cases.raw(
        "length of a get with a body",
        format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n{SMUGGLED}"),
    );
    cases.raw(
        "length of a head with a body",
        format!("HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 35\r\n\r\n{SMUGGLED}"),
    );
    cases.raw("length on http/1.0", "POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello");
}

fn codings(cases: &mut Cases) {
    const CHUNKS: &str = "5\r\nhello\r\n0\r\n\r\n";
    // Whoever believes the length sees one body, whoever believes the coding sees a second request.
    let both = ["0\r\n\r\n", SMUGGLED].concat();
    cases.post("coding behind length", "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n", &both);
    cases.post("coding before length", "Transfer-Encoding: chunked\r\nContent-Length: 40\r\n", &both);
    cases.post(
        "coding between two lengths",
        "Content-Length: 40\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n",
        &both,
    );
    cases.post("coding behind a bad length", "Content-Length: x\r\nTransfer-Encoding: chunked\r\n", &both);
    cases.post("coding before a bad length", "Transfer-Encoding: chunked\r\nContent-Length: x\r\n", &both);
    cases.post("coding behind length 0", "Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", CHUNKS);

    let mut of = |name: &str, lines: &str| cases.post(name, lines, CHUNKS);
    of("coding", "Transfer-Encoding: chunked\r\n");
    of("coding in another case", "tRANSFER-eNCODING: cHUNKED\r\n");
    of("coding behind a tab", "Transfer-Encoding:\tchunked\r\n");
    of("coding without a space", "Transfer-Encoding:chunked\r\n");
    of("coding before spaces", "Transfer-Encoding: chunked  \t\r\n");
    of("coding twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n");
    of("coding twice in a list", "Transfer-Encoding: chunked, chunked\r\n");
    of("coding identity, chunked", "Transfer-Encoding: identity, chunked\r\n");
    of("coding gzip, chunked", "Transfer-Encoding: gzip, chunked\r\n");
    of("coding with a trailing comma", "Transfer-Encoding: chunked,\r\n");
    of("coding with a leading comma", "Transfer-Encoding: ,chunked\r\n");
    of("coding with a parameter", "Transfer-Encoding: chunked;q=1\r\n");
    of("coding behind identity on a line of its own", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n");

    let mut beside = |name: &str, line: &[u8]| {
        // The length covers it all: only who believes the coding sees a second request.
        cases.post(name, [b"Content-Length: 40\r\n", line].concat(), &both);
    };
    beside("coding unknown beside length", b"Transfer-Encoding: xchunked\r\n");
    beside("coding identity beside length", b"Transfer-Encoding: identity\r\n");
    beside("coding chunked, identity beside length", b"Transfer-Encoding: chunked, identity\r\n");
    beside("coding empty beside length", b"Transfer-Encoding:\r\n");
    beside("coding quoted beside length", b"Transfer-Encoding: \"chunked\"\r\n");
    beside("coding with a space before the colon", b"Transfer-Encoding : chunked\r\n");
    beside("coding with a tab before the colon", b"Transfer-Encoding\t: chunked\r\n");
    beside("coding folded", b"Transfer-Encoding:\r\n chunked\r\n");
    beside("coding on a folded line", b"X: y\r\n Transfer-Encoding: chunked\r\n");
    beside("coding behind a vertical tab", b"Transfer-Encoding: \x0bchunked\r\n");
    beside("coding before a nul", b"Transfer-Encoding: chunked\0\r\n");
    beside("coding behind a bare line feed", b"X: y\nTransfer-Encoding: chunked\r\n");
    beside("coding behind a bare carriage return", b"X: y\rTransfer-Encoding: chunked\r\n");
    beside("coding with an underscore", b"Transfer_Encoding: chunked\r\n");
    beside("coding with a high byte in its name", b"Transfer-Encoding\xa0: chunked\r\n");

    cases
        .raw("coding on http/1.0", format!("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{CHUNKS}"));
    cases.raw(
        "coding and length on http/1.0",
        format!("POST / HTTP/1.0\r\nHost: a\r\nContent-Length: 40\r\nTransfer-Encoding: chunked\r\n\r\n{both}"),
    );
    cases.get("coding of a get", format!("Transfer-Encoding: chunked\r\n\r\n{}", &CHUNKS[..CHUNKS.len() - 2]));
    cases.get("coding of a get without data", "Transfer-Encoding: chunked\r\n\r\n0\r\n");
}

fn chunks(cases: &mut Cases) {
    cases.chunked("chunks, two", "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    cases.chunked("chunks, none", "0\r\n\r\n");
    cases.chunked("chunk size in capitals with zeros", "000B\r\nhello world\r\n0\r\n\r\n");
    cases.chunked("chunk size before a space", "5 \r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size behind a space", " 5\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size negative", "-5\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size with plus", "+5\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size with 0x", "0x5\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size missing", "\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size no number", "five\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size past 64 bits", "10000000000000005\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size of 64 bits", "FFFFFFFFFFFFFFFF\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size of a thousand zeros", [&"0".repeat(1000), "5\r\nhello\r\n0\r\n\r\n"].concat());
    cases.chunked("chunk size ends with a line feed", "5\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk size ends with a carriage return", "5\rhello\r\n0\r\n\r\n");
    cases.chunked("chunk extension", "5;a=b\r\nhello\r\n0;c\r\n\r\n");
    cases.chunked("chunk extension quoted", "5;a=\"x\\\"y\"\r\nhello\r\n0\r\n\r\n");
    cases.chunked("chunk extension with a line feed", ["5;a\nhello\r\n0\r\n\r\n", SMUGGLED].concat());
    cases.chunked("chunk extension of 20,000 bytes", ["5;", &"x".repeat(20_000), "\r\nhello\r\n0\r\n\r\n"].concat());
    cases.chunked("chunk longer than its size", "5\r\nhello!\r\n0\r\n\r\n");
    cases.chunked("chunk shorter than its size", ["5\r\nhi\r\n0\r\n\r\n", SMUGGLED].concat());
    cases.chunked("chunk ends with a line feed", "5\r\nhello\n0\r\n\r\n");
    cases.chunked("chunk without an end", "5\r\nhello0\r\n\r\n");
    cases.chunked("last chunk of many zeros", "5\r\nhello\r\n00000\r\n\r\n");
    cases.chunked("last chunk ends with line feeds", "5\r\nhello\r\n0\n\n");
    cases.chunked("last chunk without the last line", "5\r\nhello\r\n0\r\n");
    cases.chunked("a body that stops within a chunk", "500\r\nhello");
    let mut trailer = |name: &str, lines: &str| cases.chunked(name, format!("5\r\nhello\r\n0\r\n{lines}\r\n"));
    trailer("trailer", "X-Sum: 1\r\n");
    trailer("trailer of the length", "Content-Length: 35\r\n");
    trailer("trailer of the coding", "Transfer-Encoding: chunked\r\n");
    trailer("trailer of the host", "Host: b\r\n");
    trailer("trailer folded", "X-Sum: 1\r\n 2\r\n");
    trailer("trailer without a colon", "X-Sum\r\n");
    trailer("trailer with a space before the colon", "X-Sum : 1\r\n");
    trailer("trailer with a line feed", "X-Sum: 1\nX-Other: 2\r\n");
    trailer("trailers, 1,025", &"a: b\r\n".repeat(1025));
    cases.post(
        "trailer announced",
        "Trailer: X-Sum\r\nTransfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\nX-Sum: 1\r\nX-Other: 2\r\n\r\n",
    );
    cases.post(
        "trailer announced that frames",
        "Trailer: Content-Length, Host\r\nTransfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\nContent-Length: 35\r\nHost: b\r\n\r\n",
    );
}

fn lines(cases: &mut Cases) {
    cases.get("header folded", "X: y\r\n z\r\n");
    cases.get("header folded with a tab", "X: y\r\n\tz\r\n");
    cases.raw("header folded first", "GET / HTTP/1.1\r\n Host: a\r\n\r\n");
    cases.get("header with a bare carriage return", "X: y\rz\r\n");
    cases.get("header ends with a bare carriage return", "X: y\rZ: 1\r\n");
    cases.get("header ends with two carriage returns", "X: y\r\r\n");
    cases.get("header ends with a line feed", "X: y\nZ: 1\r\n");
    cases.raw("every line ends with a line feed", "GET / HTTP/1.1\nHost: a\n\n");
    cases.raw("the empty line is a line feed", "GET / HTTP/1.1\r\nHost: a\r\n\n");
    cases.get("header with a nul", b"X: y\0z\r\n");
    cases.get("header with a control character", b"X: y\x01z\r\n");
    cases.get("header with a delete", b"X: y\x7fz\r\n");
    cases.get("header with an escape", b"X: y\x1b[31mz\r\n");
    cases.get("header with latin-1", b"X: \xfc\xff\r\n");
    cases.get("header with utf-8", "X: \u{fc}\r\n");
    cases.get("header with a space before the colon", "X : y\r\n");
    cases.get("header without a name", ": y\r\n");
    cases.get("header without a colon", "X\r\n");
    cases.get("header without a value", "X:\r\n");
    cases.get("header with a space in its name", "X Y: z\r\n");
    cases.get("header with a nul in its name", b"X\0: z\r\n");
    cases.get("header with a bracket in its name", "X[]: z\r\n");
    cases.get("header with a high byte in its name", b"\xfc: z\r\n");
    cases.get("header with every sign of a token in its name", "!#$%&'*+-.^_`|~1a: z\r\n");
    cases.get("header of a proxy with underscores", "X_Forwarded_For: 1.1.1.1\r\nX_Real_IP: 1.1.1.1\r\n");
    cases.get("header of a proxy", "X-Forwarded-For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\n");
    cases.get("header line of one space", " \r\n");
    cases.raw("empty lines before the request", "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    cases.raw("a line feed before the request", "\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    cases.raw("a carriage return before the request", "\rGET / HTTP/1.1\r\nHost: a\r\n\r\n");
    cases.raw("a space before the request", " GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    cases.raw("a nul before the request", b"\0GET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

fn request_lines(cases: &mut Cases) {
    cases.line("method in small letters", "get / HTTP/1.1");
    cases.line("method unknown", "BREW / HTTP/1.1");
    cases.line("method of odd signs", "!#$%&'*+-.^_`|~ / HTTP/1.1");
    cases.line("method with a bracket", "GE[T / HTTP/1.1");
    cases.line("method missing", " / HTTP/1.1");
    cases.line("method with a nul", b"GE\0T / HTTP/1.1");
    cases.line("method trace", "TRACE / HTTP/1.1");
    cases.line("method connect", "CONNECT a:80 HTTP/1.1");
    cases.line("method connect with a path", "CONNECT / HTTP/1.1");
    cases.line("method of http/2", "PRI * HTTP/1.1");
    cases.line("version 0.9", "GET / HTTP/0.9");
    cases.line("version 1.0", "GET / HTTP/1.0");
    cases.line("version 1.2", "GET / HTTP/1.2");
    cases.line("version 2.0", "GET / HTTP/2.0");
    cases.line("version 1.10", "GET / HTTP/1.10");
    cases.line("version 01.1", "GET / HTTP/01.1");
    cases.line("version in small letters", "GET / http/1.1");
    cases.line("version with a letter", "GET / HTTP/1.1x");
    cases.line("version cut in two", "GET / HTTP /1.1");
    cases.line("version missing", "GET /");
    cases.line("version missing with a space", "GET / ");
    cases.line("two spaces before the target", "GET  / HTTP/1.1");
    cases.line("two spaces behind the target", "GET /  HTTP/1.1");
    cases.line("a space behind the version", "GET / HTTP/1.1 ");
    cases.line("tabs for spaces", "GET\t/\tHTTP/1.1");
    cases.line("a form feed for a space", "GET /\x0cHTTP/1.1");
    cases.raw("http/0.9", "GET /\r\n");
    cases.raw("http/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0");
    cases.raw("tls hello", b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x03\r\n\r\n");
    cases.raw("words", "hello world\r\n\r\n");
    cases.raw("proxy protocol", "PROXY TCP4 1.1.1.1 2.2.2.2 1 2\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n");
}

fn targets(cases: &mut Cases) {
    let mut of = |name: &str, target: &[u8]| cases.line(name, [b"GET ", target, b" HTTP/1.1"].concat());
    of("target of two slashes", b"//x");
    of("target of two slashes and a host", b"//b/x");
    of("target with dots", b"/../../etc/passwd");
    of("target with encoded dots", b"/%2e%2e/%2E%2e%2fetc");
    of("target with an encoded nul", b"/%00");
    of("target with an encoded line", b"/%0d%0aX:%20y");
    of("target with a bad encoding", b"/%zz%");
    of("target with an empty query", b"/?");
    of("target with two questions", b"/?a?b");
    of("target with signs", b"/!$&'()*+,;=:@-._~?/?:@");
    of("target with square brackets", b"/[]?[]");
    of("target with braces and a bar", b"/{|}?{|}");
    of("target with a quote", b"/\"?\"");
    of("target with a caret", b"/^");
    of("target with a caret in the query", b"/?^");
    of("target with a backtick", b"/`");
    of("target with a backtick in the query", b"/?`");
    of("target with a backslash", b"/\\x");
    of("target with less and greater", b"/<x>");
    of("target with less and greater in the query", b"/?<x>");
    of("target with a fragment", b"/x#y");
    of("target that is a fragment", b"#y");
    of("target that is a query", b"?x=y");
    of("target without a slash", b"x");
    of("target that is a star", b"*");
    of("target that is an authority", b"a:80");
    of("target with utf-8", "/\u{fc}".as_bytes());
    of("target with latin-1", b"/\xfc");
    of("target with a nul", b"/\0");
    of("target with a control character", b"/\x01");
    of("target with a delete", b"/\x7f");
    of("target with a tab", b"/\t");
    of("target with a space", b"/x y");
    of("target absolute", b"http://a/x");
    of("target absolute, another host", b"http://b/x");
    of("target absolute, another port", b"http://a:81/x");
    of("target absolute in capitals", b"HTTP://a/x");
    of("target absolute, https", b"https://a/x");
    of("target absolute, ftp", b"ftp://a/x");
    of("target absolute, a user", b"http://u:p@a/x");
    of("target absolute, no host", b"http:///x");
    of("target absolute, no path", b"http://a");
    of("target absolute, only a query", b"http://a?x=y");
    of("target absolute, a bad host", b"http://a%00b/x");
    of("target absolute, a bad port", b"http://a:x/x");
    cases.line("options star", "OPTIONS * HTTP/1.1");
    cases.line("options absolute without a path", "OPTIONS http://a HTTP/1.1");
    cases.raw("target absolute without host", "GET http://a/x HTTP/1.1\r\n\r\n");
    cases.raw("target absolute with an empty host", "GET http://a/x HTTP/1.1\r\nHost:\r\n\r\n");
}

fn hosts(cases: &mut Cases) {
    cases.raw("host missing", "GET / HTTP/1.1\r\n\r\n");
    cases.raw("host missing on http/1.0", "GET / HTTP/1.0\r\n\r\n");
    cases.raw("host missing on http/1.0, a body", "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello");
    cases.get("host twice the same", "Host: a\r\n");
    cases.get("host twice, another", "Host: b\r\n");
    let mut of = |name: &str, host: &[u8]| cases.raw(name, [b"GET / HTTP/1.1\r\nHost:", host, b"\r\n\r\n"].concat());
    of("host empty", b"");
    of("host with a port", b" a:8080");
    of("host with an empty port", b" a:");
    of("host with a bad port", b" a:x");
    of("host with a long port", b" a:123456");
    of("host in capitals", b" A.B");
    of("host with a last dot", b" a.");
    of("host of version 6", b" [::1]:80");
    of("host of version 6, unclosed", b" [::1");
    of("host with an underscore", b" a_b");
    of("host with a user", b" u@a");
    of("host as a list", b" a, b");
    of("host of two words", b" a b");
    of("host with a path", b" a/b");
    of("host with a scheme", b" http://a");
    of("host with a high byte", b" \xfc");
    of("host with a nul", b" a\0b");
    of("host with a tab before it", b"\ta");
    of("host with an encoded byte", b" a%41");
    of("host folded", b"\r\n a");
    cases.raw("host with a space before the colon", "GET / HTTP/1.1\r\nHost : a\r\n\r\n");
    cases.raw("host with a header before it on the line", "GET / HTTP/1.1\r\nX: y\rHost: a\r\n\r\n");
}

fn connections(cases: &mut Cases) {
    cases.get("connection close", "Connection: close\r\n");
    cases.get("connection close, keep-alive", "Connection: close, keep-alive\r\n");
    cases.get("connection keep-alive", "Connection: keep-alive\r\nKeep-Alive: timeout=5\r\n");
    cases.get("connection names host", "Connection: Host\r\n");
    cases.post("connection names the length", "Connection: Content-Length\r\nContent-Length: 35\r\n", SMUGGLED);
    cases.post(
        "connection names the coding",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        "5\r\nhello\r\n0\r\n\r\n",
    );
    cases.get("connection names another header", "Connection: X\r\nX: y\r\n");
    cases.get("connection names what we add", "Connection: X-Forwarded-For, X-Real-IP, X-Request-Id\r\n");
    cases.get("connection of garbage", b"Connection: \xff, (, \"x\", ,\r\n");
    cases.get("proxy-connection", "Proxy-Connection: keep-alive\r\n");
    cases.get("te", "TE: gzip, trailers;q=0.5\r\n");
    cases.get("te trailers", "TE: trailers\r\nConnection: TE\r\n");
    cases.get(
        "upgrade to h2c",
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
    );
    cases.get("upgrade to h2c, not named", "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n");
    cases.get(
        "upgrade to websocket",
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n",
    );
    cases.post("upgrade with a body", "Connection: Upgrade\r\nUpgrade: x\r\nContent-Length: 35\r\n", SMUGGLED);
}

fn expectations(cases: &mut Cases) {
    cases.get("expectation without a body", "Expect: 100-continue\r\n");
    cases.post("expectation unknown", "Expect: coffee\r\nContent-Length: 35\r\n", SMUGGLED);
    cases.post("expectation empty", "Expect:\r\nContent-Length: 35\r\n", SMUGGLED);
    cases.post("expectation twice", "Expect: 100-continue\r\nExpect: 100-continue\r\nContent-Length: 35\r\n", SMUGGLED);
    cases.post("expectation in a list", "Expect: 100-continue, x\r\nContent-Length: 35\r\n", SMUGGLED);
    cases.post("expectation of a body that is there", "Expect: 100-Continue\r\nContent-Length: 35\r\n", SMUGGLED);
    cases.raw(
        "expectation on http/1.0",
        format!("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 35\r\n\r\n{SMUGGLED}"),
    );
}

fn pipelines(cases: &mut Cases) {
    cases.post("a request within a body", "Content-Length: 35\r\n", SMUGGLED);
    cases.chunked("a request within a chunk", format!("23\r\n{SMUGGLED}\r\n0\r\n\r\n"));
    cases.chunked("a request behind a malformed chunk", format!("x\r\n{SMUGGLED}"));
    cases.raw("a request behind a good one", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
    cases.raw(
        "requests of all kinds",
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhiPUT /2 HTTP/1.1\r\nHost: a\r\n\
         Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\nDELETE /3 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    cases
        .raw("a malformed one behind a good one", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nX : y\r\n\r\n");
    cases.raw("an ambiguous one behind a good one", "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    cases.raw(
        "words behind a body",
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n",
    );
    cases.raw("a request behind an ambiguous one", format!("GET /1 HTTP/1.1\r\n\r\n{SMUGGLED}"));
    cases.raw("a request behind a malformed one", format!("GET /1 HTTP/1.1\r\nX : y\r\n\r\n{SMUGGLED}"));
    cases.get("a request behind the last one", format!("Connection: close\r\n\r\n{}", &SMUGGLED[..SMUGGLED.len() - 2]));
}

fn sizes(cases: &mut Cases) {
    cases.get("headers, 99", "a: b\r\n".repeat(98));
    cases.get("headers, 101", "a: b\r\n".repeat(100));
    cases.get("header of 31 KiB", format!("X: {}\r\n", "y".repeat(31 << 10)));
    cases.get("header of 33 KiB", format!("X: {}\r\n", "y".repeat(33 << 10)));
    cases.get("header name of 40,000 bytes", format!("{}: y\r\n", "x".repeat(40_000)));
    cases.line("method of 30,000 bytes", format!("{} / HTTP/1.1", "M".repeat(30_000)));
    cases.line("target of 30,000 bytes", format!("GET /{} HTTP/1.1", "x".repeat(30_000)));
    cases.line("target of 40,000 bytes", format!("GET /{} HTTP/1.1", "x".repeat(40_000)));
    cases.line("target of 70,000 bytes", format!("GET /{} HTTP/1.1", "x".repeat(70_000)));
    cases.raw("a head without an end", "GET / HTTP/1.1\r\nHost: a\r\n".to_owned() + &"a: b\r\n".repeat(20_000));
    cases.raw("empty lines, 100,000", "\r\n".repeat(50_000));
}
