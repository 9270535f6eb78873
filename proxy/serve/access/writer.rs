//! The one thread that writes the access log, follows its rotation and survives a full disk.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tracing::{info, warn};

use super::{FLUSH_AT, Losses};

/// How often the path is compared with the open file, at most.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

/// A worker's buffer on its way through the writer thread and back.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) lines: u64,
    pub(super) home: SyncSender<Vec<u8>>,
}

/// The writer thread's owner: [`join`](AccessWriterHandle::join) it after the last [`Lines`](super::Lines) is gone.
#[derive(Debug)]
pub struct AccessWriterHandle {
    thread: JoinHandle<()>,
    ended: Receiver<()>,
}

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Writer {
    sink: File,
    /// Where the file is to be found; none when there is nothing to rotate.
    path: Option<PathBuf>,
    followed: Instant,
    /// The last write ended within a line.
    torn: bool,
    /// What the last write failed with, and how many lines this has cost.
    fault: Option<(io::ErrorKind, u64)>,
    /// The file was renamed away and its path cannot be opened.
    astray: bool,
    losses: Arc<Losses>,
}

// === impl Batch ===

impl Batch {
    /// Sends the buffer back to its worker, unless one odd burst made it large or the worker has enough.
    pub(super) fn recycle(mut self) {
        if self.bytes.capacity() <= 4 * FLUSH_AT {
            self.bytes.clear();
            let _ = self.home.try_send(self.bytes);
        }
    }
}

// === impl AccessWriterHandle ===

impl AccessWriterHandle {
    /// Waits until everything is written. False when that took longer than `patience`: nobody reads the pipe that
    /// standard output is, say; the thread is then left to the end of the process.
    pub fn join(self, patience: Duration) -> bool {
        // Nothing is ever sent: the channel closes when the thread ends, by a panic as well.
        if self.ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout) {
            warn!(seconds = patience.as_secs_f64(), "access log is stuck, its last lines may be lost");
            return false;
        }
        self.thread.join().is_ok()
    }
}

// === impl Writer ===

impl Writer {
    pub(super) fn new(sink: File, losses: Arc<Losses>) -> Writer {
        Writer { sink, path: None, followed: Instant::now(), torn: false, fault: None, astray: false, losses }
    }

    pub(super) fn open(path: &Path, losses: Arc<Losses>) -> io::Result<Writer> {
        let sink = super::open_for_append(path)?;
        Ok(Writer { path: Some(path.to_owned()), ..Writer::new(sink, losses) })
    }

    pub(super) fn spawn(mut self, batches: Receiver<Batch>) -> io::Result<AccessWriterHandle> {
        let (alive, ended) = sync_channel(0);
        let thread = thread::Builder::new().name("access-log".into()).spawn(move || {
            let _alive: SyncSender<()> = alive;
            for batch in batches {
                self.write(&batch.bytes);
                batch.recycle();
            }
        })?;
        Ok(AccessWriterHandle { thread, ended })
    }

    /// Writes whole lines; what cannot be written is counted and forgotten, so that a full disk stays the log's
    /// trouble and does not become the workers'.
    pub(super) fn write(&mut self, lines: &[u8]) {
        if self.followed.elapsed() >= FOLLOW_EVERY {
            self.followed = Instant::now();
            self.follow();
        }
        match self.append(lines) {
            Ok(()) => self.recovered(),
            Err((written, fault)) => self.lost(&lines[written..], &fault),
        }
    }

    /// One write in the usual case. On failure says how many bytes got through.
    fn append(&mut self, lines: &[u8]) -> Result<(), (usize, io::Error)> {
        // A disk that was full for a moment leaves half a line; without this the next line would be glued to it and
        // both would be unreadable.
        while self.torn {
            self.torn = some(self.sink.write(b"\n")).map_err(|fault| (0, fault))? == 0;
        }
        let mut written = 0;
        while written < lines.len() {
            match some(self.sink.write(&lines[written..])) {
                Ok(count) => written += count,
                Err(fault) => {
                    self.torn = written > 0 && lines[written - 1] != b'\n';
                    return Err((written, fault));
                }
            }
        }
        Ok(())
    }

    fn lost(&mut self, rest: &[u8], fault: &io::Error) {
        let lines = rest.iter().filter(|&&byte| byte == b'\n').count() as u64;
        self.losses.write_failed.fetch_add(lines, Relaxed);
        match &mut self.fault {
            Some((kind, count)) if *kind == fault.kind() => *count += lines,
            earlier => {
                *earlier = Some((fault.kind(), earlier.map_or(0, |(_, count)| count) + lines));
                warn!(path = %self.name(), error = %fault, "access log cannot be written, its lines are lost");
            }
        }
    }

    fn recovered(&mut self) {
        if let Some((_, lines)) = self.fault.take() {
            info!(path = %self.name(), lost = lines, "access log is written again");
        }
    }

    /// Opens the path anew when it leads to another file than ours: logrotate renamed it away or somebody removed it.
    pub(super) fn follow(&mut self) {
        let Some(path) = &self.path else { return };
        let ours = self.sink.metadata().map(|file| (file.dev(), file.ino()));
        let theirs = fs::metadata(path).map(|file| (file.dev(), file.ino()));
        if let (Ok(ours), Ok(theirs)) = (&ours, &theirs)
            && ours == theirs
        {
            self.astray = false;
            return;
        }
        match super::open_for_append(path) {
            Ok(sink) => {
                self.sink = sink;
                self.torn = false;
                self.astray = false;
            }
            // The old file is still a better place for lines than none.
            Err(fault) if !self.astray => {
                warn!(path = %self.name(), error = %fault, "access log was moved away and cannot be opened anew, the old file is written on");
                self.astray = true;
            }
            Err(_) => {}
        }
    }

    fn name(&self) -> std::path::Display<'_> {
        self.path.as_deref().unwrap_or(Path::new("standard output")).display()
    }
}

/// A write that a signal does not fail (no progress, try again) and that never goes on without progress otherwise.
fn some(result: io::Result<usize>) -> io::Result<usize> {
    match result {
        Ok(0) => Err(io::ErrorKind::WriteZero.into()),
        Err(fault) if fault.kind() == io::ErrorKind::Interrupted => Ok(0),
        other => other,
    }
}
