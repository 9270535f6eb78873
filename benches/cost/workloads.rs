//! What is asked? Eleven kinds of requests, each over and over.

use super::client::NAME;

/// How a request comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Manner {
    /// In clear, on one connection.
    Kept,
    /// In clear, each on a connection of its own.
    Fresh,
    /// By TLS, on one connection.
    Secure,
    /// By HTTP/2 and TLS, on one connection.
    Http2,
}

/// What the door does beside forwarding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum House {
    /// Nothing.
    Plain,
    /// It writes an access log.
    Logged,
    /// It limits the requests of each address, more generously than anybody asks.
    Limited,
}

impl House {
    /// All of them, with their names.
    pub(super) const ALL: [(House, &'static str); 3] =
        [(House::Plain, "plain"), (House::Logged, "logged"), (House::Limited, "limited")];
}

/// One kind of request.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) manner: Manner,
    pub(super) house: House,
    /// As it is sent; HTTP/2 says the same in its own way.
    pub(super) request: Vec<u8>,
    /// How long the answer's body is.
    pub(super) answer: usize,
    /// How many of them are counted.
    pub(super) number: u32,
}

/// How long a body "1 MiB" is.
const MIB: usize = 1 << 20;

/// As a browser sends it, with a handful of cookies.
const BROWSER: &str = "sec-ch-ua: \"Chromium\";v=\"124\", \"Google Chrome\";v=\"124\", \"Not-A.Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\nsec-ch-ua-platform: \"Linux\"\r\nDNT: 1\r\nUpgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/124.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n\
    Referer: https://bench.test/list?page=2\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=5f3c1a9e7b2d4c6f8a0e1b3d5c7f9a2b; theme=dark; lang=en; csrftoken=Zk3vXq8Lr2TnWb6YpJc4; \
    consent=analytics.0-marketing.0; last=1714000000\r\n";

impl Workload {
    pub(super) fn all() -> Vec<Workload> {
        let get = |path, headers: &str| format!("GET {path} HTTP/1.1\r\nHost: {NAME}\r\n{headers}\r\n").into_bytes();
        let post = |length: usize| {
            let mut request =
                get("/", &format!("Content-Type: application/octet-stream\r\nContent-Length: {length}\r\n"));
            request.splice(..3, *b"POST");
            request.resize(request.len() + length, b'x');
            request
        };
        let curl = "User-Agent: cost\r\nAccept: */*\r\n";
        let of = |name, manner, request, answer| Workload {
            name,
            manner,
            house: House::Plain,
            request,
            answer,
            number: 400,
        };
        vec![
            of("small GET", Manner::Kept, get("/", curl), 612),
            of("GET as browsers send it", Manner::Kept, get("/", BROWSER), 612),
            of("GET on a connection of its own", Manner::Fresh, get("/", &format!("{curl}Connection: close\r\n")), 612),
            of("POST of 1 KiB", Manner::Kept, post(1 << 10), 612),
            of("GET of 16 KiB", Manner::Kept, get("/16k", curl), 16 << 10),
            Workload { number: 50, ..of("GET of 1 MiB", Manner::Kept, get("/1m", curl), MIB) },
            Workload { number: 50, ..of("POST of 1 MiB", Manner::Kept, post(MIB), 612) },
            of("small GET by TLS", Manner::Secure, get("/", curl), 612),
            of("small GET by HTTP/2 and TLS", Manner::Http2, Vec::new(), 612),
            Workload { house: House::Logged, ..of("small GET, access log", Manner::Kept, get("/", curl), 612) },
            Workload {
                house: House::Limited,
                ..of("small GET, limited by address", Manner::Kept, get("/", curl), 612)
            },
        ]
    }
}
