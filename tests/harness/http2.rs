//! A client that speaks HTTP/2, over TLS or in clear by prior knowledge: requests, and tunnels (RFC 8441).

use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::ext::Protocol;
use h2::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::DEADLINE;
use super::raw::{Failure, Fields, Framing, Head, Response, Target};
use super::trust::Trust;

/// What a connection runs over.
trait Way: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Way for T {}

/// One connection; any number of requests at once.
pub(crate) struct Http2 {
    sender: SendRequest<Bytes>,
    driver: JoinHandle<Result<(), h2::Error>>,
}

/// What a test runs the client in: one thread, with a clock and sockets.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

impl Http2 {
    /// Connects, with `trust` over TLS, and begins to speak.
    pub(crate) async fn connect(to: &Target, trust: Option<&Trust>) -> Result<Http2, Failure> {
        let connecting = async {
            let way = connect(to, trust).await.map_err(Failure::Connect)?;
            h2::client::Builder::new().handshake::<_, Bytes>(way).await.map_err(Failure::Http2)
        };
        let (sender, connection) = within(connecting).await?;
        Ok(Http2 { sender, driver: tokio::spawn(connection) })
    }

    /// Whether the other side has ended the connection.
    pub(crate) fn has_ended(&self) -> bool {
        self.driver.is_finished()
    }

    /// Waits until the other side ends the connection; what it said.
    pub(crate) async fn end(&mut self) -> Result<(), h2::Error> {
        timeout(DEADLINE, &mut self.driver).await.expect("the connection's end in time").expect("no panic")
    }

    /// Sends a request and reads its answer to the end.
    pub(crate) async fn ask(&self, head: http::Request<()>, body: Vec<Bytes>) -> Result<Response, Failure> {
        let asking = async {
            let mut sender = self.sender.clone().ready().await.map_err(Failure::Http2)?;
            let (answer, stream) = sender.send_request(head, body.is_empty()).map_err(Failure::Http2)?;
            let mut answer = std::pin::pin!(answer);
            // An answer may come before the request has been sent, and ends the need to send it.
            let answer = tokio::select! {
                biased;
                answer = &mut answer => answer,
                sent = send(stream, body) => match sent {
                    Ok(()) => answer.await,
                    Err(why) => answer.await.map_err(|_| why),
                },
            };
            read(answer.map_err(Failure::Http2)?).await.map_err(Failure::Http2)
        };
        within(asking).await
    }

    /// A GET.
    pub(crate) async fn get(&self, url: &str) -> Result<Response, Failure> {
        self.ask(http::Request::get(url).body(()).expect("a request"), Vec::new()).await
    }

    /// Opens a tunnel for a websocket: the status, and where bytes go and come from.
    pub(crate) async fn websocket(&self, url: &str) -> Result<(u16, SendStream<Bytes>, RecvStream), Failure> {
        self.tunnel("websocket", url).await
    }

    /// Opens a tunnel for any protocol (an extended CONNECT).
    pub(crate) async fn tunnel(
        &self,
        protocol: &'static str,
        url: &str,
    ) -> Result<(u16, SendStream<Bytes>, RecvStream), Failure> {
        let asking = async {
            let mut sender = self.sender.clone().ready().await.map_err(Failure::Http2)?;
            // The setting comes with the server's first frame, which may be behind our own first one.
            while !sender.is_extended_connect_protocol_enabled() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            let head = http::Request::connect(url).header("sec-websocket-version", "13");
            let head = head.extension(Protocol::from_static(protocol)).body(()).expect("a request");
            let (answer, stream) = sender.send_request(head, false).map_err(Failure::Http2)?;
            let answer = answer.await.map_err(Failure::Http2)?;
            Ok((answer.status().as_u16(), stream, answer.into_body()))
        };
        within(asking).await
    }
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

async fn within<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    timeout(DEADLINE, work).await.unwrap_or(Err(Failure::Timeout(Vec::new())))
}

async fn connect(to: &Target, trust: Option<&Trust>) -> std::io::Result<Box<dyn Way>> {
    let way: Box<dyn Way> = match to {
        Target::Tcp(address) => {
            let socket = TcpStream::connect(address).await?;
            socket.set_nodelay(true)?;
            Box::new(socket)
        }
        Target::Unix(path) => Box::new(UnixStream::connect(path).await?),
    };
    let Some(trust) = trust else { return Ok(way) };
    let connector = tokio_rustls::TlsConnector::from(trust.config(&["h2"]));
    let tls = connector.connect(trust.name.clone(), way).await?;
    if tls.get_ref().1.alpn_protocol() != Some(b"h2") {
        return Err(std::io::Error::other("the server does not speak h2"));
    }
    Ok(Box::new(tls))
}

/// Sends a body, each piece when there is room for it.
pub(crate) async fn send(mut stream: SendStream<Bytes>, pieces: Vec<Bytes>) -> Result<(), h2::Error> {
    let count = pieces.len();
    for (number, mut piece) in pieces.into_iter().enumerate() {
        while !piece.is_empty() {
            let room = room(&mut stream, piece.len()).await?;
            let part = piece.split_to(room.min(piece.len()));
            stream.send_data(part, piece.is_empty() && number + 1 == count)?;
        }
    }
    Ok(())
}

/// Waits for room for some of so many bytes.
pub(crate) async fn room(stream: &mut SendStream<Bytes>, wanted: usize) -> Result<usize, h2::Error> {
    stream.reserve_capacity(wanted);
    loop {
        match poll_fn(|context| stream.poll_capacity(context)).await {
            Some(Ok(0)) => {}
            Some(room) => return room,
            None => return Err(h2::Error::from(h2::Reason::STREAM_CLOSED)),
        }
    }
}

/// The next bytes of a body; none at its end.
pub(crate) async fn piece(body: &mut RecvStream) -> Option<Result<Bytes, h2::Error>> {
    let piece = body.data().await;
    if let Some(Ok(piece)) = &piece {
        // The next bytes come when these have been taken; an error here is the stream's end, which is seen next.
        let _ended = body.flow_control().release_capacity(piece.len());
    }
    piece
}

async fn read(answer: http::Response<RecvStream>) -> Result<Response, h2::Error> {
    let (parts, mut stream) = answer.into_parts();
    let mut body = Vec::new();
    while let Some(piece) = piece(&mut stream).await {
        body.extend_from_slice(&piece?);
    }
    let trailers = stream.trailers().await?.as_ref().map(fields).unwrap_or_default();
    let status = parts.status.as_u16();
    let head = Head { version: "HTTP/2".into(), status, fields: fields(&parts.headers), raw: Vec::new() };
    // The frames say where it ends, and the client has held that against a Content-Length.
    let framing = Framing::Sized(body.len() as u64);
    Ok(Response { status, head, interim: Vec::new(), framing, body, trailers })
}

fn fields(map: &http::HeaderMap) -> Fields {
    Fields(map.iter().map(|(name, value)| (name.to_string(), value.as_bytes().to_vec())).collect())
}
