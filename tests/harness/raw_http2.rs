//! A client that writes HTTP/2 frame by frame, in clear and by prior knowledge, and reads what comes back strictly.
//! Written from RFC 9113 alone; it shares nothing with the door or with h2.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use super::hpack::read_block;
pub(crate) use super::hpack::{AGAIN, block, remembered};
use super::{DEADLINE, must};

pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Kinds of frames.
pub(crate) mod kind {
    pub(crate) const DATA: u8 = 0;
    pub(crate) const HEADERS: u8 = 1;
    pub(crate) const PRIORITY: u8 = 2;
    pub(crate) const RESET: u8 = 3;
    pub(crate) const SETTINGS: u8 = 4;
    pub(crate) const PUSH_PROMISE: u8 = 5;
    pub(crate) const PING: u8 = 6;
    pub(crate) const GOAWAY: u8 = 7;
    pub(crate) const WINDOW_UPDATE: u8 = 8;
    pub(crate) const CONTINUATION: u8 = 9;
}

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;
pub(crate) const PADDED: u8 = 8;

/// Codes of RST_STREAM and GOAWAY.
pub(crate) mod code {
    pub(crate) const NO_ERROR: u32 = 0;
    pub(crate) const PROTOCOL_ERROR: u32 = 1;
    pub(crate) const INTERNAL_ERROR: u32 = 2;
    pub(crate) const FLOW_CONTROL_ERROR: u32 = 3;
    pub(crate) const STREAM_CLOSED: u32 = 5;
    pub(crate) const FRAME_SIZE_ERROR: u32 = 6;
    pub(crate) const REFUSED_STREAM: u32 = 7;
    pub(crate) const CANCEL: u32 = 8;
    pub(crate) const COMPRESSION_ERROR: u32 = 9;
    pub(crate) const ENHANCE_YOUR_CALM: u32 = 11;
}

/// Settings.
pub(crate) const HEADER_TABLE_SIZE: u16 = 1;
pub(crate) const INITIAL_WINDOW_SIZE: u16 = 4;
const WINDOW: i64 = 65_535;
/// The most that a frame may hold, where nobody allows more.
const PIECE: usize = 16 * 1024;

/// One frame, whose length is what its payload has.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: impl AsRef<[u8]>) -> Vec<u8> {
    let payload = payload.as_ref();
    let length = u32::try_from(payload.len()).expect("a small payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

pub(crate) fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload = values.iter().flat_map(|(key, value)| [&key.to_be_bytes()[..], &value.to_be_bytes()].concat());
    frame(kind::SETTINGS, 0, 0, payload.collect::<Vec<_>>())
}

pub(crate) fn reset(stream: u32, code: u32) -> Vec<u8> {
    frame(kind::RESET, 0, stream, code.to_be_bytes())
}

pub(crate) fn window_update(stream: u32, room: u32) -> Vec<u8> {
    frame(kind::WINDOW_UPDATE, 0, stream, room.to_be_bytes())
}

pub(crate) fn data(stream: u32, bytes: impl AsRef<[u8]>, flags: u8) -> Vec<u8> {
    frame(kind::DATA, flags, stream, bytes)
}

/// HEADERS that are a whole block.
pub(crate) fn headers<N: AsRef<[u8]>, V: AsRef<[u8]>>(stream: u32, fields: &[(N, V)], flags: u8) -> Vec<u8> {
    frame(kind::HEADERS, flags | END_HEADERS, stream, block(fields))
}

/// The fields of a request: the four that every request has, then these.
pub(crate) fn fields<'a>(method: &'a str, path: &'a str, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let pseudo = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)];
    [&pseudo, more].concat()
}

/// What came on one stream.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    /// 0 while there is no head.
    pub(crate) status: u16,
    pub(crate) interim: Vec<u16>,
    pub(crate) fields: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, String)>,
    /// It came to its end.
    pub(crate) whole: bool,
    /// It was reset, with this code.
    pub(crate) reset: Option<u32>,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    fn over(&self) -> bool {
        self.whole || self.reset.is_some()
    }
}

/// One connection.
#[derive(Debug)]
pub(crate) struct RawHttp2 {
    socket: TcpStream,
    buffer: Vec<u8>,
    next_stream: u32,
    /// A block of headers that is not at its end: its stream and flags.
    open_block: Option<(u32, u8, Vec<u8>)>,
    answers: BTreeMap<u32, Answer>,
    /// Opens the windows again as fast as bytes come.
    takes: bool,
    /// What the door has room for: new streams, the connection, each stream.
    initial_window: i64,
    window: i64,
    windows: BTreeMap<u32, i64>,
    /// PINGs that were confirmed.
    pub(crate) pongs: usize,
    /// The door's last GOAWAY: the highest stream it answers, and why.
    pub(crate) goaway: Option<(u32, u32)>,
    /// The connection has ended.
    pub(crate) ended: bool,
}

impl RawHttp2 {
    /// A client that takes whatever comes.
    #[track_caller]
    pub(crate) fn connect(to: SocketAddr) -> RawHttp2 {
        let mut client = RawHttp2::with(to, &[]);
        client.takes = true;
        client
    }

    /// One with these settings, that never opens a window by itself.
    #[track_caller]
    pub(crate) fn with(to: SocketAddr, values: &[(u16, u32)]) -> RawHttp2 {
        let mut client = RawHttp2::silent(to);
        // Without a dynamic table every block can be read by itself.
        client.send([PREFACE, &settings(&[&[(HEADER_TABLE_SIZE, 0)], values].concat())].concat());
        client
    }

    /// A connection on which nothing was said.
    #[track_caller]
    pub(crate) fn silent(to: SocketAddr) -> RawHttp2 {
        let socket = must(to, TcpStream::connect_timeout(&to, DEADLINE));
        must("a socket", socket.set_nodelay(true).and_then(|()| socket.set_write_timeout(Some(DEADLINE))));
        RawHttp2 {
            socket,
            buffer: Vec::new(),
            next_stream: 1,
            open_block: None,
            answers: BTreeMap::new(),
            takes: false,
            initial_window: WINDOW,
            window: WINDOW,
            windows: BTreeMap::new(),
            pongs: 0,
            goaway: None,
            ended: false,
        }
    }

    // === sending ===

    #[track_caller]
    pub(crate) fn send(&mut self, bytes: impl AsRef<[u8]>) {
        must("nothing sent", self.socket.write_all(bytes.as_ref()));
    }

    /// False when the other side takes it no more.
    pub(crate) fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        self.socket.write_all(bytes.as_ref()).is_ok()
    }

    /// The number of a new stream.
    pub(crate) fn stream(&mut self) -> u32 {
        self.next_stream += 2;
        self.next_stream - 2
    }

    /// Begins a request, which has no body with [`END_STREAM`].
    #[track_caller]
    pub(crate) fn begin(&mut self, fields: &[(&str, &str)], flags: u8) -> u32 {
        let stream = self.stream();
        self.send(headers(stream, fields, flags));
        stream
    }

    /// Begins a GET.
    #[track_caller]
    pub(crate) fn ask(&mut self, path: &str) -> u32 {
        self.begin(&fields("GET", path, &[]), END_STREAM)
    }

    /// Sends as much of `bytes` as the windows allow, and waits for them; how many were sent when no room came any
    /// more for a moment.
    #[track_caller]
    pub(crate) fn upload(&mut self, stream: u32, bytes: &[u8], flags: u8) -> usize {
        self.upload_in(PIECE, stream, bytes, flags)
    }

    /// The same in frames of this size.
    #[track_caller]
    pub(crate) fn upload_in(&mut self, size: usize, stream: u32, bytes: &[u8], flags: u8) -> usize {
        let mut sent = 0;
        loop {
            let room = self.window.min(*self.windows.get(&stream).unwrap_or(&self.initial_window));
            let left = bytes.len() - sent;
            let piece = usize::try_from(room).unwrap_or(0).min(left).min(PIECE);
            if piece == 0 && left > 0 {
                if !self.read_once(Instant::now() + Duration::from_millis(200)) {
                    return sent;
                }
                continue;
            }
            let last = piece == left;
            let mut frames = Vec::new();
            for at in (0..piece.max(1)).step_by(size) {
                let end = piece.min(at + size);
                let flags = if last && end == piece { flags } else { 0 };
                frames.extend(data(stream, &bytes[sent + at..sent + end], flags));
            }
            self.send(frames);
            sent += piece;
            self.window -= i64::try_from(piece).expect("small");
            *self.windows.entry(stream).or_insert(self.initial_window) -= i64::try_from(piece).expect("small");
            if last {
                return sent;
            }
        }
    }

    /// Sends one piece after the other as fast as they are taken, until the door has said goodbye, or `most` are out;
    /// how many were.
    pub(crate) fn flood(&mut self, most: usize, mut piece: impl FnMut(&mut RawHttp2) -> Vec<u8>) -> usize {
        for sent in 0..most {
            let bytes = piece(self);
            while self.has_something() && self.read_once(Instant::now() + DEADLINE) {}
            if self.goaway.is_some() || self.ended || !self.try_send(bytes) {
                return sent;
            }
        }
        most
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish_sending(&mut self) {
        must("a connection", self.socket.shutdown(Shutdown::Write));
    }

    // === reading ===

    /// What has come on a stream so far.
    pub(crate) fn so_far(&self, stream: u32) -> Answer {
        self.answers.get(&stream).cloned().unwrap_or_default()
    }

    /// One request and its whole answer.
    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Answer {
        let stream = self.ask(path);
        self.answer(stream)
    }

    /// Waits until a stream is over.
    #[track_caller]
    pub(crate) fn answer(&mut self, stream: u32) -> Answer {
        self.wait(&format!("the end of stream {stream}"), |client| client.so_far(stream).over());
        self.so_far(stream)
    }

    /// Waits until a stream is over or the connection has ended.
    #[track_caller]
    pub(crate) fn read_until_over(&mut self, stream: u32) {
        let end = Instant::now() + DEADLINE;
        while !self.so_far(stream).over() && !self.ended {
            assert!(self.read_once(end) || self.ended, "waited {DEADLINE:?} for the end of stream {stream}");
        }
    }

    /// Waits until all that was sent so far has been read by the door.
    #[track_caller]
    pub(crate) fn ping(&mut self) {
        let wanted = self.pongs + 1;
        self.send(frame(kind::PING, 0, 0, [7; 8]));
        self.wait("a PING to be confirmed", |client| client.pongs >= wanted);
    }

    /// The same by a client that may be turned away meanwhile.
    pub(crate) fn try_ping(&mut self) {
        let (wanted, end) = (self.pongs + 1, Instant::now() + DEADLINE);
        self.try_send(frame(kind::PING, 0, 0, [7; 8]));
        while self.pongs < wanted && !self.ended && self.read_once(end) {}
    }

    /// Waits until the connection has ended; why the door says that it did.
    #[track_caller]
    pub(crate) fn end(&mut self) -> Option<u32> {
        let end = Instant::now() + DEADLINE;
        while !self.ended {
            assert!(self.read_once(end) || self.ended, "waited {DEADLINE:?} for the end of the connection");
        }
        self.goaway.map(|(_, code)| code)
    }

    /// Reads until something holds; fails when the connection ends before.
    #[track_caller]
    pub(crate) fn wait(&mut self, what: &str, holds: impl Fn(&RawHttp2) -> bool) {
        let end = Instant::now() + DEADLINE;
        while !holds(self) {
            assert!(!self.ended, "the connection ended before {what}: {:?}", self.goaway);
            assert!(self.read_once(end) || self.ended, "waited {DEADLINE:?} for {what}");
        }
    }

    /// Reads what comes within this time.
    pub(crate) fn read_for(&mut self, time: Duration) {
        let end = Instant::now() + time;
        while !self.ended && self.read_once(end) {}
    }

    fn has_something(&self) -> bool {
        must("a connection", self.socket.set_nonblocking(true));
        let something = !matches!(self.socket.peek(&mut [0]), Err(why) if why.kind() == ErrorKind::WouldBlock);
        must("a connection", self.socket.set_nonblocking(false));
        something && !self.ended
    }

    /// One read from the socket, and what can be understood then; false when nothing came in time, or the end.
    fn read_once(&mut self, until: Instant) -> bool {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return false;
        }
        must("a connection", self.socket.set_read_timeout(Some(left)));
        let mut block = [0; 16 * 1024];
        match self.socket.read(&mut block) {
            Ok(count @ 1..) => self.buffer.extend_from_slice(&block[..count]),
            Err(why) if matches!(why.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Ok(_) | Err(_) => {
                self.ended = true;
                return false;
            }
        }
        while let [a, b, c, kind, flags, rest @ ..] = &self.buffer[..] {
            let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            let Some((stream, rest)) = rest.split_first_chunk() else { break };
            if rest.len() < length {
                break;
            }
            let (kind, flags, stream, payload) = (*kind, *flags, u32::from_be_bytes(*stream), rest[..length].to_vec());
            self.buffer.drain(..9 + length);
            self.came(kind, flags, stream, payload);
        }
        true
    }

    /// Understands a frame; fails when the door may not send such a one.
    fn came(&mut self, kind: u8, flags: u8, stream: u32, payload: Vec<u8>) {
        assert!(payload.len() <= 16 * 1024, "a frame of {} bytes", payload.len());
        assert!(self.open_block.is_none() || kind == kind::CONTINUATION, "frame {kind} within a block of headers");
        match kind {
            kind::DATA => {
                assert_eq!(flags & PADDED, 0, "nobody pads");
                let room = u32::try_from(payload.len()).expect("a small frame");
                let answer = self.answers.entry(stream).or_default();
                assert!(answer.status >= 200 && !answer.over(), "DATA on stream {stream}: {answer:?}");
                answer.body.extend_from_slice(&payload);
                answer.whole = flags & END_STREAM != 0;
                let over = answer.whole;
                if self.takes && room > 0 {
                    // The door may have gone.
                    self.try_send(window_update(0, room));
                    if !over {
                        self.try_send(window_update(stream, room));
                    }
                }
            }
            kind::HEADERS => {
                self.open_block = Some((stream, flags, payload));
                self.block_may_end(flags);
            }
            kind::CONTINUATION => {
                let (of, _, block) = self.open_block.as_mut().expect("a block that goes on");
                assert_eq!(*of, stream, "CONTINUATION");
                block.extend_from_slice(&payload);
                self.block_may_end(flags);
            }
            kind::RESET => {
                let answer = self.answers.entry(stream).or_default();
                // One that follows the end only says that the rest of the request is not wanted.
                if !answer.whole {
                    answer.reset = Some(number(&payload));
                }
            }
            kind::SETTINGS if flags & ACK == 0 => {
                for setting in payload.chunks(6) {
                    if u16::from_be_bytes([setting[0], setting[1]]) == INITIAL_WINDOW_SIZE {
                        let window = i64::from(number(&setting[2..]));
                        let more = window - self.initial_window;
                        self.initial_window = window;
                        self.windows.values_mut().for_each(|window| *window += more);
                    }
                }
                self.try_send(frame(kind::SETTINGS, ACK, 0, []));
            }
            kind::SETTINGS => {}
            kind::PING if flags & ACK == 0 => {
                self.try_send(frame(kind::PING, ACK, 0, payload));
            }
            kind::PING => self.pongs += 1,
            kind::GOAWAY => self.goaway = Some((number(&payload), number(&payload[4..]))),
            kind::WINDOW_UPDATE => {
                let room = i64::from(number(&payload));
                match stream {
                    0 => self.window += room,
                    _ => *self.windows.entry(stream).or_insert(self.initial_window) += room,
                }
            }
            other => panic!("a frame of kind {other}"),
        }
    }

    fn block_may_end(&mut self, flags: u8) {
        if flags & END_HEADERS == 0 {
            return;
        }
        let (stream, begun, block) = self.open_block.take().expect("a block");
        let mut fields = read_block(&block);
        let answer = self.answers.entry(stream).or_default();
        assert!(!answer.over(), "HEADERS behind the end of stream {stream}");
        answer.whole = begun & END_STREAM != 0;
        if answer.status != 0 {
            assert!(answer.whole, "trailers that are not at the end: {fields:?}");
            answer.trailers = fields;
            return;
        }
        let (name, status) = fields.remove(0);
        assert_eq!(name, ":status");
        match must(&status, status.parse()) {
            interim @ 100..200 => answer.interim.push(interim),
            status => (answer.status, answer.fields) = (status, fields),
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(*bytes.first_chunk().expect("four bytes"))
}
