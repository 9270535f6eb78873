//! A backend that speaks HTTP/2 frame by frame, as [`super::raw_http2`] does for clients, and sends what nobody wants.
//!
//! | path | it |
//! |---|---|
//! | `/flood` | sends piece after piece, and an answer behind them if they have an end |
//! | `/held` | does not answer |
//! | `/hints` | sends a 103 eight times, answers, and resets the stream behind it |
//! | `/upload` | answers when all of the body has come |
//! | `/first` | does not answer on its first connection, and on others at once |
//! | `/messages` | answers with messages of 45 bytes, as many as may be on their way, and no end |
//! | `/late` | begins to answer, and when it hears that nobody wants the rest, 128 KiB of it are on their way |
//! | `/late-messages` | the same with 500 messages of 16 bytes |
//! | any other | answers at once |
//!
//! Behind each piece of a body it sends a PING, and makes room twice, as the busiest of honest servers do.
//!
//! Dropping it is a `kill -9`: connections end, the socket file stays.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::hpack::{block, read_block};
use super::raw_http2::{
    ACK, END_HEADERS, END_STREAM, HEADER_TABLE_SIZE, PREFACE, code, data, frame, headers, kind, reset, settings,
    window_update,
};
use super::{DEADLINE, must, wait_for};

/// What comes next on the flooded stream, and how many there were before; none is the end.
type Piece = dyn Fn(u32, usize) -> Option<Vec<u8>> + Send + Sync;

/// How long the messages are of `/messages`, and how many bytes of them may be on their way.
const MESSAGE: usize = 45;
const WINDOW: usize = 256 * 1024;

/// A flooding backend.
pub(crate) struct Flooder {
    path: PathBuf,
    shared: Arc<Shared>,
}

struct Shared {
    piece: Box<Piece>,
    /// Those that there were.
    connections: Mutex<Vec<Connection>>,
    stop: AtomicBool,
}

/// What came over one connection, and what went.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: UnixStream,
    /// Method and target of each request.
    pub(crate) asked: Vec<String>,
    /// The stream that it floods.
    flooded: Option<u32>,
    /// Pieces that the other side took.
    pub(crate) taken: usize,
    /// Streams of `/late` and its like that the other side has reset.
    pub(crate) resets: usize,
    /// The other side has ended it.
    pub(crate) ended: bool,
}

impl Flooder {
    /// One that floods with such pieces.
    pub(crate) fn with(
        at: impl AsRef<Path>,
        piece: impl Fn(u32, usize) -> Option<Vec<u8>> + Send + Sync + 'static,
    ) -> Flooder {
        let path = at.as_ref().to_owned();
        let listener = must("a socket", UnixListener::bind(&path));
        let shared =
            Arc::new(Shared { piece: Box::new(piece), connections: Mutex::default(), stop: AtomicBool::default() });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for socket in listener.incoming().map_while(Result::ok) {
                if serving.stop.load(Ordering::Acquire) {
                    return;
                }
                let connection = Connection {
                    socket: must("a second handle", socket.try_clone()),
                    asked: Vec::new(),
                    flooded: None,
                    taken: 0,
                    resets: 0,
                    ended: false,
                };
                let number = {
                    let mut connections = serving.connections.lock().expect("no panic");
                    connections.push(connection);
                    connections.len() - 1
                };
                let serving = serving.clone();
                std::thread::spawn(move || {
                    let _ended = serving.speak(number, socket);
                    serving.look(number, |connection| connection.ended = true);
                });
            }
        });
        Flooder { path, shared }
    }

    /// Where it listens, as `backends.COLOR` wants it.
    pub(crate) fn backend(&self) -> serde_json::Value {
        serde_json::json!({ "socket": self.path.to_str().expect("a readable path"), "protocol": "h2c" })
    }

    /// Looks at its connections.
    pub(crate) fn look<T>(&self, at: impl FnOnce(&[Connection]) -> T) -> T {
        at(&self.shared.connections.lock().expect("no panic"))
    }

    /// Waits until they are as `wanted`.
    #[track_caller]
    pub(crate) fn wait(&self, what: &str, wanted: impl Fn(&[Connection]) -> bool) {
        wait_for(what, DEADLINE, || {
            self.look(|connections| if wanted(connections) { Ok(()) } else { Err(format!("{connections:?}")) })
        });
    }
}

impl Drop for Flooder {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        self.look(|all| all.iter().for_each(|connection| drop(connection.socket.shutdown(Shutdown::Both))));
        let _woken = UnixStream::connect(&self.path);
    }
}

impl Shared {
    fn look<T>(&self, number: usize, at: impl FnOnce(&mut Connection) -> T) -> T {
        at(&mut self.connections.lock().expect("no panic")[number])
    }

    fn speak(self: &Arc<Self>, number: usize, mut socket: UnixStream) -> std::io::Result<()> {
        let (writer, written) = channel::<Vec<u8>>();
        let (shared, to) = (self.clone(), socket.try_clone()?);
        std::thread::spawn(move || shared.write(number, to, &written));
        let write = |bytes: Vec<u8>| drop(writer.send(bytes));
        let mut preface = [0; PREFACE.len()];
        socket.read_exact(&mut preface)?;
        // Without a dynamic table every block can be read by itself.
        write(settings(&[(HEADER_TABLE_SIZE, 0)]));
        let (mut upload, mut late) = (0, BTreeMap::new());
        loop {
            let mut head = [0; 9];
            socket.read_exact(&mut head)?;
            let [a, b, c, of, flags, stream @ ..] = head;
            let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
            socket.read_exact(&mut payload)?;
            match of {
                kind::SETTINGS if flags & ACK == 0 => write(frame(kind::SETTINGS, ACK, 0, [])),
                kind::HEADERS => {
                    assert!(flags & END_HEADERS != 0, "a short head");
                    let stream = u32::from_be_bytes(stream);
                    let fields = read_block(&payload);
                    let of = |name: &str| fields.iter().find(|(key, _)| key == name).expect("a field").1.clone();
                    let target = of(":path");
                    self.look(number, |connection| connection.asked.push(format!("{} {target}", of(":method"))));
                    match target.as_str() {
                        "/held" => {}
                        "/first" if number == 0 => {}
                        "/messages" => {
                            let messages = data(stream, [b'm'; MESSAGE], 0).repeat(WINDOW / MESSAGE);
                            write([headers(stream, &[(":status", "200")], 0), messages].concat());
                        }
                        "/upload" => upload = stream,
                        "/late" | "/late-messages" => {
                            let pieces: (usize, usize) = if target == "/late" { (8, 16 * 1024) } else { (500, 16) };
                            late.insert(stream, pieces);
                            write([headers(stream, &[(":status", "200")], 0), data(stream, "late", 0)].concat());
                        }
                        "/hints" => {
                            let hints = interim(stream, "103").repeat(8);
                            write([hints, answer(stream), reset(stream, code::NO_ERROR)].concat());
                        }
                        "/flood" => self.look(number, |connection| connection.flooded = Some(stream)),
                        _ => write(answer(stream)),
                    }
                }
                // Another one only says that what came late is not wanted either.
                kind::RESET if late.contains_key(&u32::from_be_bytes(stream)) => {
                    let stream = u32::from_be_bytes(stream);
                    let (number_of, length) = late.remove(&stream).expect("it is there");
                    write(data(stream, vec![0; length], 0).repeat(number_of));
                    self.look(number, |connection| connection.resets += 1);
                }
                kind::DATA => {
                    let (stream, room) = (u32::from_be_bytes(stream), u32::from_be_bytes([0, a, b, c]));
                    write(frame(kind::PING, 0, 0, [0; 8]));
                    if flags & END_STREAM == 0 {
                        write([window_update(0, room), window_update(stream, room)].concat());
                    } else if stream == upload {
                        write(answer(stream));
                    }
                }
                _ => {}
            }
        }
    }

    /// Writes what is to be written, and floods between that.
    fn write(&self, number: usize, mut to: UnixStream, written: &Receiver<Vec<u8>>) -> std::io::Result<()> {
        loop {
            let flooded = self.look(number, |connection| connection.flooded);
            let bytes = match flooded {
                None => written.recv_timeout(Duration::from_millis(1)),
                Some(_) => written.try_recv().map_err(|_| RecvTimeoutError::Timeout),
            };
            match (bytes, flooded) {
                (Ok(bytes), _) => to.write_all(&bytes)?,
                (Err(RecvTimeoutError::Disconnected), _) => return Ok(()),
                (Err(RecvTimeoutError::Timeout), None) => {}
                (Err(RecvTimeoutError::Timeout), Some(stream)) => {
                    let taken = self.look(number, |connection| connection.taken);
                    match (self.piece)(stream, taken) {
                        Some(piece) => {
                            to.write_all(&piece)?;
                            self.look(number, |connection| connection.taken += 1);
                        }
                        None => {
                            to.write_all(&answer(stream))?;
                            self.look(number, |connection| (connection.flooded, connection.taken) = (None, 0));
                        }
                    }
                }
            }
        }
    }
}

/// A whole answer.
pub(crate) fn answer(stream: u32) -> Vec<u8> {
    [headers(stream, &[(":status", "200")], 0), data(stream, "blue\n", END_STREAM)].concat()
}

/// A head that is no answer yet.
pub(crate) fn interim(stream: u32, status: &str) -> Vec<u8> {
    frame(kind::HEADERS, END_HEADERS, stream, block(&[(":status", status)]))
}
