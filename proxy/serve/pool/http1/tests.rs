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

/// What `ask` of this method gets from a backend that says this, in pieces of this size, and closes or stays.
async fn exchange(method: Method, said: &[u8], piece: usize, closes: bool) -> Result<(u16, Vec<u8>, Http1), Failure> {
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
    http.keeps = ready;
    Ok((status, body, http))
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
            let (status, body, http) = exchange(Method::GET, said, piece, false).await.expect("an answer");
            assert_eq!((status, body.as_slice(), http.keeps), (200, expected, keeps), "{}", said.escape_ascii());
        }
    }
}

#[tokio::test]
async fn without_a_length_the_end_of_the_connection_ends_the_answer() {
    let (status, body, http) = exchange(Method::GET, b"HTTP/1.1 200 OK\r\n\r\nhello", 7, true).await.expect("one");
    assert_eq!((status, body.as_slice(), http.keeps), (200, &b"hello"[..], false));
}

#[tokio::test]
async fn an_answer_that_has_no_body_has_none_whatever_it_says() {
    let length = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for said in [&length[..], chunked] {
        let (_, body, http) = exchange(Method::HEAD, said, 100, false).await.expect("an answer");
        assert_eq!((body.as_slice(), http.keeps), (&b""[..], true));
    }
    for status in ["204 No Content", "304 Not Modified"] {
        let said = format!("HTTP/1.1 {status}\r\nContent-Length: 5\r\n\r\n");
        let (_, body, http) = exchange(Method::GET, said.as_bytes(), 100, false).await.expect("an answer");
        assert_eq!((body.as_slice(), http.keeps), (&b""[..], true));
    }
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
        let failure = exchange(Method::GET, said.as_bytes(), 4096, true).await.map(|(status, ..)| status);
        let reason = failure.expect_err(&said[..said.len().min(60)]).reason;
        assert_eq!(reason, Reason::BackendMalformed, "{}", &said[..said.len().min(60)]);
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
        let failure = exchange(Method::GET, said.as_bytes(), 100, true).await.map(|(status, ..)| status);
        assert_eq!(failure.expect_err(said).reason, reason, "{said:?}");
    }
}

#[tokio::test]
async fn a_connection_on_which_more_came_than_was_asked_for_is_not_used_again() {
    let said = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let (_, body, http) = exchange(Method::GET, said, said.len(), false).await.expect("an answer");
    assert_eq!((body.as_slice(), http.keeps), (&b"ok"[..], false));
}

#[tokio::test]
async fn a_connection_that_the_backend_closed_is_not_used_again() {
    let (mut http, backend) = connection();
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
    let (_, body, mut http) = exchange(Method::GET, &said, 4096, false).await.expect("an answer");
    assert_eq!((body.len(), http.keeps), (100_000, true));
    http.cools();
    assert_eq!(http.input.capacity(), 0);
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
