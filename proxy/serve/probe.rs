//! Is this backend ready? One question, sent the way a request is sent: same socket, same connection code, same
//! headers. Where the question says so, a good answer leaves its connection in the pool: a color that passes is already
//! warm.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::Instant;

use bgproxy_conf::wire::ProbeReport;
use http::{HeaderValue, Request, StatusCode, header, request};

use super::body::Upload;
use super::error::{Failure, Reason};
use super::headers::{self, Sender};
use super::pool::{Lane, Link, Purpose};
use crate::clock;
use crate::mail::Question;

/// How much of a bad answer is shown.
const SHOWN: usize = 200;

/// How much of a good answer is read, so that its connection can be used again.
const READ: usize = 256 * 1024;

/// The stable name of an answer with a status that does not count as ready.
const UNEXPECTED_STATUS: &str = "unexpected_status";

/// How many idle connections probes may leave behind, per worker.
const LEFT: usize = 8;

/// Asks once. Never fails: a failure is the answer.
pub async fn ask(lane: &Rc<Lane>, question: &Question, now: u64) -> ProbeReport {
    let started = Instant::now();
    let at = clock::now();
    let answer = tokio::time::timeout(question.timeout, answer(lane, question, now)).await;
    let (status, fault) = match answer {
        Ok(Ok((status, fault))) => (Some(status.as_u16()), fault),
        Ok(Err(failure)) => (None, Some((failure.reason.label(), failure.to_string()))),
        Err(_elapsed) => {
            let text = format!("no complete answer within {}", humantime::format_duration(question.timeout));
            (None, Some((Reason::ResponseTimeout.label(), text)))
        }
    };
    lane.meter.probed(fault.is_none());
    let (reason, detail) = fault.map(|(reason, detail)| (reason.to_owned(), detail)).unzip();
    ProbeReport { ready: reason.is_none(), at, status, reason, detail, seconds: started.elapsed().as_secs_f64() }
}

type Fault = Option<(&'static str, String)>;

async fn answer(lane: &Rc<Lane>, question: &Question, now: u64) -> Result<(StatusCode, Fault), Failure> {
    let mut link = lane.connect(question.timeout, None, Purpose::Exchange).await?;
    let request = request(question)?;
    let status = link.send(request).await.map_err(|lost| lost.failure)?.status;
    if question.expect.contains(status.as_u16()) {
        finish(lane, link, question.pool.min(LEFT), now).await?;
        return Ok((status, None));
    }
    let text = format!("status {status}, expected {}; the answer begins: {}", question.expect, begin(link).await);
    Ok((status, Some((UNEXPECTED_STATUS, text))))
}

/// The question as a request, rewritten like any other.
fn request(question: &Question) -> Result<Request<Upload>, Failure> {
    let built = Request::get(&question.path)
        .header(header::HOST, &question.host)
        .header(header::USER_AGENT, concat!("bgproxy-probe/", env!("CARGO_PKG_VERSION")))
        .header(header::ACCEPT, "*/*")
        .body(Upload::default());
    let internal = |error: http::Error| Failure { reason: Reason::Internal, source: Some(error.into()) };
    let (mut head, body): (request::Parts, _) = built.map_err(internal)?.into_parts();
    let text = HeaderValue::from_static("127.0.0.1");
    let address = [127, 0, 0, 1].into();
    let sender = Sender { address, text: &text, trusted: false, secure: false, subject: None, forwarded: false };
    headers::to_backend(&mut head, &sender, address, None);
    Ok(Request::from_parts(head, body))
}

/// Reads a good answer to its end and keeps the connection, if any are to be kept; a long one is left.
async fn finish(lane: &Lane, mut link: Link, most: usize, now: u64) -> Result<(), Failure> {
    let mut read = 0;
    while let Some(frame) = poll_fn(|cx| link.poll_frame(cx)).await {
        read += frame?.data_ref().map_or(0, bytes::Bytes::len);
        if read > READ {
            return Ok(());
        }
    }
    if most > 0 {
        lane.keep(link, most, now);
    }
    Ok(())
}

/// The first bytes of an answer, fit for a log line.
async fn begin(mut link: Link) -> String {
    let mut text = Vec::new();
    while let Some(Ok(frame)) = poll_fn(|cx| link.poll_frame(cx)).await {
        text.extend_from_slice(frame.data_ref().map_or(&[], |data| data));
        if text.len() >= SHOWN {
            text.truncate(SHOWN);
            break;
        }
    }
    if text.is_empty() { "nothing".to_owned() } else { format!("{:?}", String::from_utf8_lossy(&text)) }
}
