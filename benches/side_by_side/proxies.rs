//! Who takes part? bgproxy, nginx and HAProxy, each with two workers and the same five headers, in front of one backend.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;

use super::load::CONNECTIONS;
use super::process::{Running, version};

/// The name in the certificate.
pub(super) const NAME: &str = "bench.test";

/// A proxy that runs.
pub(super) struct Proxy {
    pub(super) name: String,
    pub(super) essentials: &'static str,
    pub(super) process: Running,
    /// Where it listens in clear.
    pub(super) clear: SocketAddr,
    /// Where it listens with TLS, and what for a certificate it has.
    secure: Option<(SocketAddr, Certificate)>,
}

/// What the proxies have in common.
pub(super) struct Site<'s> {
    /// A directory for everything.
    pub(super) dir: &'s Path,
    /// For all of them the same; none when nobody asks for TLS.
    pub(super) certificate: Option<&'s Certificate>,
}

/// A certificate of its own authority, with an ECDSA key on P-256.
#[derive(Debug, Clone)]
pub(super) struct Certificate {
    cert: PathBuf,
    key: PathBuf,
    /// Both in one file, as HAProxy has it.
    both: PathBuf,
    authority: CertificateDer<'static>,
}

impl Certificate {
    pub(super) fn new(dir: &Path) -> anyhow::Result<Certificate> {
        let mut params = CertificateParams::new(Vec::new())?;
        params.distinguished_name.push(DnType::CommonName, "the authority of a bench");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, key()?)?;
        let server = key()?;
        let cert = CertificateParams::new(vec![NAME.to_owned()])?.signed_by(&server, &authority)?.pem();
        let server = server.serialize_pem();
        let certificate = Certificate {
            cert: dir.join("cert.pem"),
            key: dir.join("key.pem"),
            both: dir.join("both.pem"),
            authority: authority.der().clone(),
        };
        fs::write(&certificate.cert, &cert)?;
        for (file, text) in [(&certificate.key, server.clone()), (&certificate.both, cert + &server)] {
            fs::write(file, text)?;
            fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        }
        Ok(certificate)
    }

    /// Whom a client has to trust.
    pub(super) fn authority(&self) -> anyhow::Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.clone())?;
        Ok(roots)
    }
}

fn key() -> Result<KeyPair, rcgen::Error> {
    KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
}

/// The backend that all of them have.
pub(super) fn backend_conf(dir: &Path) -> io::Result<String> {
    // Not beside the socket: bgproxy watches its directory, and would be told of every page that nginx opens.
    let pages = dir.join("pages");
    fs::create_dir(&pages)?;
    // As large as nginx's own welcome page.
    fs::write(pages.join("index.html"), format!("{}\n", "x".repeat(611)))?;
    let (dir, pages) = (dir.display(), pages.display());
    Ok(format!("worker_processes 1;\nserver {{ listen unix:{dir}/backend.sock; location / {{ root {pages}; }} }}"))
}

/// bgproxy, this build or another one.
pub(super) fn bgproxy(site: &Site<'_>, program: &Path, index: usize) -> anyhow::Result<Proxy> {
    let (clear, secure, admin) = (free_address()?, site.secure_address()?, free_address()?);
    let home = site.dir.join(format!("bgproxy-{index}"));
    fs::create_dir_all(home.join("state"))?;
    let (dir, here) = (site.dir.display(), home.display());
    let mut config = format!(
        "workers = 2\nadmin.address = \"{admin}\"\n\
         control.socket = \"{here}/control.sock\"\nstate.dir = \"{here}/state\"\n\
         limits.connections = 1000\nservice.bench.backends.blue = \"{dir}/backend.sock\"\n\
         [[listen]]\naddress = \"{clear}\"\n"
    );
    if let Some((address, Certificate { cert, key, .. })) = &secure {
        config += &format!(
            "[[listen]]\naddress = \"{address}\"\ntls = true\n[[certificate]]\ncert = {cert:?}\nkey = {key:?}\n"
        );
    }
    let file = home.join("bgproxy.toml");
    fs::write(&file, config)?;
    let process = Running::start(Command::new(program).arg("-c").arg(file), &home, "bgproxy")?;
    let name = version(program, "--version");
    let name = if index == 0 { name } else { format!("{name} ({})", program.display()) };
    Proxy::new(name, "2 workers, no access log, defaults otherwise", process, clear, secure)
}

/// nginx, as its manual recommends it.
pub(super) fn nginx(site: &Site<'_>, nginx: &Path) -> anyhow::Result<Proxy> {
    let (clear, secure) = (free_address()?, site.secure_address()?);
    let here = site.dir.display();
    let listen = secure.as_ref().map_or(String::new(), |(address, Certificate { cert, key, .. })| {
        format!(
            "listen {address} ssl http2 reuseport; ssl_certificate {}; ssl_certificate_key {};\n\
             ssl_protocols TLSv1.2 TLSv1.3; ssl_session_cache shared:SSL:10m; ssl_session_timeout 10m;\n",
            cert.display(),
            key.display()
        )
    });
    let config = format!(
        "worker_processes 2;\n\
         upstream backend {{ server unix:{here}/backend.sock; keepalive {CONNECTIONS}; keepalive_requests 1000000; }}\n\
         server {{ listen {clear} reuseport; {listen} keepalive_requests 1000000;\n\
         location / {{ proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";\n\
         proxy_set_header Host $http_host; proxy_set_header X-Real-IP $remote_addr;\n\
         proxy_set_header X-Forwarded-For $remote_addr; proxy_set_header X-Forwarded-Proto $scheme;\n\
         proxy_set_header X-Forwarded-Host $http_host; proxy_set_header X-Request-Id $request_id; }} }}"
    );
    let process = Running::nginx(nginx, site.dir, "proxy", &config)?;
    let name = version(nginx, "-v").replace("nginx version: nginx/", "nginx ");
    let essentials = "2 workers, reuseport, upstream keepalive, the same five headers, no access log";
    Proxy::new(name, essentials, process, clear, secure)
}

/// HAProxy.
pub(super) fn haproxy(site: &Site<'_>, haproxy: &Path) -> anyhow::Result<Proxy> {
    let (clear, secure) = (free_address()?, site.secure_address()?);
    let here = site.dir.display();
    let bind = secure.as_ref().map_or(String::new(), |(address, certificate)| {
        format!(" bind {address} ssl crt {} alpn h2,http/1.1\n", certificate.both.display())
    });
    let config = format!(
        "global\n nbthread 2\n maxconn 1000\n\
         defaults\n mode http\n timeout connect 2s\n timeout client 60s\n timeout server 60s\n\
         frontend door\n bind {clear}\n{bind} unique-id-format %{{+X}}o%ci%cp%Ts%rt%pid\n\
         \x20unique-id-header X-Request-Id\n default_backend blue\n\
         backend blue\n http-reuse always\n option forwardfor\n http-request set-header X-Real-IP %[src]\n\
         \x20http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}\n\
         \x20http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}\n\
         \x20http-request set-header X-Forwarded-Host %[req.hdr(host)]\n\
         \x20server blue unix@{here}/backend.sock\n"
    );
    let file = site.dir.join("haproxy.cfg");
    fs::write(&file, config)?;
    let process = Running::start(Command::new(haproxy).arg("-db").arg("-f").arg(file), site.dir, "haproxy")?;
    let name =
        version(haproxy, "-v").split(['-', '+']).next().unwrap_or_default().replace("HAProxy version", "HAProxy");
    let essentials = "2 threads, http-reuse always, the same five headers, no log";
    Proxy::new(name, essentials, process, clear, secure)
}

impl Site<'_> {
    fn secure_address(&self) -> io::Result<Option<(SocketAddr, Certificate)>> {
        self.certificate.map(|certificate| Ok((free_address()?, certificate.clone()))).transpose()
    }
}

impl Proxy {
    fn new(
        name: String,
        essentials: &'static str,
        mut process: Running,
        clear: SocketAddr,
        secure: Option<(SocketAddr, Certificate)>,
    ) -> anyhow::Result<Proxy> {
        process.wait_for(|| answers(clear)).with_context(|| format!("{name} does not answer"))?;
        Ok(Proxy { name, essentials, process, clear, secure })
    }

    /// Where it listens with TLS.
    pub(super) fn secure(&self) -> anyhow::Result<&(SocketAddr, Certificate)> {
        self.secure.as_ref().context("no TLS")
    }
}

fn answers(address: SocketAddr) -> bool {
    let ask = || -> io::Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(1))?;
        stream.set_read_timeout(Some(Duration::from_secs(1)))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).map(|_| answer)
    };
    ask().is_ok_and(|answer| answer.starts_with(b"HTTP/1.1 200"))
}

fn free_address() -> io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
