//! A backend that speaks HTTP/2 in clear: what it does with a request stands in the request's path.
//!
//! | path | it |
//! |---|---|
//! | `/echo` | answers at once and sends back what comes, trailers too |
//! | `/early` | answers, whole, without having read the body |
//! | `/hold` | answers after [`H2c::go`] |
//! | `/never` | does not answer |
//! | `/ask` | asks for the body (100), then answers with it |
//! | `/hints` | sends a 103 first |
//! | `/trailers` | answers with the trailer `grpc-status: 0` |
//! | `/refuse` | refuses the stream (REFUSED_STREAM), the first time |
//! | `/reset` | resets the stream (INTERNAL_ERROR) |
//! | `/half` | answers half, and resets the stream after [`H2c::go`] |
//! | `/big` | answers 4 MiB |
//! | `/end` | ends an answer to HEAD by an empty frame, as some do |
//! | any other | reads the body and answers with its color |
//!
//! Dropping it is a `kill -9`: connections end, the socket file stays.

use std::future::poll_fn;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use bytes::Bytes;
use h2::server::{Builder, Connection, SendResponse};
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{oneshot, watch};

use super::{DEADLINE, wait_for};

/// An HTTP/2 backend.
pub(crate) struct H2c {
    path: PathBuf,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What is special about one.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Manner {
    /// Streams at once on one connection; as many as anybody likes unless given.
    pub(crate) streams: Option<u32>,
    /// Connections begin with a PROXY protocol header.
    pub(crate) proxy: bool,
    /// This many connections are closed at once, before all others.
    pub(crate) drops: usize,
    /// This many connections take one request and say (GOAWAY) that they did not.
    pub(crate) disowns: usize,
}

/// What came on one stream.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// The number of its connection, from 0.
    pub(crate) connection: usize,
    pub(crate) line: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Option<HeaderMap>,
    /// How the other side reset it.
    pub(crate) reset: Option<Reason>,
}

struct Shared {
    color: String,
    manner: Manner,
    asked: Mutex<Vec<Asked>>,
    /// The PROXY protocol header of each connection; empty where there is none.
    connections: Mutex<Vec<Vec<u8>>>,
    open: Mutex<usize>,
    go: watch::Sender<bool>,
    /// How often connections were told to say GOAWAY.
    leave: watch::Sender<usize>,
}

impl H2c {
    /// A backend of this color.
    pub(crate) fn color(at: impl AsRef<Path>, color: &str) -> H2c {
        H2c::with(at, color, Manner::default())
    }

    /// The same, with something special.
    pub(crate) fn with(at: impl AsRef<Path>, color: &str, manner: Manner) -> H2c {
        let path = at.as_ref().to_owned();
        let _ = std::fs::remove_file(&path);
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let shared = Arc::new(Shared {
            color: color.to_owned(),
            manner,
            asked: Mutex::default(),
            connections: Mutex::default(),
            open: Mutex::default(),
            go: watch::Sender::new(false),
            leave: watch::Sender::new(0),
        });
        let (stop, stopped) = oneshot::channel();
        let serving = shared.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let listener = UnixListener::from_std(listener).expect("a socket");
                tokio::select! {
                    () = accept(&listener, &serving) => {}
                    _ = stopped => {}
                }
            });
        });
        H2c { path, shared, stop: Some(stop), thread: Some(thread) }
    }

    /// Where it listens, as `backends.COLOR` wants it.
    pub(crate) fn backend(&self) -> serde_json::Value {
        serde_json::json!({
            "socket": self.path.to_str().expect("a readable path"),
            "protocol": "h2c",
            "send_proxy": self.shared.manner.proxy,
        })
    }

    /// Lets `/hold` answer.
    pub(crate) fn go(&self) {
        self.shared.go.send_replace(true);
    }

    /// Every connection says GOAWAY, finishes what it has, and ends.
    pub(crate) fn leave(&self) {
        self.shared.leave.send_modify(|times| *times += 1);
    }

    /// What it was asked, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panic").clone()
    }

    /// The connections there were: what each began with.
    pub(crate) fn connections(&self) -> Vec<Vec<u8>> {
        self.shared.connections.lock().expect("no panic").clone()
    }

    /// The connections there are.
    pub(crate) fn open(&self) -> usize {
        *self.shared.open.lock().expect("no panic")
    }

    /// Waits until what it was asked is as `wanted`.
    #[track_caller]
    pub(crate) fn wait_asked(&self, what: &str, wanted: impl Fn(&[Asked]) -> bool) -> Vec<Asked> {
        wait_for(what, DEADLINE, || {
            let asked = self.asked();
            if wanted(&asked) { Ok(asked) } else { Err(format!("{asked:?}")) }
        })
    }
}

impl Drop for H2c {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: &UnixListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept().await {
        let shared = shared.clone();
        let number = {
            let mut connections = shared.connections.lock().expect("no panic");
            connections.push(Vec::new());
            connections.len() - 1
        };
        tokio::spawn(async move {
            *shared.open.lock().expect("no panic") += 1;
            let _ended = speak(&shared, stream, number).await;
            *shared.open.lock().expect("no panic") -= 1;
        });
    }
}

async fn speak(shared: &Arc<Shared>, mut stream: UnixStream, number: usize) -> Option<()> {
    if shared.manner.proxy {
        let mut header = vec![0; 16];
        stream.read_exact(&mut header).await.ok()?;
        let mut rest = vec![0; usize::from(u16::from_be_bytes([header[14], header[15]]))];
        stream.read_exact(&mut rest).await.ok()?;
        header.append(&mut rest);
        shared.connections.lock().expect("no panic")[number] = header;
    }
    if number < shared.manner.drops {
        return None;
    }
    if number < shared.manner.disowns {
        return disown(stream).await;
    }
    let mut builder = Builder::new();
    if let Some(streams) = shared.manner.streams {
        builder.max_concurrent_streams(streams);
    }
    let mut connection: Connection<UnixStream, Bytes> = builder.handshake(stream).await.ok()?;
    let mut leave = shared.leave.subscribe();
    loop {
        tokio::select! {
            _ = leave.changed() => connection.graceful_shutdown(),
            accepted = connection.accept() => {
                let (request, respond) = accepted?.ok()?;
                let index = note(shared, number, &request);
                tokio::spawn(answer(shared.clone(), index, request, respond));
            }
        }
    }
}

/// Takes a request and says that it did not: GOAWAY with 0 as the last stream.
async fn disown(mut stream: UnixStream) -> Option<()> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: [u8; 17] = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.ok()?;
    stream.write_all(&SETTINGS).await.ok()?;
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        stream.read_exact(&mut payload).await.ok()?;
        if head[3] == HEADERS {
            stream.write_all(&GOAWAY).await.ok()?;
        }
    }
}

fn note(shared: &Shared, connection: usize, request: &Request<RecvStream>) -> usize {
    let mut asked = shared.asked.lock().expect("no panic");
    asked.push(Asked {
        connection,
        line: format!("{} {}", request.method(), request.uri()),
        headers: request.headers().clone(),
        body: Vec::new(),
        trailers: None,
        reset: None,
    });
    asked.len() - 1
}

impl Shared {
    fn change(&self, index: usize, change: impl FnOnce(&mut Asked)) {
        change(&mut self.asked.lock().expect("no panic")[index]);
    }

    fn head(&self) -> Response<()> {
        let color = HeaderValue::from_str(&self.color).expect("a color");
        Response::builder().header("x-color", color).body(()).expect("a head")
    }
}

async fn answer(shared: Arc<Shared>, index: usize, request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut body = request.into_body();
    let done = match path.as_str() {
        "/never" | "/hold" => wait(&shared, index, &mut respond, path == "/hold").await,
        "/echo" => echo(&shared, index, &mut body, &mut respond).await,
        "/early" => all(&shared, &mut respond, "early"),
        "/refuse"
            if shared.asked.lock().expect("no panic").iter().filter(|a| a.line.ends_with("/refuse")).count() == 1 =>
        {
            respond.send_reset(Reason::REFUSED_STREAM);
            Ok(())
        }
        "/reset" => {
            respond.send_reset(Reason::INTERNAL_ERROR);
            Ok(())
        }
        "/half" => half(&shared, &mut respond).await,
        "/end" => end(&shared, &mut respond),
        "/big" => big(&shared, &mut respond).await,
        "/trailers" => trailers(&shared, &mut respond),
        path => {
            let interim = |status: u16| Response::builder().status(status).body(()).expect("a head");
            let asked = match path {
                "/ask" => respond.send_informational(interim(100)),
                "/hints" => respond.send_informational(interim(103)),
                _ => Ok(()),
            };
            match asked.and(read(&shared, index, &mut body).await) {
                Ok(()) if method == Method::HEAD => {
                    let mut head = shared.head();
                    head.headers_mut().insert("content-length", HeaderValue::from(shared.color.len() + 1));
                    respond.send_response(head, true).map(drop)
                }
                Ok(()) => {
                    let text = format!("{}\n", shared.color);
                    all(&shared, &mut respond, &text)
                }
                Err(error) => Err(error),
            }
        }
    };
    if let Err(error) = done
        && error.is_reset()
        && error.is_remote()
    {
        shared.change(index, |asked| asked.reset = error.reason());
    }
}

/// Reads to the end.
async fn read(shared: &Shared, index: usize, body: &mut RecvStream) -> Result<(), h2::Error> {
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        shared.change(index, |asked| asked.body.extend_from_slice(&data));
    }
    let trailers = body.trailers().await?;
    shared.change(index, |asked| asked.trailers = trailers);
    Ok(())
}

fn all(shared: &Shared, respond: &mut SendResponse<Bytes>, text: &str) -> Result<(), h2::Error> {
    let mut head = shared.head();
    head.headers_mut().insert("content-length", HeaderValue::from(text.len()));
    respond.send_response(head, false)?.send_data(Bytes::copy_from_slice(text.as_bytes()), true)
}

/// Waits for the word to answer, or for the other side to lose interest.
async fn wait(shared: &Shared, index: usize, respond: &mut SendResponse<Bytes>, holds: bool) -> Result<(), h2::Error> {
    let mut go = shared.go.subscribe();
    tokio::select! {
        reset = poll_fn(|cx| respond.poll_reset(cx)) => {
            let reset = reset?;
            shared.change(index, |asked| asked.reset = Some(reset));
            return Ok(());
        }
        _ = go.wait_for(|go| *go && holds) => {}
    }
    let text = format!("{}\n", shared.color);
    all(shared, respond, &text)
}

async fn echo(
    shared: &Shared,
    index: usize,
    body: &mut RecvStream,
    respond: &mut SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(shared.head(), false)?;
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        shared.change(index, |asked| asked.body.extend_from_slice(&data));
        send(&mut stream, data).await?;
    }
    let trailers = body.trailers().await?;
    shared.change(index, |asked| asked.trailers = trailers.clone());
    match trailers {
        Some(trailers) => stream.send_trailers(trailers),
        None => stream.send_data(Bytes::new(), true),
    }
}

/// Sends as fast as the other side takes it.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes) -> Result<(), h2::Error> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let granted = poll_fn(|cx| stream.poll_capacity(cx)).await.unwrap_or(Err(Reason::CANCEL.into()))?;
        stream.send_data(data.split_to(granted.min(data.len())), false)?;
    }
    Ok(())
}

async fn big(shared: &Shared, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(shared.head(), false)?;
    for _ in 0..64 {
        send(&mut stream, Bytes::from_static(&[b'x'; 64 * 1024])).await?;
    }
    stream.send_data(Bytes::new(), true)
}

async fn half(shared: &Shared, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut stream = respond.send_response(shared.head(), false)?;
    stream.send_data(Bytes::from_static(b"half"), false)?;
    let mut go = shared.go.subscribe();
    let _stopped = go.wait_for(|go| *go).await;
    stream.send_reset(Reason::INTERNAL_ERROR);
    Ok(())
}

fn end(shared: &Shared, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = shared.head();
    head.headers_mut().insert("content-length", HeaderValue::from(5));
    respond.send_response(head, false)?.send_data(Bytes::new(), true)
}

fn trailers(shared: &Shared, respond: &mut SendResponse<Bytes>) -> Result<(), h2::Error> {
    let mut head = shared.head();
    head.headers_mut().insert("trailer", HeaderValue::from_static("grpc-status"));
    let mut stream = respond.send_response(head, false)?;
    stream.send_data(Bytes::from_static(b"hello"), false)?;
    let trailers = HeaderMap::from_iter([("grpc-status".parse().expect("a name"), HeaderValue::from_static("0"))]);
    stream.send_trailers(trailers)
}
