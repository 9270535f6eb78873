//! Backends that follow a script, to the byte, and remember every byte they were sent.
//!
//! The constructors are named after what the backend does; [`Fake::scripted`] is the general one. Dropping a fake is a
//! `kill -9`: connections end, the socket file stays.

use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;
use rustix::net::{RecvFlags, recv};
use socket2::Socket;

use super::raw::{Target, shown};
use super::strict::{self, Request};
use super::{DEADLINE, pace, wait_for, wait_until};

const BLOCK: usize = 16 * 1024;

/// One step of what a backend does with a connection. After the last one it closes.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Reads a whole request: its head and the body that its own headers announce.
    ReadRequest,
    /// Reads a PROXY protocol header (version 2).
    ReadProxy,
    /// Reads to the empty line after a head.
    ReadHead,
    /// Reads this many bytes.
    Read(usize),
    /// Reads until the other side has closed.
    Stay,
    /// Sends these bytes.
    Say(Vec<u8>),
    /// Answers 200 with the request line that was read last as the body.
    Echo,
    /// Sends these bytes one by one.
    SaySlowly(Vec<u8>, Duration),
    /// Sends bytes until the other side takes no more, or has closed.
    Flood,
    /// Says that nothing more will be sent; it can go on reading.
    FinishSending,
    /// Waits until there are bytes that it has not read: closing now is a reset, on a unix socket too.
    AwaitUnread,
    /// Waits for [`Fake::go`].
    AwaitGo,
    /// Plays what this says about the target of the request that was read last.
    Choose(Choice),
    /// Begins anew, for the next request on the connection.
    Repeat,
}

/// Acts that depend on a request's target.
#[derive(Clone)]
pub(crate) struct Choice(Arc<Choose>);

impl Choice {
    /// What this says of a target.
    pub(crate) fn new(choose: impl Fn(&str) -> Vec<Act> + Send + Sync + 'static) -> Choice {
        Choice(Arc::new(choose))
    }
}

type Choose = dyn Fn(&str) -> Vec<Act> + Send + Sync;

impl std::fmt::Debug for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Choice")
    }
}

/// A fake backend.
pub(crate) struct Fake {
    address: Target,
    listener: Arc<Socket>,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// What the threads of a fake share.
#[derive(Default)]
struct Shared {
    heard: Mutex<Vec<Heard>>,
    /// Weak: a connection must close when its thread lets go of it.
    open: Mutex<Vec<Weak<Socket>>>,
    go: AtomicBool,
    stop: AtomicBool,
}

/// What came over one connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Heard {
    /// Every byte, in order.
    pub(crate) bytes: Vec<u8>,
    /// How many heads or requests the script has read from them.
    pub(crate) requests: usize,
    /// How many bytes of a [`Act::Say`] or [`Act::Flood`] the other side took.
    pub(crate) said: u64,
    /// The connection has ended, or the script has.
    pub(crate) ended: bool,
}

/// A small complete answer.
pub(crate) fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// The same with the header that names a color.
pub(crate) fn of_color(color: &str, status: u16, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Some\r\nX-Color: {color}\r\nContent-Length: {length}\r\n\r\n{body}").into_bytes()
}

impl Fake {
    /// A whole backend: answers with its color's name; `/hold` only after [`Fake::go`], `/sse` with a stream of one
    /// event that ends after it.
    pub(crate) fn color(at: impl Into<Target>, color: &str) -> Fake {
        let color = color.to_owned();
        let choose = Choice::new(move |target| {
            let answer = Act::Say(of_color(&color, 200, &format!("{color}\n")));
            if target.starts_with("/hold") {
                return vec![Act::AwaitGo, answer];
            }
            if target.starts_with("/sse") {
                let head = "Content-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: 1\n\n\r\n";
                let said = format!("HTTP/1.1 200 OK\r\nX-Color: {color}\r\n{head}");
                return vec![Act::Say(said.into_bytes()), Act::AwaitGo, Act::Say(b"0\r\n\r\n".to_vec())];
            }
            vec![answer]
        });
        Fake::scripted(at, move |_| vec![Act::ReadRequest, Act::Choose(choose.clone()), Act::Repeat])
    }

    /// Does with the n-th connection (from 0) what `script(n)` says.
    pub(crate) fn scripted(at: impl Into<Target>, script: impl Fn(usize) -> Vec<Act> + Send + Sync + 'static) -> Fake {
        let (address, listener) = listen(at.into(), 128);
        Fake::over(address, listener, script)
    }

    /// Answers every request with these bytes.
    pub(crate) fn answers(at: impl Into<Target>, bytes: impl AsRef<[u8]>) -> Fake {
        let bytes = bytes.as_ref().to_vec();
        Fake::scripted(at, move |_| vec![Act::ReadRequest, Act::Say(bytes.clone()), Act::Repeat])
    }

    /// Answers one request per connection with these bytes, and closes: an idle connection goes stale, a body without
    /// a length ends.
    pub(crate) fn answers_then_closes(at: impl Into<Target>, bytes: impl AsRef<[u8]>) -> Fake {
        let bytes = bytes.as_ref().to_vec();
        Fake::scripted(at, move |_| vec![Act::ReadRequest, Act::Say(bytes.clone())])
    }

    /// Answers when it has read `count` bytes, and reads on: the rest of an upload is still under way.
    pub(crate) fn answers_after(at: impl Into<Target>, count: usize, bytes: impl AsRef<[u8]>) -> Fake {
        let bytes = bytes.as_ref().to_vec();
        Fake::scripted(at, move |_| vec![Act::Read(count), Act::Say(bytes.clone()), Act::Stay])
    }

    /// Answers every request with its own request line.
    pub(crate) fn echoes(at: impl Into<Target>) -> Fake {
        Fake::scripted(at, |_| vec![Act::ReadRequest, Act::Echo, Act::Repeat])
    }

    /// Accepts and closes.
    pub(crate) fn closes_without_reading(at: impl Into<Target>) -> Fake {
        Fake::scripted(at, |_| vec![])
    }

    /// Reads the whole request and closes in an orderly way: it may have acted on it.
    pub(crate) fn reads_then_closes(at: impl Into<Target>) -> Fake {
        Fake::scripted(at, |_| vec![Act::ReadRequest])
    }

    /// Reads `count` bytes and resets the connection; more than `count` must be sent.
    pub(crate) fn resets_after(at: impl Into<Target>, count: usize) -> Fake {
        Fake::scripted(at, move |_| vec![Act::Read(count), Act::AwaitUnread])
    }

    /// Reads the request and says nothing.
    pub(crate) fn never_answers(at: impl Into<Target>) -> Fake {
        Fake::scripted(at, |_| vec![Act::ReadRequest, Act::Stay])
    }

    /// Breaks off within the head.
    pub(crate) fn answers_half_a_head(at: impl Into<Target>) -> Fake {
        Fake::answers_then_closes(at, "HTTP/1.1 200 OK\r\nContent-Le")
    }

    /// Announces 100 bytes and breaks off after 50.
    pub(crate) fn answers_half_a_body(at: impl Into<Target>) -> Fake {
        Fake::answers_then_closes(at, format!("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", "x".repeat(50)))
    }

    /// Breaks off between two chunks.
    pub(crate) fn answers_half_a_chunked_body(at: impl Into<Target>) -> Fake {
        Fake::answers_then_closes(at, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
    }

    /// Says both `Content-Length` and `Transfer-Encoding`; the chunks are right.
    pub(crate) fn answers_with_both_lengths(at: impl Into<Target>) -> Fake {
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n";
        Fake::answers(at, format!("{head}5\r\nhello\r\n0\r\n\r\n"))
    }

    /// Two chunks, then the trailer `X-Checksum: 42`.
    pub(crate) fn answers_chunked_with_trailers(at: impl Into<Target>) -> Fake {
        let head = "HTTP/1.1 200 OK\r\nTrailer: X-Checksum\r\nTransfer-Encoding: chunked\r\n\r\n";
        Fake::answers(at, format!("{head}5\r\nhello\r\n6\r\n world\r\n0\r\nX-Checksum: 42\r\n\r\n"))
    }

    /// These 1xx heads first (as bytes), then a 200.
    pub(crate) fn answers_interim_first(at: impl Into<Target>, interim: &str) -> Fake {
        Fake::answers(at, [interim.as_bytes(), &ok("done")].concat())
    }

    /// Says 413 when it has seen the head, and then reads the upload, or closes on it.
    pub(crate) fn refuses_early(at: impl Into<Target>, reads_on: bool) -> Fake {
        let said =
            b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 8\r\nConnection: close\r\n\r\ntoo big\n".to_vec();
        let last = if reads_on { Act::Stay } else { Act::AwaitUnread };
        Fake::scripted(at, move |_| vec![Act::ReadHead, Act::Say(said.clone()), last.clone()])
    }

    /// Answers with these bytes, each alone.
    pub(crate) fn answers_byte_by_byte(at: impl Into<Target>, bytes: impl AsRef<[u8]>, pause: Duration) -> Fake {
        let bytes = bytes.as_ref().to_vec();
        Fake::scripted(at, move |_| vec![Act::ReadRequest, Act::SaySlowly(bytes.clone(), pause), Act::Repeat])
    }

    /// Where it listens, as `backends.COLOR` wants it.
    pub(crate) fn address(&self) -> String {
        match &self.address {
            Target::Unix(path) => path.display().to_string(),
            Target::Tcp(address) => address.to_string(),
        }
    }

    pub(crate) fn target(&self) -> Target {
        self.address.clone()
    }

    /// Lets every script go on that waits at [`Act::AwaitGo`], now and later.
    pub(crate) fn go(&self) {
        self.shared.go.store(true, Ordering::Release);
    }

    /// What it heard, one entry per connection in the order they came.
    pub(crate) fn heard(&self) -> Vec<Heard> {
        self.shared.heard.lock().expect("no panic").clone()
    }

    /// Waits for this many connections.
    #[track_caller]
    pub(crate) fn wait_connections(&self, count: usize) {
        wait_until(&format!("{count} connections"), DEADLINE, || self.heard().len() >= count);
    }

    /// Waits until this many requests have been read over all connections, and returns all there was to hear.
    #[track_caller]
    pub(crate) fn wait_requests(&self, count: usize) -> Vec<Heard> {
        wait_for(&format!("{count} requests"), DEADLINE, || {
            let heard = self.heard();
            let read: usize = heard.iter().map(|heard| heard.requests).sum();
            if read >= count { Ok(heard) } else { Err(format!("{read} requests")) }
        })
    }

    /// Waits until a request with this target has come.
    #[track_caller]
    pub(crate) fn wait_target(&self, target: &str) {
        let wanted = format!(" {target} HTTP/1.1\r\n").into_bytes();
        let holds = |heard: &Heard| heard.bytes.windows(wanted.len()).any(|window| window == wanted);
        wait_until(&format!("a request for {target}"), DEADLINE, || self.heard().iter().any(holds));
    }

    /// The whole requests it was sent, connection by connection; fails when they can be read in another way too.
    #[track_caller]
    pub(crate) fn requests(&self) -> Vec<Request> {
        let cut = |heard: Heard| super::must(shown(&heard.bytes), strict::cut(&heard.bytes)).requests;
        self.heard().into_iter().flat_map(cut).collect()
    }

    /// The bytes of the only connection; fails when there was another number of them.
    #[track_caller]
    pub(crate) fn only(&self) -> Vec<u8> {
        let heard = self.heard();
        assert_eq!(heard.len(), 1, "connections: {heard:?}");
        heard.into_iter().next().expect("one").bytes
    }

    fn over(address: Target, listener: Socket, script: impl Fn(usize) -> Vec<Act> + Send + Sync + 'static) -> Fake {
        let listener = Arc::new(listener);
        let shared = Arc::new(Shared::default());
        let accepting = {
            let (listener, shared) = (Arc::clone(&listener), Arc::clone(&shared));
            std::thread::spawn(move || accept(&listener, &shared, &script))
        };
        Fake { address, listener, shared, accepting: Some(accepting) }
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, heard) in self.heard().iter().enumerate() {
                eprintln!("{:?}, connection {number}: {}", self.address, shown(&heard.bytes));
            }
        }
        self.shared.stop.store(true, Ordering::Release);
        // Wakes the thread in accept().
        let _ = self.listener.shutdown(Shutdown::Both);
        if let Some(thread) = self.accepting.take() {
            let _ = thread.join();
        }
    }
}

/// A backend whose accept queue is full and who does not accept: connecting fails with EAGAIN.
pub(crate) struct Crowded {
    address: Target,
    listener: Socket,
    queue: Vec<Socket>,
}

impl Crowded {
    /// A unix socket with the shortest queue there is, filled up.
    pub(crate) fn at(at: impl Into<Target>) -> Crowded {
        let (address, listener) = listen(at.into(), 1);
        assert!(matches!(address, Target::Unix(_)), "over TCP a full queue is silence, not an errno");
        let mut queue = Vec::new();
        loop {
            let (socket, to) = address.socket().expect("a socket");
            socket.set_nonblocking(true).expect("a socket");
            match socket.connect(&to) {
                Ok(()) => queue.push(socket),
                Err(why) if why.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(why) => panic!("{address:?}: {why}"),
            }
        }
        Crowded { address, listener, queue }
    }

    pub(crate) fn target(&self) -> Target {
        self.address.clone()
    }

    /// Begins to accept. The first connections it hears are the empty ones that filled the queue.
    pub(crate) fn accepts(self, script: impl Fn(usize) -> Vec<Act> + Send + Sync + 'static) -> Fake {
        drop(self.queue);
        Fake::over(self.address, self.listener, script)
    }
}

/// A socket that listens there, in place of an old file; the address it really got.
fn listen(at: Target, backlog: i32) -> (Target, Socket) {
    if let Target::Unix(path) = &at {
        let _ = std::fs::remove_file(path);
    }
    let bind = || {
        let (socket, address) = at.socket()?;
        socket.bind(&address)?;
        socket.listen(backlog)?;
        Ok::<_, std::io::Error>(socket)
    };
    let socket = bind().unwrap_or_else(|why| panic!("cannot listen at {at:?}: {why}"));
    let taken = socket.local_addr().expect("an address").as_socket();
    (taken.map_or(at, Target::Tcp), socket)
}

fn accept(listener: &Socket, shared: &Arc<Shared>, script: &(impl Fn(usize) -> Vec<Act> + Sync)) {
    std::thread::scope(|scope| {
        while let Ok((socket, _)) = listener.accept() {
            if shared.stop.load(Ordering::Acquire) {
                break;
            }
            let socket = Arc::new(socket);
            shared.open.lock().expect("no panic").push(Arc::downgrade(&socket));
            let number = {
                let mut heard = shared.heard.lock().expect("no panic");
                heard.push(Heard::default());
                heard.len() - 1
            };
            scope.spawn(move || {
                let _ = Player { socket, shared, number, line: RefCell::default() }.play(&script(number));
                shared.heard.lock().expect("no panic")[number].ended = true;
            });
        }
        for socket in shared.open.lock().expect("no panic").iter().filter_map(Weak::upgrade) {
            let _ = socket.shutdown(Shutdown::Both);
        }
    });
}

/// One connection and its script. It reads no byte more than an act needs: a test may have planned what is left
/// unread, because that decides between an orderly close and a reset.
struct Player<'a> {
    socket: Arc<Socket>,
    shared: &'a Shared,
    number: usize,
    /// The request line read last.
    line: RefCell<String>,
}

impl Player<'_> {
    /// `None` from a step: the other side has closed, so there is nothing left to play.
    fn play(&self, acts: &[Act]) -> Option<()> {
        let mut next = acts.iter();
        while let Some(act) = next.next() {
            match act {
                Act::ReadRequest => self.read_request()?,
                Act::ReadProxy => self.read_proxy()?,
                Act::ReadHead => self.read_until(b"\r\n\r\n").map(drop)?,
                Act::Read(count) => self.read(*count)?,
                Act::Stay => while self.read_some(BLOCK).is_some() {},
                Act::Say(bytes) => {
                    for block in bytes.chunks(BLOCK) {
                        (&*self.socket).write_all(block).ok()?;
                        self.heard(|heard| heard.said += block.len() as u64);
                    }
                }
                Act::FinishSending => self.socket.shutdown(Shutdown::Write).ok()?,
                Act::Echo => {
                    let line = self.line.borrow();
                    let mut answer = ok(&line);
                    if line.starts_with("HEAD ") {
                        answer.truncate(answer.len() - line.len());
                    }
                    (&*self.socket).write_all(&answer).ok()?;
                }
                Act::Flood => {
                    let block = [b'x'; BLOCK];
                    loop {
                        let said = (&*self.socket).write(&block).ok()?;
                        self.heard(|heard| heard.said += said as u64);
                    }
                }
                Act::SaySlowly(bytes, pause) => {
                    for byte in bytes {
                        (&*self.socket).write_all(&[*byte]).ok()?;
                        pace(*pause);
                    }
                }
                Act::AwaitUnread => self.await_that(|| ioctl_fionread(&*self.socket).is_ok_and(|unread| unread > 0))?,
                Act::AwaitGo => self.await_that(|| self.shared.go.load(Ordering::Acquire))?,
                Act::Choose(Choice(choose)) => self.play(&choose(&self.last_target()))?,
                Act::Repeat => next = acts.iter(),
            }
        }
        Some(())
    }

    fn read_request(&self) -> Option<()> {
        let head = self.read_until(b"\r\n\r\n")?;
        *self.line.borrow_mut() = head.split("\r\n").next().unwrap_or_default().to_owned();
        let head = head.to_ascii_lowercase();
        let value = |name: &str| {
            let line = head.split("\r\n").find(|line| line.starts_with(name))?;
            Some(line[name.len()..].trim().to_owned())
        };
        if value("transfer-encoding:").is_some_and(|coding| coding.ends_with("chunked")) {
            loop {
                let line = self.read_until(b"\r\n")?;
                let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
                if size == 0 {
                    break;
                }
                self.read(size + 2)?;
            }
            while !self.read_until(b"\r\n")?.trim().is_empty() {}
        } else if let Some(length) = value("content-length:") {
            self.read(length.parse().ok()?)?;
        }
        self.heard(|heard| heard.requests += 1);
        Some(())
    }

    fn read_proxy(&self) -> Option<()> {
        self.read(16)?;
        let length = {
            let heard = self.shared.heard.lock().expect("no panic");
            let [.., high, low] = heard[self.number].bytes[..] else { return None };
            u16::from_be_bytes([high, low])
        };
        self.read(length.into())
    }

    /// The target of the newest request that has been read.
    fn last_target(&self) -> String {
        let heard = self.shared.heard.lock().expect("no panic");
        let text = String::from_utf8_lossy(&heard[self.number].bytes).into_owned();
        let line = text.lines().rfind(|line| line.ends_with(" HTTP/1.1")).unwrap_or_default();
        line.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    /// Reads exactly `count` bytes.
    fn read(&self, mut count: usize) -> Option<()> {
        while count > 0 {
            count -= self.read_some(count)?;
        }
        Some(())
    }

    /// Reads what there is, at most this much.
    fn read_some(&self, most: usize) -> Option<usize> {
        let mut block = [0; BLOCK];
        let came = (&*self.socket).read(&mut block[..most.min(BLOCK)]).ok().filter(|came| *came > 0)?;
        self.heard(|heard| heard.bytes.extend_from_slice(&block[..came]));
        Some(came)
    }

    /// Reads to the end of the next `mark`.
    fn read_until(&self, mark: &[u8]) -> Option<String> {
        let mut text = Vec::new();
        let mut block = [0; BLOCK];
        loop {
            let (came, _) = recv(&*self.socket, &mut block[..], RecvFlags::PEEK).ok().filter(|(came, _)| *came > 0)?;
            let before = text.len();
            text.extend_from_slice(&block[..came]);
            let from = before.saturating_sub(mark.len() - 1);
            if let Some(at) = text[from..].windows(mark.len()).position(|window| window == mark) {
                text.truncate(from + at + mark.len());
                self.read(text.len() - before)?;
                return Some(String::from_utf8_lossy(&text).into_owned());
            }
            self.read(came)?;
        }
    }

    fn await_that(&self, condition: impl Fn() -> bool) -> Option<()> {
        let end = Instant::now() + DEADLINE;
        while !condition() {
            if self.shared.stop.load(Ordering::Acquire) || Instant::now() > end {
                return None;
            }
            pace(Duration::from_millis(1));
        }
        Some(())
    }

    fn heard(&self, change: impl FnOnce(&mut Heard)) {
        change(&mut self.shared.heard.lock().expect("no panic")[self.number]);
    }
}
