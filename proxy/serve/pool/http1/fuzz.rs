//! Is a backend's answer the same however it arrives, and the one that a simple reader of all of it finds? See
//! [`crate::fuzz`].

use std::time::Duration;

use http::header::HeaderMap;
use http::request::Parts;
use tokio::io::AsyncWriteExt;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;

use super::super::io::Wire;
use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A request's head as a backend gets it.
pub(crate) fn written(head: &Parts) -> Vec<u8> {
    let mut bytes = Vec::new();
    head::write(head, &mut bytes);
    bytes
}

/// What was understood of an answer.
#[derive(Debug, PartialEq)]
struct Understood {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
    keeps: bool,
    /// How many bytes it took.
    length: usize,
}

thread_local! {
    static RUNTIME: Runtime = {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().build().expect("a runtime")
    };
}

/// Checks what is understood of these bytes as the answer to a GET; behind a `!`, to a HEAD.
pub fn answer(bytes: &[u8]) {
    let (method, bytes) = match bytes.strip_prefix(b"!") {
        Some(rest) => (Method::HEAD, rest),
        None => (Method::GET, bytes),
    };
    let whole = understand(&method, bytes, bytes.len().max(1));
    for size in crate::fuzz::sizes(bytes) {
        let pieces = understand(&method, bytes, size);
        assert_eq!(pieces, whole, "in pieces of {size}");
    }
    if let Some(understood) = whole {
        let (body, length) = simply(&method, bytes).expect("what we understand is simple");
        assert_eq!((understood.body, understood.length), (body, length));
    }
}

/// None when it is refused, or breaks off.
fn understand(method: &Method, bytes: &[u8], size: usize) -> Option<Understood> {
    let exchange = async {
        let (ours, mut theirs) = UnixStream::pair().expect("two sockets");
        let wire = Rc::<Wire>::default();
        let io = BackendIo { stream: BackendStream::Unix(ours), wire: wire.clone() };
        let mut http = Http1::new(io, Purpose::Exchange);
        let mut request = Request::new(Upload::default());
        *request.method_mut() = method.clone();
        let says = async {
            for piece in bytes.chunks(size) {
                // Once an answer is refused nobody reads any more.
                if theirs.write_all(piece).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            let _gone = theirs.shutdown().await;
            theirs
        };
        let hears = async {
            http.begin(request);
            let head = poll_fn(|cx| http.poll_answer(cx)).await.ok()?;
            let (mut body, mut trailers) = (Vec::new(), None);
            while let Some(frame) = poll_fn(|cx| http.poll_frame(cx)).await {
                match frame.ok()?.into_data() {
                    Ok(data) => body.extend_from_slice(&data),
                    Err(frame) => trailers = frame.into_trailers().ok(),
                }
            }
            let read = usize::try_from(wire.read.get()).expect("few bytes");
            let length = read - http.input.len();
            let (status, keeps) = (head.status.as_u16(), http.keeps);
            Some(Understood { status, headers: head.headers, body, trailers, keeps, length })
        };
        let mut hears = std::pin::pin!(hears);
        let mut says = std::pin::pin!(says);
        tokio::select! {
            heard = &mut hears => heard,
            _open = &mut says => hears.await,
        }
    };
    let exchange = async { tokio::time::timeout(PATIENCE, exchange).await.expect("it stands still") };
    RUNTIME.with(|runtime| runtime.block_on(exchange))
}

/// Body and length of the answer, as a reader finds them that has all of it: line by line, and nothing but what frames
/// it. None where that is not to be found.
fn simply(method: &Method, bytes: &[u8]) -> Option<(Vec<u8>, usize)> {
    let mut at = 0;
    loop {
        // Empty lines before a head, also before the one behind a 103, are skipped.
        at += bytes[at..].iter().take_while(|byte| matches!(byte, b'\r' | b'\n')).count();
        let status: u16 = std::str::from_utf8(bytes.get(at + 9..at + 12)?).ok()?.parse().ok()?;
        let (mut length, mut chunked) = (None, false);
        loop {
            let line = line(bytes, &mut at)?;
            if line.is_empty() {
                break;
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
            let value = line[colon + 1..].trim_ascii();
            if line[..colon].eq_ignore_ascii_case(b"content-length") {
                length = Some(std::str::from_utf8(value).ok().and_then(|digits| digits.parse::<usize>().ok()));
            } else if line[..colon].eq_ignore_ascii_case(b"transfer-encoding") {
                chunked = true;
            }
        }
        match status {
            100..=199 if status != 101 => continue,
            101 | 204 | 304 => return Some((Vec::new(), at)),
            _ if *method == Method::HEAD => return Some((Vec::new(), at)),
            _ if chunked => return chunks(bytes, at),
            _ => {}
        }
        let end = match length {
            Some(length) => at.checked_add(length?)?,
            None => bytes.len(),
        };
        return Some((bytes.get(at..end)?.to_vec(), end));
    }
}

fn chunks(bytes: &[u8], mut at: usize) -> Option<(Vec<u8>, usize)> {
    let mut body = Vec::new();
    loop {
        let line_of_size = line(bytes, &mut at)?;
        let digits = line_of_size.split(|byte| matches!(byte, b';' | b' ' | b'\t')).next()?;
        let size = usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
        if size == 0 {
            while !line(bytes, &mut at)?.is_empty() {}
            return Some((body, at));
        }
        body.extend_from_slice(bytes.get(at..at.checked_add(size)?)?);
        at += size;
        if !line(bytes, &mut at)?.is_empty() {
            return None;
        }
    }
}

/// The next line, without its end.
fn line<'b>(bytes: &'b [u8], at: &mut usize) -> Option<&'b [u8]> {
    let rest = bytes.get(*at..)?;
    let end = rest.iter().position(|byte| *byte == b'\n')?;
    *at += end + 1;
    Some(rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]))
}
