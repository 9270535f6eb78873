//! A client that sends exactly the bytes it is given, over TCP or a unix socket, in clear or over TLS, and reads
//! answers strictly.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustls::ClientConnection;
use rustls::pki_types::CertificateDer;
use socket2::{Domain, SockAddr, Socket, Type};

use super::trust::Trust;
use super::{DEADLINE, must, pace};

/// Where to connect to or to listen on.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

impl Target {
    /// A socket of the right kind for it, and its address.
    pub(crate) fn socket(&self) -> std::io::Result<(Socket, SockAddr)> {
        let (domain, address) = match self {
            Target::Tcp(address) => (Domain::for_address(*address), SockAddr::from(*address)),
            Target::Unix(path) => (Domain::UNIX, SockAddr::unix(path)?),
        };
        Ok((Socket::new(domain, Type::STREAM, None)?, address))
    }
}

impl From<SocketAddr> for Target {
    fn from(address: SocketAddr) -> Target {
        Target::Tcp(address)
    }
}

impl From<PathBuf> for Target {
    fn from(path: PathBuf) -> Target {
        Target::Unix(path)
    }
}

impl From<&Path> for Target {
    fn from(path: &Path) -> Target {
        Target::Unix(path.to_owned())
    }
}

impl From<&Target> for Target {
    fn from(target: &Target) -> Target {
        target.clone()
    }
}

/// Why no answer could be read. Each holds what had been read of it.
#[derive(Debug)]
pub(crate) enum Failure {
    Connect(std::io::Error),
    Send(std::io::Error),
    Timeout(Vec<u8>),
    Closed(Vec<u8>),
    Reset(Vec<u8>),
    Malformed(String),
    /// A connection or stream of HTTP/2 ended so.
    Http2(h2::Error),
}

impl fmt::Display for Failure {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(why) => write!(to, "cannot connect: {why}"),
            Failure::Send(why) => write!(to, "cannot send: {why}"),
            Failure::Timeout(read) => write!(to, "timed out after {}", shown(read)),
            Failure::Closed(read) => write!(to, "closed after {}", shown(read)),
            Failure::Reset(read) => write!(to, "reset after {}", shown(read)),
            Failure::Malformed(why) => write!(to, "malformed: {why}"),
            Failure::Http2(why) => write!(to, "HTTP/2: {why}"),
        }
    }
}

/// Bytes for people, at most 300 of them.
pub(crate) fn shown(bytes: &[u8]) -> String {
    let cut = &bytes[..bytes.len().min(300)];
    format!("{} bytes \"{}\"{}", bytes.len(), cut.escape_ascii(), if cut.len() < bytes.len() { ".." } else { "" })
}

/// Header fields in their order, names as they came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fields(pub(crate) Vec<(String, Vec<u8>)>);

impl Fields {
    /// The bytes of every field of this name.
    pub(crate) fn all(&self, name: &str) -> Vec<&[u8]> {
        self.0.iter().filter(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_slice()).collect()
    }

    /// The first field of this name as text; none when there is none or it is not UTF-8.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// The head of an answer.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    /// `HTTP/1.1` or `HTTP/1.0`.
    pub(crate) version: String,
    pub(crate) status: u16,
    pub(crate) fields: Fields,
    /// As it came, with the empty line.
    pub(crate) raw: Vec<u8>,
}

/// How the end of a body is found (RFC 9112, section 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// There is none.
    Empty,
    Sized(u64),
    Chunked,
    UntilClose,
}

/// A whole answer.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: Head,
    /// The 1xx answers before it.
    pub(crate) interim: Vec<Head>,
    pub(crate) framing: Framing,
    /// Without the chunks' sizes.
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
}

impl Response {
    /// A header's text, if there is such a header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.fields.get(name)
    }

    /// The color that answered.
    pub(crate) fn color(&self) -> Option<&str> {
        self.header("x-color")
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        must(format_args!("no JSON in {}", shown(&self.body)), serde_json::from_slice(&self.body))
    }

    /// Whether the connection goes on after it.
    pub(crate) fn keeps_alive(&self) -> bool {
        let options = self.header("connection").unwrap_or_default().to_ascii_lowercase();
        self.framing != Framing::UntilClose
            && if self.head.version == "HTTP/1.0" { options.contains("keep-alive") } else { !options.contains("close") }
    }
}

/// A body that is being read.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) framing: Framing,
    left: u64,
    done: bool,
    pub(crate) trailers: Fields,
}

/// What came until the connection ended.
#[derive(Debug)]
pub(crate) struct Rest {
    pub(crate) bytes: Vec<u8>,
    /// Ended by a reset, not by an orderly close.
    pub(crate) reset: bool,
}

/// A request with `Host` and, when there is a body, `Content-Length`, unless `headers` has its own.
pub(crate) fn request(method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let has = |name: &str| headers.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    let mut head = format!("{method} {target} HTTP/1.1\r\n");
    if !has("host") {
        head += "Host: test\r\n";
    }
    if !body.is_empty() && !has("content-length") && !has("transfer-encoding") {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    [head.as_bytes(), b"\r\n", body].concat()
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Raw {
    socket: Socket,
    tls: Option<Box<ClientConnection>>,
    /// Read from the socket and not yet by the test.
    buffer: BytesMut,
    deadline: Duration,
}

impl Raw {
    #[track_caller]
    pub(crate) fn connect(to: impl Into<Target>) -> Raw {
        let to = to.into();
        must(format_args!("{to:?}"), Raw::try_connect(&to))
    }

    pub(crate) fn try_connect(to: impl Into<Target>) -> Result<Raw, Failure> {
        Raw::connect_with(to, |_| Ok(()))
    }

    /// A client that takes little at once: what it does not read soon stops the sender.
    #[track_caller]
    pub(crate) fn connect_narrow(to: impl Into<Target>) -> Raw {
        // Before connecting, or the larger window has been promised already.
        must("a narrow client", Raw::connect_with(to, |socket| socket.set_recv_buffer_size(4096)))
    }

    /// A client that comes from this address, such as `127.0.0.2`.
    #[track_caller]
    pub(crate) fn connect_from(source: IpAddr, to: impl Into<Target>) -> Raw {
        must("a client from there", Raw::try_connect_from(source, to))
    }

    pub(crate) fn try_connect_from(source: IpAddr, to: impl Into<Target>) -> Result<Raw, Failure> {
        let source = SockAddr::from(SocketAddr::new(source, 0));
        Raw::connect_with(to, |socket| socket.bind(&source))
    }

    /// Over TLS, in HTTP/1.1.
    #[track_caller]
    pub(crate) fn connect_tls(to: impl Into<Target>, trust: &Trust) -> Raw {
        let to = to.into();
        must(format_args!("{to:?}"), Raw::try_connect_tls(&to, trust))
    }

    pub(crate) fn try_connect_tls(to: impl Into<Target>, trust: &Trust) -> Result<Raw, Failure> {
        Raw::try_handshake(to, trust, &["http/1.1"])
    }

    /// The same, of a client that wants to speak one of these protocols.
    pub(crate) fn try_handshake(to: impl Into<Target>, trust: &Trust, protocols: &[&str]) -> Result<Raw, Failure> {
        let mut raw = Raw::try_connect(to)?;
        let tls = ClientConnection::new(trust.config(protocols), trust.name.clone());
        let mut tls = tls.map_err(|why| Failure::Connect(std::io::Error::other(why)))?;
        raw.socket.set_read_timeout(Some(DEADLINE)).map_err(Failure::Connect)?;
        tls.complete_io(&mut raw.socket).map_err(Failure::Connect)?;
        raw.tls = Some(Box::new(tls));
        Ok(raw)
    }

    /// The certificate that the server has shown, over TLS.
    pub(crate) fn server_certificate(&self) -> Option<CertificateDer<'static>> {
        let shown = self.tls.as_ref()?.peer_certificates()?;
        shown.first().map(|first| first.clone().into_owned())
    }

    /// The parameters of its TLS, such as `TLSv1_3`.
    pub(crate) fn tls(&self) -> Option<&ClientConnection> {
        self.tls.as_deref()
    }

    fn connect_with(
        to: impl Into<Target>,
        prepare: impl FnOnce(&Socket) -> std::io::Result<()>,
    ) -> Result<Raw, Failure> {
        let to = to.into();
        let connect = || {
            let (socket, address) = to.socket()?;
            prepare(&socket)?;
            socket.set_write_timeout(Some(DEADLINE))?;
            match to {
                Target::Tcp(_) => {
                    // What is sent in pieces shall arrive in pieces.
                    socket.set_tcp_nodelay(true)?;
                    socket.connect_timeout(&address, DEADLINE)?;
                }
                Target::Unix(_) => socket.connect(&address)?,
            }
            Ok(socket)
        };
        let socket = connect().map_err(Failure::Connect)?;
        Ok(Raw { socket, tls: None, buffer: BytesMut::new(), deadline: DEADLINE })
    }

    /// One GET on a connection of its own.
    #[track_caller]
    pub(crate) fn get(to: impl Into<Target>, path: &str) -> Response {
        let to = to.into();
        must(format_args!("GET {path} from {to:?}"), Raw::try_get(&to, path))
    }

    pub(crate) fn try_get(to: impl Into<Target>, path: &str) -> Result<Response, Failure> {
        Raw::try_ask(to, &request("GET", path, &[("Connection", "close")], b""))
    }

    /// One exchange on a connection of its own.
    #[track_caller]
    pub(crate) fn ask(to: impl Into<Target>, request: &[u8]) -> Response {
        must(format_args!("no answer to {}", shown(request)), Raw::try_ask(to, request))
    }

    pub(crate) fn try_ask(to: impl Into<Target>, request: &[u8]) -> Result<Response, Failure> {
        let mut raw = Raw::try_connect(to)?;
        raw.try_send(request)?;
        if request.starts_with(b"HEAD ") { raw.try_response_to_head() } else { raw.try_response() }
    }

    /// How long one answer may take.
    pub(crate) fn deadline(mut self, deadline: Duration) -> Raw {
        self.deadline = deadline;
        self
    }

    // === sending ===

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) -> &mut Raw {
        must("nothing sent", self.try_send(bytes));
        self
    }

    /// Sends what the other side takes; it may well have closed already.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> Result<(), Failure> {
        let sent = match &mut self.tls {
            None => self.socket.write_all(bytes.as_ref()),
            Some(tls) => {
                let mut stream = rustls::Stream::new(&mut **tls, &mut self.socket);
                stream.write_all(bytes.as_ref()).and_then(|()| stream.flush())
            }
        };
        sent.map_err(Failure::Send)
    }

    /// Sends up to `most` bytes until the other side takes no more for a moment; how many it took.
    #[track_caller]
    pub(crate) fn send_what_is_taken(&mut self, most: usize) -> usize {
        let moment = Duration::from_millis(150);
        self.socket.set_write_timeout(Some(moment)).expect("a connection");
        let mut sent = 0;
        while sent < most {
            match self.socket.write(&[b'x'; 16 * 1024]) {
                Ok(count) => sent += count,
                Err(why) if why.kind() == ErrorKind::WouldBlock => break,
                Err(why) => panic!("after {sent} bytes: {why}"),
            }
        }
        self.socket.set_write_timeout(Some(DEADLINE)).expect("a connection");
        sent
    }

    /// Whether nothing came within a moment: no byte, no end.
    pub(crate) fn hears_nothing(&mut self) -> bool {
        matches!(self.fill(Instant::now() + Duration::from_millis(100)), Err(Failure::Timeout(_)))
    }

    /// Sends `size` bytes at a time, with a pause between them so that each arrives alone.
    #[track_caller]
    pub(crate) fn send_slowly(&mut self, bytes: impl AsRef<[u8]>, size: usize, pause: Duration) -> &mut Raw {
        for piece in bytes.as_ref().chunks(size) {
            self.send(piece);
            pace(pause);
        }
        self
    }

    /// Says that nothing more will be sent, and goes on reading.
    pub(crate) fn finish_sending(&mut self) -> &mut Raw {
        if let Some(tls) = &mut self.tls {
            tls.send_close_notify();
            tls.complete_io(&mut self.socket).expect("a connection");
        }
        match self.socket.shutdown(Shutdown::Write) {
            // The other side has refused all of it already, by a reset.
            Err(error) if error.kind() == ErrorKind::NotConnected => {}
            ended => ended.expect("a connection"),
        }
        self
    }

    /// Goes away with a reset (over TCP; a unix socket resets when something unread is left).
    pub(crate) fn reset(self) {
        self.socket.set_linger(Some(Duration::ZERO)).expect("a connection");
    }

    /// The connection alone, open and silent from now on.
    pub(crate) fn into_socket(self) -> Socket {
        self.socket
    }

    /// The address the other side sees.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.socket.local_addr().expect("a connection").as_socket().expect("a TCP connection")
    }

    // === reading ===

    /// The next answer.
    #[track_caller]
    pub(crate) fn response(&mut self) -> Response {
        must("no answer", self.try_response())
    }

    pub(crate) fn try_response(&mut self) -> Result<Response, Failure> {
        self.read_response(false)
    }

    /// The next answer, to a HEAD: it has no body whatever its headers say.
    pub(crate) fn try_response_to_head(&mut self) -> Result<Response, Failure> {
        self.read_response(true)
    }

    fn read_response(&mut self, to_head: bool) -> Result<Response, Failure> {
        let end = Instant::now() + self.deadline;
        let mut interim = Vec::new();
        let head = loop {
            let head = self.read_head(end)?;
            if (100..200).contains(&head.status) && head.status != 101 { interim.push(head) } else { break head }
        };
        let mut reading = Body::of(&head, to_head)?;
        let mut body = Vec::new();
        while let Some(piece) = self.next_piece(&mut reading, end)? {
            body.extend_from_slice(&piece);
        }
        let Body { framing, trailers, .. } = reading;
        Ok(Response { status: head.status, head, interim, framing, body, trailers })
    }

    /// The next head alone (also a 1xx), and the body to read piece by piece with [`Raw::piece`].
    #[track_caller]
    pub(crate) fn head(&mut self) -> (Head, Body) {
        let head = must("no head", self.read_head(Instant::now() + self.deadline));
        let body = must("no body", Body::of(&head, false));
        (head, body)
    }

    /// Some more of a body as soon as there is some; none at its end.
    pub(crate) fn piece(&mut self, body: &mut Body) -> Result<Option<Vec<u8>>, Failure> {
        self.next_piece(body, Instant::now() + self.deadline)
    }

    /// So many bytes, whatever they are: of a tunnel.
    #[track_caller]
    pub(crate) fn exactly(&mut self, count: usize) -> Vec<u8> {
        let end = Instant::now() + self.deadline;
        while self.buffer.len() < count {
            let came = must(format_args!("{count} bytes"), self.fill(end));
            assert!(came > 0, "ended after {}", shown(&self.buffer));
        }
        self.buffer.split_to(count).to_vec()
    }

    /// All bytes until the other side ends the connection.
    #[track_caller]
    pub(crate) fn rest(&mut self) -> Rest {
        let end = Instant::now() + self.deadline;
        let reset = loop {
            match self.fill(end) {
                Ok(0) => break false,
                Ok(_) => {}
                Err(Failure::Reset(_)) => break true,
                Err(why) => panic!("the connection did not end: {why}"),
            }
        };
        Rest { bytes: self.buffer.split().to_vec(), reset }
    }

    fn read_head(&mut self, end: Instant) -> Result<Head, Failure> {
        let length = self.fill_until(b"\r\n\r\n", end)? + 4;
        parse_head(&self.buffer.split_to(length))
    }

    fn next_piece(&mut self, body: &mut Body, end: Instant) -> Result<Option<Vec<u8>>, Failure> {
        if body.done {
            return Ok(None);
        }
        if body.framing == Framing::Chunked && body.left == 0 {
            let line = self.read_line(end)?;
            body.left = u64::from_str_radix(line.split(';').next().unwrap_or_default().trim(), 16)
                .map_err(|_| Failure::Malformed(format!("chunk size {line:?}")))?;
            if body.left == 0 {
                body.trailers = self.read_trailers(end)?;
                body.done = true;
                return Ok(None);
            }
        }
        if self.buffer.is_empty() && self.fill(end)? == 0 {
            if body.framing != Framing::UntilClose {
                return Err(Failure::Closed(format!("a body with {} bytes left", body.left).into_bytes()));
            }
            body.done = true;
            return Ok(None);
        }
        let take = self.buffer.len().min(usize::try_from(body.left).unwrap_or(usize::MAX));
        let piece = self.buffer.split_to(take).to_vec();
        if body.framing != Framing::UntilClose {
            body.left -= take as u64;
        }
        if body.framing == Framing::Chunked && body.left == 0 && !self.read_line(end)?.is_empty() {
            return Err(Failure::Malformed("a chunk longer than its size".into()));
        }
        body.done = body.left == 0 && body.framing != Framing::Chunked;
        Ok(Some(piece))
    }

    fn read_trailers(&mut self, end: Instant) -> Result<Fields, Failure> {
        let mut fields = Vec::new();
        loop {
            let line = self.read_line(end)?;
            if line.is_empty() {
                return Ok(Fields(fields));
            }
            fields.push(parse_field(line.as_bytes())?);
        }
    }

    fn read_line(&mut self, end: Instant) -> Result<String, Failure> {
        let length = self.fill_until(b"\r\n", end)?;
        let line = self.buffer.split_to(length + 2);
        Ok(String::from_utf8_lossy(&line[..length]).into_owned())
    }

    /// Reads until the buffer holds `mark`; returns where.
    fn fill_until(&mut self, mark: &[u8], end: Instant) -> Result<usize, Failure> {
        let mut searched = 0;
        loop {
            if let Some(at) = self.buffer[searched..].windows(mark.len()).position(|window| window == mark) {
                return Ok(searched + at);
            }
            searched = self.buffer.len().saturating_sub(mark.len() - 1);
            if self.fill(end)? == 0 {
                return Err(Failure::Closed(self.buffer.to_vec()));
            }
        }
    }

    /// One read from the socket; 0 is its end.
    fn fill(&mut self, end: Instant) -> Result<usize, Failure> {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Failure::Timeout(self.buffer.to_vec()));
        }
        self.socket.set_read_timeout(Some(left)).map_err(Failure::Connect)?;
        let mut block = [0; 16 * 1024];
        loop {
            let read = match &mut self.tls {
                None => self.socket.read(&mut block),
                Some(tls) => rustls::Stream::new(&mut **tls, &mut self.socket).read(&mut block),
            };
            return match read {
                Ok(count) => {
                    self.buffer.extend_from_slice(&block[..count]);
                    Ok(count)
                }
                Err(why) if why.kind() == ErrorKind::Interrupted => continue,
                Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    Err(Failure::Timeout(self.buffer.to_vec()))
                }
                // Somebody in between could have cut it there.
                Err(why) if why.kind() == ErrorKind::UnexpectedEof => {
                    Err(Failure::Malformed(format!("the end of TLS is missing after {}", shown(&self.buffer))))
                }
                Err(_) => Err(Failure::Reset(self.buffer.to_vec())),
            };
        }
    }
}

impl Body {
    fn of(head: &Head, to_head: bool) -> Result<Body, Failure> {
        let framing = framing(head, to_head)?;
        let left = match framing {
            Framing::Sized(length) => length,
            Framing::UntilClose => u64::MAX,
            Framing::Empty | Framing::Chunked => 0,
        };
        let done = matches!(framing, Framing::Empty | Framing::Sized(0));
        Ok(Body { framing, left, done, trailers: Fields::default() })
    }
}

fn framing(head: &Head, to_head: bool) -> Result<Framing, Failure> {
    let coding = head.fields.all("transfer-encoding");
    let lengths = head.fields.all("content-length");
    if !coding.is_empty() && !lengths.is_empty() {
        return Err(Failure::Malformed("Content-Length beside Transfer-Encoding".into()));
    }
    if lengths.len() > 1 {
        return Err(Failure::Malformed(format!("{} Content-Length fields", lengths.len())));
    }
    if to_head || head.status < 200 || matches!(head.status, 204 | 304) {
        return Ok(Framing::Empty);
    }
    if let Some(coding) = coding.first() {
        return match coding.eq_ignore_ascii_case(b"chunked") {
            true => Ok(Framing::Chunked),
            false => Err(Failure::Malformed(format!("Transfer-Encoding {}", shown(coding)))),
        };
    }
    let Some(length) = lengths.first() else { return Ok(Framing::UntilClose) };
    let length = std::str::from_utf8(length).ok().and_then(|text| text.parse().ok());
    length.map(Framing::Sized).ok_or_else(|| Failure::Malformed("Content-Length is no number".into()))
}

fn parse_head(raw: &[u8]) -> Result<Head, Failure> {
    let malformed = || Failure::Malformed(format!("head {}", shown(raw)));
    let mut lines =
        raw[..raw.len() - 4].split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let start = String::from_utf8_lossy(lines.next().unwrap_or_default()).into_owned();
    let (version, rest) = start.split_once(' ').ok_or_else(malformed)?;
    let status = rest.get(..3).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    if !matches!(version, "HTTP/1.1" | "HTTP/1.0") {
        return Err(malformed());
    }
    let fields = lines.map(parse_field).collect::<Result<_, _>>()?;
    Ok(Head { version: version.to_owned(), status, fields: Fields(fields), raw: raw.to_vec() })
}

fn parse_field(line: &[u8]) -> Result<(String, Vec<u8>), Failure> {
    let malformed = || Failure::Malformed(format!("header line {}", shown(line)));
    let colon = line.iter().position(|byte| *byte == b':').ok_or_else(malformed)?;
    let name = std::str::from_utf8(&line[..colon]).map_err(|_| malformed())?;
    if name.is_empty() || name.contains([' ', '\t']) {
        return Err(malformed());
    }
    Ok((name.to_owned(), line[colon + 1..].trim_ascii().to_vec()))
}
