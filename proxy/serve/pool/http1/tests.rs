use std::time::Duration;

use hyper::body::Body as _;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

use super::super::io::Wire;
use super::*;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(10);

/// A connection, and the backend's end of it.
fn connection() -> (Http1, UnixStream) {
    let (ours, theirs) = UnixStream::pair().expect("two sockets");
    let io = BackendIo { stream: BackendStream::Unix(ours), wire: Rc::<Wire>::default() };
    (Http1::new(io, Purpose::Exchange), theirs)
}

async fn send(http: &mut Http1, request: Request<Upload>) -> Result<response::Parts, Lost> {
    http.begin(request);
    poll_fn(|cx| http.poll_answer(cx)).await
}

fn get(path: &str) -> Request<Upload> {
    Request::get(path).header("host", "example.com").body(Upload::default()).expect("a request")
}

/// What a request was answered with, and the connection afterwards.
struct Exchanged {
    status: u16,
    body: Vec<u8>,
    /// Whether the connection could take another request, while the backend's end was open.
    ready: bool,
    http: Http1,
}

/// What a request of this method gets from a backend that says this, in pieces of this size, and closes or stays.
async fn exchange(method: Method, said: &[u8], piece: usize, closes: bool) -> Result<Exchanged, Failure> {
    let (mut http, mut backend) = connection();
    let mut request = get("/");
    *request.method_mut() = method;
    let says = async {
        let mut asked = [0; 1024];
        assert!(backend.read(&mut asked).await.expect("a request") > 0);
        for piece in said.chunks(piece) {
            backend.write_all(piece).await.expect("a reader");
            tokio::task::yield_now().await;
        }
        if closes {
            backend.shutdown().await.expect("an end");
        }
    };
    let hears = async {
        let head = send(&mut http, request).await.map_err(|lost| lost.failure)?;
        let mut body = Vec::new();
        while let Some(frame) = poll_fn(|cx| http.poll_frame(cx)).await {
            body.extend_from_slice(&frame?.into_data().unwrap_or_default());
        }
        Ok((head.status.as_u16(), body))
    };
    let ((), heard) = timeout(LONG, async { tokio::join!(says, hears) }).await.expect("an exchange ends");
    // The backend's end stays open as long as the connection is looked at.
    let heard: Result<(u16, Vec<u8>), Failure> = heard;
    let (status, body) = heard?;
    let ready = http.is_ready();
    drop(backend);
    Ok(Exchanged { status, body, ready, http })
}

#[tokio::test]
async fn an_answer_is_the_same_however_it_is_cut() {
    let answers: [(&[u8], &[u8], bool); 6] = [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"hello", true),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n", b"hello", true),
        (b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"", true),
        (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", b"ok", true),
        (b"HTTP/1.1 200 OK\r\nConnection: Keep-Alive, Close\r\nContent-Length: 2\r\n\r\nok", b"ok", false),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", b"ok", false),
    ];
    for (said, expected, keeps) in answers {
        for piece in 1..=said.len() {
            let Exchanged { status, body, ready, .. } =
                exchange(Method::GET, said, piece, false).await.expect("an answer");
            assert_eq!((status, body.as_slice(), ready), (200, expected, keeps), "{}", said.escape_ascii());
        }
    }
}

#[tokio::test]
async fn without_a_length_the_end_of_the_connection_ends_the_answer() {
    let Exchanged { status, body, ready, .. } =
        exchange(Method::GET, b"HTTP/1.1 200 OK\r\n\r\nhello", 7, true).await.expect("one");
    assert_eq!((status, body.as_slice(), ready), (200, &b"hello"[..], false));
}

#[tokio::test]
async fn an_answer_that_has_no_body_has_none_whatever_it_says() {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for said in [&length[..], chunked] {
        let Exchanged { body, ready, .. } = exchange(Method::HEAD, said, 100, false).await.expect("an answer");
        assert_eq!((body.as_slice(), ready), (&b""[..], true));
    }
    // The length that a 304 tells is that of what it does not send; a 204 has none.
    for (head, keeps) in [
        ("304 Not Modified\r\nContent-Length: 5", true),
        ("204 No Content\r\nContent-Length: 0", true),
        ("204 No Content\r\nContent-Length: 5", false),
        ("204 No Content\r\nTransfer-Encoding: chunked", false),
    ] {
        let said = format!("HTTP/1.1 {head}\r\n\r\n");
        let Exchanged { body, ready, .. } =
            exchange(Method::GET, said.as_bytes(), 100, false).await.expect("an answer");
        assert_eq!((body.as_slice(), ready), (&b""[..], keeps), "{head}");
    }
}

#[tokio::test]
async fn a_connection_is_not_used_again_after_an_answer_that_says_two_things() {
    for (said, status) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n", 200),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n", 101),
    ] {
        let answer = exchange(Method::GET, said.as_bytes(), 100, false).await.expect("an answer");
        assert_eq!((answer.status, answer.ready), (status, false), "{said}");
    }
}

#[tokio::test]
async fn reads_grow_with_what_comes_at_once_and_not_with_what_is_left_of_a_buffer() {
    let (mut http, mut backend) = connection();
    let answer = [b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n".as_slice(), &[b'x'; 3000]].concat();
    let serves = async {
        let mut asked = [0; 1024];
        while backend.read(&mut asked).await.expect("requests") > 0 {
            backend.write_all(&answer).await.expect("a reader");
        }
    };
    let asks = async {
        for _ in 0..100 {
            send(&mut http, get("/")).await.expect("an answer");
            while let Some(frame) = poll_fn(|cx| http.poll_frame(cx)).await {
                frame.expect("a frame");
            }
        }
        let read = http.read;
        drop(http);
        read
    };
    let ((), read) = timeout(LONG, async { tokio::join!(serves, asks) }).await.expect("they end");
    // A few of them fit.
    assert!(read <= 2 * READ, "{read}");
}

#[tokio::test]
async fn what_can_be_understood_in_two_ways_is_malformed() {
    let long = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(LARGEST));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(101));
    let answers = [
        "hello\r\n\r\n",
        "HTTP/1.1 two hundred\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +1\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        &long,
        &many,
    ];
    for said in answers {
        let failure = exchange(Method::GET, said.as_bytes(), 4096, true).await.map(|answer| answer.status);
        let reason = failure.expect_err(&said[..said.len().min(60)]).reason;
        assert_eq!(reason, Reason::BackendMalformed, "{}", &said[..said.len().min(60)]);
    }
}

// What did not frame the answer was passed on as it was.
#[tokio::test]
async fn a_length_that_is_none_is_malformed_also_where_there_is_no_body() {
    for (method, status) in
        [(Method::HEAD, "200 OK"), (Method::GET, "304 Not Modified"), (Method::GET, "204 No Content")]
    {
        for lengths in ["Content-Length: 5, 6", "Content-Length: \u{e9}", "Content-Length: 5\r\nContent-Length: 6"] {
            let said = format!("HTTP/1.1 {status}\r\n{lengths}\r\n\r\n");
            let failure = exchange(method.clone(), said.as_bytes(), 100, true).await.map(|exchanged| exchanged.status);
            assert_eq!(failure.expect_err(&said).reason, Reason::BackendMalformed);
        }
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_told_from_none() {
    for (said, reason) in [
        ("", Reason::BackendClosed),
        ("HTTP/1.1 200 OK\r\n", Reason::BackendClosed),
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell", Reason::BackendTruncated),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", Reason::BackendTruncated),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nhello\r\n", Reason::BackendTruncated),
    ] {
        let failure = exchange(Method::GET, said.as_bytes(), 100, true).await.map(|answer| answer.status);
        assert_eq!(failure.expect_err(said).reason, reason, "{said:?}");
    }
}

#[tokio::test]
async fn what_is_no_head_is_seen_before_its_end() {
    for (begin, rest) in [("H", "TTQ/9.9 nonsense\r\n"), ("HTTP/1.1 200 OK\r\n", "bad header line\r\n")] {
        let (mut http, mut backend) = connection();
        let says = async {
            backend.read_u8().await.expect("a request");
            for part in [begin, rest] {
                backend.write_all(part.as_bytes()).await.expect("a reader");
                // The other side reads it by itself.
                for _ in 0..3 {
                    tokio::task::yield_now().await;
                }
            }
        };
        let ((), lost) = timeout(LONG, async { tokio::join!(says, send(&mut http, get("/"))) }).await.expect("an end");
        assert_eq!(lost.expect_err("no answer").failure.reason, Reason::BackendMalformed, "{begin:?} {rest:?}");
    }
}

#[tokio::test]
async fn a_connection_on_which_more_came_than_was_asked_for_is_not_used_again() {
    let said = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let Exchanged { body, ready, .. } = exchange(Method::GET, said, said.len(), false).await.expect("an answer");
    assert_eq!((body.as_slice(), ready), (&b"ok"[..], false));
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_is_not_used_again() {
    let (http, backend) = connection();
    assert!(http.is_ready());
    drop(backend);
    // The kernel tells the runtime, which has to get a turn.
    let gone = async {
        while http.is_ready() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, gone).await.expect("the end is seen");
}

#[tokio::test]
async fn an_idle_connection_has_no_buffer() {
    let said = [b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".as_slice(), &[b'x'; 100_000]].concat();
    let Exchanged { body, ready, mut http, .. } = exchange(Method::GET, &said, 4096, false).await.expect("an answer");
    assert_eq!((body.len(), ready), (100_000, true));
    assert!(http.read > READ && !http.sending.head().is_empty());
    http.cools();
    assert_eq!((http.input.capacity(), http.read, http.sending.head().len()), (0, READ, 0));
    let (mut http, mut backend) = connection();
    http.input.extend_from_slice(b"unread");
    http.cools();
    assert_eq!(&http.input[..], b"unread");
    // Looking at it takes no buffer either, and sees what is there.
    http.input.clear();
    http.cools();
    assert!(http.is_ready() && http.input.capacity() == 0);
    backend.write_all(b"!").await.expect("a reader");
    let seen = async {
        while http.is_ready() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, seen).await.expect("the byte is seen");
}

#[test]
fn a_head_that_was_written_reads_back_the_same() {
    for target in ["/a%20b?c=d&e", "*", "/"] {
        for version in [http::Version::HTTP_10, http::Version::HTTP_11] {
            let method = if target == "*" { Method::OPTIONS } else { Method::from_bytes(b"PROPFIND").expect("one") };
            let mut request = Request::builder().method(method).uri(target).version(version);
            for (name, value) in [("host", "example.com"), ("x-a", "1"), ("x-a", "2"), ("x-b", "\u{e9}"), ("x-c", "")] {
                request = request.header(name, value);
            }
            let (head, ()) = request.body(()).expect("a request").into_parts();
            let mut written = Vec::new();
            head::write(&head, &mut written);
            let again = head::read_back(&written).expect("a head");
            assert_eq!((&again.method, &again.uri, again.version), (&head.method, &head.uri, head.version));
            assert_eq!(again.headers, head.headers);
        }
    }
}

#[test]
fn a_target_always_has_a_path() {
    for (target, line) in
        [("http://a?q", "GET /?q HTTP/1.1\r\n"), ("http://a", "GET / HTTP/1.1\r\n"), ("/?", "GET /? HTTP/1.1\r\n")]
    {
        let (head, ()) = Request::get(target).body(()).expect("a request").into_parts();
        let mut written = Vec::new();
        head::write(&head, &mut written);
        assert_eq!(written, [line.as_bytes(), b"\r\n"].concat());
    }
}

#[tokio::test]
async fn a_lost_request_comes_back_with_how_far_it_came() {
    let (mut http, backend) = connection();
    drop(backend);
    let lost = send(&mut http, get("/again")).await.expect_err("nobody answers");
    assert_eq!((lost.written, lost.read, lost.reset), (0, 0, true));
    assert_eq!(lost.request.expect("the request").uri, "/again");

    let (mut http, mut backend) = connection();
    let reads = async {
        let mut asked = Vec::new();
        while !asked.ends_with(b"\r\n\r\n") {
            asked.push(backend.read_u8().await.expect("a byte"));
        }
        drop(backend);
        asked.len() as u64
    };
    let (asked, lost) = tokio::join!(reads, send(&mut http, get("/")));
    let lost = lost.expect_err("nobody answers");
    assert_eq!((lost.written, lost.read, lost.reset), (asked, 0, false));
}

#[tokio::test]
async fn frames_tell_how_much_is_left() {
    let (mut http, mut backend) = connection();
    backend.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe").await.expect("a reader");
    send(&mut http, get("/")).await.expect("an answer");
    assert_eq!((http.is_end_stream(), http.size_hint().exact()), (false, Some(5)));
    let frame = poll_fn(|cx| http.poll_frame(cx)).await.expect("a frame").expect("no failure");
    assert_eq!((frame.into_data().expect("data"), http.size_hint().exact()), (Bytes::from("he"), Some(3)));
    assert!(Upload::default().is_end_stream());
    backend.write_all(b"llo").await.expect("a reader");
    poll_fn(|cx| http.poll_frame(cx)).await.expect("a frame").expect("no failure");
    assert!(http.is_end_stream() && http.is_ready());
}
