//! How is an authority spoken to? By HTTP/1.1 over TLS, one connection per request: there are a dozen in two months.

use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::control::certificates::{self, Unusable};

/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(30);

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
    /// Its URL has no host, or one that is no name.
    #[error("`{0}` names no host")]
    NoHost(Uri),
    /// The same.
    #[error(transparent)]
    NoName(#[from] InvalidDnsNameError),
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
    /// It takes too long.
    #[error("it does not answer within {} seconds", PATIENCE.as_secs())]
    Timeout,
}

/// The authority's client.
#[derive(Clone)]
pub(super) struct Https {
    tls: TlsConnector,
    put_off: Arc<PutOff>,
}

/// How long the authority wants to be left alone, in seconds; 0 when it has not said.
#[derive(Debug, Default)]
pub(super) struct PutOff(AtomicU64);

impl PutOff {
    /// What it said since it was last asked.
    pub(super) fn take(&self) -> Option<Duration> {
        Some(self.0.swap(0, Ordering::Relaxed)).filter(|seconds| *seconds > 0).map(Duration::from_secs)
    }
}

impl Https {
    /// A client that trusts the authorities of this file, or those that the system trusts, and notes how long it is put
    /// off. It blocks on the disk.
    ///
    /// # Errors
    /// [`NoTrust`].
    pub(super) fn new(ca: Option<&Path>, put_off: Arc<PutOff>) -> Result<Https, NoTrust> {
        let roots = match ca {
            Some(path) => certificates::authorities(path)?,
            None => system()?,
        };
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
        let config = config.with_safe_default_protocol_versions()?.with_root_certificates(roots).with_no_client_auth();
        Ok(Https { tls: TlsConnector::from(Arc::new(config)), put_off })
    }

    async fn ask(&self, mut request: Request<BodyWrapper<Bytes>>) -> Result<Response<Bytes>, Unreached> {
        let uri = std::mem::take(request.uri_mut());
        let Some((host, authority)) = uri.host().zip(uri.authority()) else { return Err(Unreached::NoHost(uri)) };
        let named = HeaderValue::from_str(authority.as_str()).map_err(|_| Unreached::NoHost(uri.clone()))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        *request.uri_mut() = path.parse().map_err(|_| Unreached::NoHost(uri.clone()))?;
        request.headers_mut().insert(header::HOST, named);
        request.headers_mut().insert(header::USER_AGENT, USER_AGENT);

        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned())?;
        let to = (host.trim_matches(['[', ']']), uri.port_u16().unwrap_or(443));
        let tcp = TcpStream::connect(to).await;
        let tcp = tcp.map_err(|source| Unreached::Connect { host: authority.to_string(), source })?;
        let tls = self.tls.connect(name, tcp).await;
        let tls = tls.map_err(|source| Unreached::Tls { host: authority.to_string(), source })?;
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
            let answer = tokio::time::timeout(PATIENCE, this.ask(request)).await;
            let answer = answer.unwrap_or(Err(Unreached::Timeout)).map_err(|fault| Error::Other(Box::new(fault)))?;
            if answer.status().is_client_error() || answer.status().is_server_error() {
                let seconds = retry_after(answer.headers(), SystemTime::now());
                this.put_off.0.fetch_max(seconds.unwrap_or(0), Ordering::Relaxed);
            }
            Ok(BytesResponse::from(answer.map(Full::new)))
        })
    }
}

/// Seconds, or a date (RFC 9110, section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<u64> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let until = || httpdate::parse_http_date(text).ok()?.duration_since(now).ok();
    text.parse().ok().or_else(|| Some(until()?.as_secs() + 1))
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
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
