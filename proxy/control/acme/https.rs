//! How is an authority spoken to? By HTTP/1.1 over TLS, one connection per request: there are a dozen in two months.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::uri::{Authority, Scheme};
use http::{Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient, Problem};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde::Deserialize;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::renewal::LONGEST_PUTTING_OFF;
use crate::control::certificates::{self, Unusable};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long one of its addresses may take to be connected to.
const PER_ADDRESS: Duration = Duration::from_secs(6);

/// Bytes that an answer may have; a chain of certificates has ten thousand.
const LARGEST: usize = 1024 * 1024;

/// Where systems keep the authorities that they trust: Debian and its like, Fedora and its like, Alpine.
const SYSTEM: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", "/etc/ssl/cert.pem"];

/// What we call ourselves, which authorities want to know (RFC 8555, section 6.1).
const USER_AGENT: HeaderValue = HeaderValue::from_static(concat!("bgproxy/", env!("CARGO_PKG_VERSION")));

/// Why nobody can be trusted.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoTrust {
    /// The file that the configuration names.
    #[error(transparent)]
    File(#[from] Unusable),
    /// This system has none of the usual files.
    #[error("this system has no list of authorities, such as {}", SYSTEM[0])]
    System,
    /// rustls does not take the parts together.
    #[error("TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
}

/// Why the authority was not reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unreached {
    /// What it is said to be at, by the configuration or by itself, is no URL that it could be at.
    #[error("{0:?} is not a URL over HTTPS")]
    NoUrl(String),
    /// There is no connection to be had.
    #[error("cannot connect to {host}")]
    Connect {
        /// Where to.
        host: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The handshake failed.
    #[error("no TLS with {host}")]
    Tls {
        /// With whom.
        host: String,
        /// What rustls said.
        source: io::Error,
    },
    /// What it sent is not HTTP.
    #[error("it does not answer")]
    Http(#[from] hyper::Error),
    /// It broke off, or is too long.
    #[error("its answer cannot be read: {0}")]
    Body(Box<dyn std::error::Error + Send + Sync>),
    /// It is elsewhere.
    #[error("it answers {status}, and names {to:?} instead")]
    Moved {
        /// How it says so.
        status: StatusCode,
        /// Where it says it is.
        to: String,
    },
    /// It fails, and does not say why in the words of ACME.
    #[error("it answers {0}")]
    Failing(StatusCode),
    /// It takes too long.
    #[error("it does not answer within {} seconds", PATIENCE.as_secs())]
    Timeout,
}

/// The authority's client.
#[derive(Clone)]
pub(super) struct Https {
    tls: TlsConnector,
    notes: Arc<Notes>,
}

/// What is noted while somebody speaks to the authority.
#[derive(Debug, Default)]
pub(super) struct Notes {
    asked: AtomicBool,
    /// In seconds; 0 when it has not said.
    put_off: AtomicU64,
}

impl Notes {
    /// Whether it was asked anything at all.
    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// How long it wants to be left alone, if it has said so.
    pub(super) fn put_off(&self) -> Option<Duration> {
        Some(self.put_off.load(Ordering::Relaxed)).filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }
}

impl Https {
    /// A client that trusts the authorities of this file, or those that the system trusts, and takes notes. It blocks
    /// on the disk.
    ///
    /// # Errors
    /// [`NoTrust`].
    pub(super) fn new(ca: Option<&Path>, notes: Arc<Notes>) -> Result<Https, NoTrust> {
        let roots = match ca {
            Some(path) => certificates::authorities(path)?,
            None => system()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
        Ok(Https { tls: TlsConnector::from(Arc::new(config)), notes })
    }

    async fn ask(&self, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, Unreached> {
        let uri = std::mem::take(request.uri_mut());
        let (host, authority) = parts(&uri).ok_or_else(|| Unreached::NoUrl(uri.to_string()))?;
        let named = HeaderValue::from_str(authority.as_str()).map_err(|_| Unreached::NoUrl(uri.to_string()))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| Unreached::NoUrl(uri.to_string()))?;
        request.headers_mut().insert(header::HOST, named);
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);

        let name = ServerName::try_from(host.to_owned()).map_err(|_| Unreached::NoUrl(uri.to_string()))?;
        let tcp = connect(host, uri.port_u16().unwrap_or(443)).await;
        let tcp = tcp.map_err(|source| Unreached::Connect { host: authority.to_string(), source })?;
        let tls = self.tls.connect(name, tcp).await;
        let tls = tls.map_err(|source| Unreached::Tls { host: authority.to_string(), source })?;
        self.notes.asked.store(true, Ordering::Relaxed);
        let (mut sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
        let exchange = async move {
            let (head, body) = sender.send_request(request).await?.into_parts();
            let body = Limited::new(body, LARGEST).collect().await.map_err(Unreached::Body)?;
            Ok(Response::from_parts(head, body.to_bytes()))
        };
        // It ends with the sender, and what is wrong with it the exchange tells too.
        let (answer, _ended) = tokio::join!(exchange, connection);
        answer
    }
}

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let this = self.clone();
        Box::pin(async move {
            let answer = timeout(PATIENCE, this.ask(request)).await;
            let mut answer = answer.unwrap_or(Err(Unreached::Timeout)).map_err(other)?;
            if let Some(seconds) = retry_after(answer.headers(), SystemTime::now()) {
                if !answer.status().is_success() {
                    this.notes.put_off.fetch_max(seconds, Ordering::Relaxed);
                }
                // instant-acme adds it to the time as it is, and there are numbers for which there is no such time.
                answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
            }
            sound(&answer).map_err(other)?;
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}

fn other(fault: Unreached) -> Error {
    Error::Other(Box::new(fault))
}

/// Whether a directory can be where this says.
///
/// # Errors
/// [`Unreached::NoUrl`].
pub(super) fn check(url: &str) -> Result<(), Unreached> {
    let uri: Option<Uri> = url.parse().ok();
    uri.as_ref().and_then(parts).map(drop).ok_or_else(|| Unreached::NoUrl(url.to_owned()))
}

/// Host without brackets, and host with port.
fn parts(uri: &Uri) -> Option<(&str, &Authority)> {
    let authority = uri.authority().filter(|_| uri.scheme() == Some(&Scheme::HTTPS))?;
    let host = authority.host();
    // Whatever is neither of them would be passed over: a name before an @, a port that is no number.
    let port = authority.as_str().strip_prefix(host)?;
    (port.is_empty() || authority.port_u16().is_some()).then(|| (host.trim_matches(['[', ']']), authority))
}

/// To the first of its addresses that answers in time: one that is never heard of is no reason to give up the others.
async fn connect(host: &str, port: u16) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "it has no address");
    for address in lookup_host((host, port)).await? {
        match timeout(PER_ADDRESS, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(fault)) => last = fault,
            Err(_) => last = io::ErrorKind::TimedOut.into(),
        }
    }
    Err(last)
}

/// Whether an answer is one that instant-acme can tell people about.
fn sound(answer: &Response<Bytes>) -> Result<(), Unreached> {
    let status = answer.status();
    if status.is_redirection() {
        let to = answer.headers().get(header::LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
        return Err(Unreached::Moved { status, to: to.unwrap_or_default() });
    }
    if !status.is_success() {
        let problem = serde_json::from_slice::<Problem>(answer.body()).ok();
        let says_why = problem.is_some_and(|problem| problem.r#type.is_some() || problem.detail.is_some());
        return if says_why { Ok(()) } else { Err(Unreached::Failing(status)) };
    }
    // As with the directory itself: it is taken for granted that this is a URL.
    match serde_json::from_slice::<Directory>(answer.body()) {
        Ok(directory) => check(&directory.new_nonce),
        Err(_) => Ok(()),
    }
}

/// The part of an authority's directory that is not looked at before it is used.
#[derive(Deserialize)]
struct Directory {
    #[serde(rename = "newNonce")]
    new_nonce: String,
}

/// Seconds, or a date (RFC 9110, section 10.2.3); no more than anybody waits.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        text.parse().unwrap_or(u64::MAX)
    } else {
        httpdate::parse_http_date(text).ok()?.duration_since(now).ok()?.as_secs() + 1
    };
    Some(seconds.min(LONGEST_PUTTING_OFF.as_secs()))
}

fn system() -> Result<RootCertStore, NoTrust> {
    let Some(pem) = SYSTEM.iter().find_map(|path| std::fs::read(path).ok()) else { return Err(NoTrust::System) };
    let mut roots = RootCertStore::empty();
    // One that rustls cannot read is of use to nobody, and no reason not to trust the others.
    roots.add_parsable_certificates(CertificateDer::pem_slice_iter(&pem).flatten());
    if roots.is_empty() { Err(NoTrust::System) } else { Ok(roots) }
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;

    #[test]
    fn an_authority_says_when_to_come_back_in_two_ways() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let ask = |text: &'static str| {
            retry_after(&HeaderMap::from_iter([(header::RETRY_AFTER, HeaderValue::from_static(text))]), now)
        };
        assert_eq!(ask("120"), Some(120));
        assert_eq!(ask("Sun, 09 Sep 2001 01:47:40 GMT"), Some(61));
        assert_eq!(ask("Sun, 09 Sep 2001 01:46:40 GMT"), Some(1));
        assert_eq!(ask("Sun, 09 Sep 2000 01:46:40 GMT"), None);
        assert_eq!(ask("soon"), None);
        assert_eq!([ask(""), ask("-1"), ask("+5")], [None; 3]);
        assert_eq!(ask("18446744073709551615"), Some(86_400));
        assert_eq!(ask("99999999999999999999999999"), Some(86_400));
        assert_eq!(ask("Fri, 31 Dec 9999 23:59:59 GMT"), Some(86_400));
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }

    #[test]
    fn an_authority_is_at_a_url_over_https_or_nowhere() {
        for url in ["https://a.test/", "https://a.test:14000/dir?x", "https://[::1]:1/", "https://192.0.2.1"] {
            assert!(check(url).is_ok(), "{url}");
        }
        for url in [
            "http://a.test/",
            "/new-nonce",
            "a.test",
            "https://",
            "https://a.test:99999/",
            "https://b@a.test/",
            "https://[::1/",
            "https://a b/",
        ] {
            assert!(matches!(check(url), Err(Unreached::NoUrl(_))), "{url}");
        }
    }

    #[test]
    fn an_answer_that_is_not_of_acme_is_told_by_its_status() {
        let told = |status: u16, location: Option<&str>, body: &str| {
            let mut answer = Response::builder().status(status);
            if let Some(to) = location {
                answer = answer.header(header::LOCATION, to);
            }
            sound(&answer.body(Bytes::copy_from_slice(body.as_bytes())).expect("an answer"))
                .map_err(|why| why.to_string())
        };
        assert_eq!(told(200, None, "<html>"), Ok(()));
        assert_eq!(told(429, None, "{\"detail\":\"too many\"}"), Ok(()));
        assert_eq!(told(502, None, "<html>Bad Gateway"), Err("it answers 502 Bad Gateway".to_owned()));
        assert_eq!(told(404, None, "{}"), Err("it answers 404 Not Found".to_owned()));
        let moved = "it answers 301 Moved Permanently, and names \"https://b.test/\\n\" instead";
        assert_eq!(told(301, Some("https://b.test/"), ""), Err(moved.replace("\\n", "")));
        let nonce = "\"not a URL\" is not a URL over HTTPS";
        assert_eq!(told(200, None, "{\"newNonce\":\"not a URL\"}"), Err(nonce.to_owned()));
    }
}
