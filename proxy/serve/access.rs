//! How the access log gets from the workers to its file without a worker ever waiting for a disk.
//!
//! Each worker formats its lines into a buffer of its own ([`Lines`]) and hands the whole buffer over a bounded queue
//! to one writer thread. A full queue costs lines, which are counted, and never a client's time.

mod format;
mod writer;

#[cfg(test)]
mod tests;

use std::fs::File;
use std::io;
use std::mem;
use std::net::IpAddr;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::SystemTime;

use bgproxy_conf::{AccessFormat, AccessLog as Destination};

use format::Stamp;
pub use writer::AccessWriterHandle;
use writer::{Batch, Writer};

use crate::harden;

/// A buffer is handed over when it is larger than this, even between two ticks.
const FLUSH_AT: usize = 64 * 1024;

/// Buffers that may wait for the writer thread. With [`FLUSH_AT`] this bounds the memory a stuck disk can cost, and
/// at ten ticks a second it bridges a stall of six seconds for one worker.
const QUEUE: usize = 64;

/// Empty buffers that wait for their worker: one being filled, one being written and one in the queue is the usual
/// state, so two spares are enough for none to be allocated in steady state.
const SPARES: usize = 2;

/// The access log: makes a [`Lines`] for each worker. The writer thread ends when this and all of them are gone.
#[derive(Debug)]
pub struct AccessLog {
    format: AccessFormat,
    queue: SyncSender<Batch>,
    losses: Arc<Losses>,
}

/// Lines that never reached the log, for metrics.
#[derive(Debug, Default)]
pub struct Losses {
    queue_full: AtomicU64,
    write_failed: AtomicU64,
}

/// Why the access log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The file cannot be opened for appending.
    #[error("cannot open the access log `{}`, whose directory must exist and be writable (`log.access`)", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Standard output is closed.
    #[error("cannot write the access log to standard output")]
    Stdout(#[source] io::Error),
    /// The writer thread cannot be started.
    #[error("cannot start the access log's thread")]
    Thread(#[source] io::Error),
}

/// One finished request, borrowed from its record. Bytes come as the client sent them; the format escapes them.
#[derive(Debug, Clone)]
pub struct Line<'a> {
    /// When the request arrived.
    pub time: SystemTime,
    /// Who asked.
    pub client: IpAddr,
    /// Its method.
    pub method: &'a str,
    /// Its Host.
    pub host: &'a [u8],
    /// Its target.
    pub target: &'a [u8],
    /// Its protocol, such as `HTTP/1.1`.
    pub protocol: &'a str,
    /// The status answered.
    pub status: u16,
    /// Bytes of its body.
    pub bytes_in: u64,
    /// Bytes of the answer's body that were sent.
    pub bytes_out: u64,
    /// From the request's arrival to the last byte of the answer.
    pub seconds: f64,
    /// From the request's arrival to the answer's head; none when there was no answer.
    pub first_byte: Option<f64>,
    /// The service routed to, if any.
    pub service: Option<&'a str>,
    /// The color that served it, if any.
    pub color: Option<&'a str>,
    /// The service's generation when it was routed.
    pub generation: Option<u64>,
    /// The stable name of what went wrong, if something did.
    pub reason: Option<&'a str>,
    /// Sent again this many times.
    pub retries: u32,
    /// Its X-Request-Id; none where it was refused before it got one.
    pub request_id: Option<&'a [u8]>,
    /// Its User-Agent.
    pub user_agent: Option<&'a [u8]>,
    /// Its Referer.
    pub referer: Option<&'a [u8]>,
}

/// One worker's lines on their way to the writer thread.
#[derive(Debug)]
pub struct Lines {
    format: AccessFormat,
    stamp: Stamp,
    buffer: Vec<u8>,
    lines: u64,
    queue: SyncSender<Batch>,
    home: SyncSender<Vec<u8>>,
    spares: Receiver<Vec<u8>>,
    losses: Arc<Losses>,
}

// === impl AccessLog ===

impl AccessLog {
    /// Opens the log and starts its writer thread; none when it is off.
    ///
    /// # Errors
    /// [`AccessError`]: the destination cannot be written.
    pub fn open(
        destination: &Destination,
        format: AccessFormat,
    ) -> Result<Option<(AccessLog, AccessWriterHandle)>, AccessError> {
        let losses = Arc::new(Losses::default());
        let writer = match destination {
            Destination::Off => return Ok(None),
            Destination::Stdout => Writer::new(stdout().map_err(AccessError::Stdout)?, losses.clone()),
            Destination::File(path) => {
                Writer::open(path, losses.clone()).map_err(|source| AccessError::File { path: path.clone(), source })?
            }
        };
        AccessLog::start(writer, format, losses).map(Some).map_err(AccessError::Thread)
    }

    fn start(writer: Writer, format: AccessFormat, losses: Arc<Losses>) -> io::Result<(AccessLog, AccessWriterHandle)> {
        let (queue, batches) = sync_channel(QUEUE);
        let handle = writer.spawn(batches)?;
        Ok((AccessLog { format, queue, losses }, handle))
    }

    /// The lines of one more worker.
    pub fn lines(&self) -> Lines {
        let (home, spares) = sync_channel(SPARES);
        Lines {
            format: self.format,
            stamp: Stamp::default(),
            buffer: Vec::new(),
            lines: 0,
            queue: self.queue.clone(),
            home,
            spares,
            losses: self.losses.clone(),
        }
    }

    /// What was lost so far. Holding it does not keep the writer thread alive.
    pub fn losses(&self) -> Arc<Losses> {
        self.losses.clone()
    }
}

/// Standard output without std's line buffer, which would cut a batch into many writes.
fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

// === impl Losses ===

impl Losses {
    /// Lines dropped because the writer thread did not keep up.
    pub fn queue_full(&self) -> u64 {
        self.queue_full.load(Relaxed)
    }

    /// Lines lost because the destination could not be written.
    pub fn write_failed(&self) -> u64 {
        self.write_failed.load(Relaxed)
    }
}

// === impl Lines ===

impl Lines {
    /// Appends one line.
    pub fn push(&mut self, line: &Line<'_>) {
        let start = self.buffer.len();
        let written = match self.format {
            AccessFormat::Json => format::json(&mut self.buffer, &mut self.stamp, line),
            AccessFormat::Combined => format::combined(&mut self.buffer, &mut self.stamp, line),
        };
        debug_assert!(written.is_ok(), "writing into memory cannot fail");
        if written.is_err() {
            self.buffer.truncate(start);
            return;
        }
        self.lines += 1;
        if self.buffer.len() > FLUSH_AT {
            self.flush();
        }
    }

    /// Hands what was pushed to the writer thread. Never waits: what does not fit in the queue is dropped and counted.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        let spare = self.spares.try_recv().unwrap_or_default();
        let batch = Batch {
            bytes: mem::replace(&mut self.buffer, spare),
            lines: mem::take(&mut self.lines),
            home: self.home.clone(),
        };
        if let Err(TrySendError::Full(batch) | TrySendError::Disconnected(batch)) = self.queue.try_send(batch) {
            self.losses.queue_full.fetch_add(batch.lines, Relaxed);
            batch.recycle();
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.flush();
    }
}

fn open_for_append(path: &Path) -> io::Result<File> {
    match File::options().append(true).create_new(true).open(path) {
        Ok(new) => {
            // Those who collect logs are in our group.
            new.set_permissions(harden::permissions(0o640))?;
            Ok(new)
        }
        // It may go away meanwhile, or be a link to a file that is not there.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            File::options().append(true).create(true).open(path)
        }
        Err(error) => Err(error),
    }
}
