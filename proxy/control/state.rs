//! What must survive a crash, on disk: which color is live, in a file that is at every moment either the old record
//! or the new one, and that tells when it is neither.
//!
//! `DIR/SERVICE.json` holds the newest record, `DIR/SERVICE.json.previous` the one before it, `DIR/.lock` keeps a
//! second daemon out. Everything here blocks on the disk on purpose: it is called from a blocking task, because a
//! reply must not be given before the disk has answered.

mod error;
mod form;

#[cfg(test)]
mod tests;

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;

use bgproxy_conf::wire::HistoryEntry;
use bgproxy_conf::{Color, ServiceName};
use rustix::fs::{Access, FlockOperation, access, flock};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use error::failed;
use form::{Found, decode, encode, salvage};

pub use error::StateError;

/// Entries of history kept.
const HISTORY: usize = 50;

/// Files flushed at once, where there are many: the disk makes them durable together, in the time of one.
const ABREAST: usize = 32;

/// Files open at once, where there are many.
const LOT: usize = 512;

/// What a service must know again after a crash.
// Unknown fields are refused. A field that we do not know was written by somebody to whom it meant something, a
// traffic split or a hold, say: to ignore it is to route differently from what was promised, and the next save would
// erase it. Whoever adds a field counts SCHEMA up, so that older code refuses instead of guessing.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Grows by one with every change of where the service's requests go.
    pub generation: u64,
    /// The color that serves everybody.
    pub live: Color,
    /// The color that testers reach.
    pub preview: Color,
    /// The color that was live before.
    pub previous: Option<Color>,
    /// The live file's text when it was last read or written: another text at start is a command given meanwhile.
    pub file_seen: Option<String>,
    /// What happened, oldest first; see [`Record::remember`].
    pub history: Vec<HistoryEntry>,
}

/// What [`Store::load`] found.
#[derive(Debug, Clone, PartialEq)]
pub enum Loaded {
    /// Nothing was ever saved.
    Fresh,
    /// The newest record.
    Current(Record),
    /// The record before the newest, which is damaged or missing; to be told loudly.
    Previous {
        /// The record.
        record: Record,
        /// What is wrong with the newest.
        fault: String,
    },
}

/// The state directory, ours alone while this lives.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    /// The open directory, for its fsync.
    handle: File,
    /// Held for its flock, which the kernel drops with us however we end.
    _lock: File,
}

/// What the file's name must lead back to if a save fails after its rename.
enum Old {
    /// These bytes, a good record.
    Good(Vec<u8>),
    /// Nothing good: then no file at all, so that the previous one is used.
    Nothing,
}

/// The names of one service's files.
struct Names {
    current: PathBuf,
    previous: PathBuf,
    refused: PathBuf,
}

/// A file under construction; its name is gone when this is.
#[derive(Debug)]
struct Temp(PathBuf);

// === impl Record ===

impl Record {
    /// Appends to the history, and forgets its oldest entry when there are more than 50.
    pub fn remember(&mut self, entry: HistoryEntry) {
        self.history.push(entry);
        let excess = self.history.len().saturating_sub(HISTORY);
        self.history.drain(..excess);
    }
}

// === impl Store ===

impl Store {
    /// Takes the directory for this process and removes what a crash left half-written in it.
    ///
    /// # Errors
    /// [`StateError`]: it is missing, no directory, not writable, or in use by another daemon.
    pub fn open(dir: &Path) -> Result<Store, StateError> {
        let dir = dir.to_owned();
        match fs::metadata(&dir) {
            Ok(found) if !found.is_dir() => return Err(StateError::NotADirectory { dir }),
            Ok(_) => {}
            Err(source) => return Err(unusable(dir, source)),
        }
        if let Err(source) = access(&dir, Access::WRITE_OK | Access::EXEC_OK) {
            return Err(unusable(dir, source.into()));
        }
        let handle = File::open(&dir).map_err(|source| unusable(dir.clone(), source))?;
        let lock = lock(&dir)?;
        let store = Store { dir, handle, _lock: lock };
        // Only the owner of the lock may do this: anybody else's temp file may be under construction right now.
        sweep(&store.dir)?;
        Ok(store)
    }

    /// Reads a service's record.
    ///
    /// # Errors
    /// [`StateError`]: there is a record but none that can be trusted. Never answered by a guess.
    pub fn load(&self, service: &ServiceName) -> Result<Loaded, StateError> {
        let names = self.names(service);
        let missing = |path: &Path| format!("`{}` is missing", path.display());
        let (present, fault) = match look(&names.current, service)? {
            Found::Good(record) => return Ok(Loaded::Current(record)),
            // To fall back from it would silently undo a switch that a newer daemon promised.
            Found::Foreign(meaning) => return Err(StateError::Foreign { path: names.current, meaning }),
            Found::Damaged(fault) => (true, fault),
            Found::Absent => (false, missing(&names.current)),
        };
        let previous_fault = match look(&names.previous, service)? {
            Found::Good(record) => return Ok(Loaded::Previous { record, fault }),
            Found::Foreign(meaning) => return Err(StateError::Foreign { path: names.previous, meaning }),
            Found::Damaged(fault) => fault,
            Found::Absent if !present => return Ok(Loaded::Fresh),
            Found::Absent => missing(&names.previous),
        };
        Err(StateError::Damaged { service: service.clone(), path: names.current, fault, previous_fault })
    }

    /// A record made from an operator's word (`--assume-live`) where none can be read; to be saved like any other.
    ///
    /// Its generation is above every one that the unusable files seem to hold, so that a script's `expect_generation`
    /// from before cannot fit by accident.
    pub fn assume(&self, service: &ServiceName, live: Color) -> Record {
        let names = self.names(service);
        let seen = [&names.current, &names.previous].into_iter().filter_map(|path| fs::read(path).ok());
        let generation = seen.filter_map(|bytes| salvage(&bytes)).max().unwrap_or(0) + 1;
        Record { generation, preview: live.clone(), live, previous: None, file_seen: None, history: Vec::new() }
    }

    /// Makes a record the newest one; when this returns it survives a power cut.
    ///
    /// # Errors
    /// As [`Store::save_all`].
    pub fn save(&self, service: &ServiceName, record: &Record) -> Result<(), StateError> {
        self.save_all(&[(service.clone(), record.clone())])
    }

    /// Makes these the newest records of their services, each of another one; when this returns they survive a power
    /// cut. A crash in the midst leaves each service with its old record or its new one: nothing is renamed before
    /// every new one is on disk, but not all are renamed at once. Nobody may have been promised anything until then.
    ///
    /// # Errors
    /// [`StateError`]: the records before them are still the newest ones, and nothing is left over
    /// ([`StateError::Torn`] excepted). Where the disk failed in the last step, a power cut may yet bring new ones
    /// back.
    pub fn save_all(&self, records: &[(ServiceName, Record)]) -> Result<(), StateError> {
        if records.is_empty() {
            return Ok(());
        }
        let mut placed = Vec::with_capacity(records.len());
        let place = |((service, _), temp): (&(ServiceName, Record), Temp)| {
            let names = self.names(service);
            let old = self.keep(&names, service)?;
            temp.rename(&names.current)?;
            placed.push((names, old));
            Ok(())
        };
        let temps = self.write_all(records)?;
        let renamed = records.iter().zip(temps).try_for_each(place);
        let durable = renamed.and_then(|()| self.handle.sync_all().map_err(failed("flush", &self.dir)));
        durable.map_err(|fault| self.put_back(placed, fault))
    }

    /// Step one: the bytes of all of them on disk under names that nobody reads.
    fn write_all(&self, records: &[(ServiceName, Record)]) -> Result<Vec<Temp>, StateError> {
        let mut temps = Vec::with_capacity(records.len());
        for lot in records.chunks(LOT) {
            let create =
                |(service, record): &(_, _)| self.create(&self.names(service).current, &encode(service, record));
            let files: Vec<(Temp, File)> = lot.iter().map(create).collect::<Result<_, _>>()?;
            flush_all(&files)?;
            temps.extend(files.into_iter().map(|(temp, _)| temp));
        }
        Ok(temps)
    }

    fn write(&self, name: &Path, bytes: &[u8]) -> Result<Temp, StateError> {
        let (temp, file) = self.create(name, bytes)?;
        file.sync_all().map_err(failed("flush", &temp.0))?;
        Ok(temp)
    }

    /// A file with these bytes, which are not on disk yet.
    fn create(&self, name: &Path, bytes: &[u8]) -> Result<(Temp, File), StateError> {
        Temp::create(name, bytes, 0o600)
    }

    /// Step two: the newest record, which is about to be replaced, becomes the previous one. It keeps its own name
    /// meanwhile, so that there is a good file under that name at every moment.
    fn keep(&self, names: &Names, service: &ServiceName) -> Result<Old, StateError> {
        let Some(bytes) = read(&names.current)? else { return Ok(Old::Nothing) };
        if let Found::Good(_) = decode(&names.current, &bytes, service) {
            self.double(&names.current, &bytes)?.rename(&names.previous)?;
            return Ok(Old::Good(bytes));
        }
        // It must not replace the good previous one; but whoever wants to know what happened wants to see it.
        match self.double(&names.current, &bytes).and_then(|temp| temp.rename(&names.refused)) {
            Ok(()) => info!(path = %names.refused.display(), "unusable state file kept aside"),
            Err(fault) => warn!(error = &fault as &dyn std::error::Error, "unusable state file not kept aside"),
        }
        Ok(Old::Nothing)
    }

    /// After a rename or the fsync of the directory failed: the caller is told that nothing was saved, so a restart
    /// must see it so.
    fn put_back(&self, placed: Vec<(Names, Old)>, mut fault: StateError) -> StateError {
        for (names, old) in placed {
            let put_back = match old {
                Old::Good(bytes) => self.double(&names.previous, &bytes).and_then(|temp| temp.rename(&names.current)),
                Old::Nothing => fs::remove_file(&names.current).map_err(failed("remove", &names.current)),
            };
            if let Err(source) = put_back {
                let (durable, source) = (Box::new(fault), Box::new(source));
                fault = StateError::Torn { path: names.current, durable, source };
            }
        }
        fault
    }

    /// A second name for a file, to be renamed: by link, or by copy on filesystems that have no links.
    fn double(&self, path: &Path, bytes: &[u8]) -> Result<Temp, StateError> {
        let temp = Temp::new(path);
        match fs::hard_link(path, &temp.0) {
            Ok(()) => Ok(temp),
            Err(_) => self.write(path, bytes),
        }
    }

    fn names(&self, service: &ServiceName) -> Names {
        let name = |suffix| self.dir.join(format!("{service}.{suffix}"));
        Names { current: name("json"), previous: name("json.previous"), refused: name("json.refused") }
    }
}

/// Makes a directory for secrets below the state directory, or closes one that others can read, and takes what a crash
/// left half-written out of it. Called by the owner of the state directory only.
///
/// # Errors
/// [`StateError`].
pub fn secrets(dir: &Path) -> Result<(), StateError> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Ok(()) => Ok(()),
        Err(fault) if fault.kind() == io::ErrorKind::AlreadyExists => {
            close_to_others(dir)?;
            sweep(dir)
        }
        Err(fault) => Err(failed("create", dir)(fault)),
    }
}

fn close_to_others(dir: &Path) -> Result<(), StateError> {
    let mode = fs::metadata(dir).map_err(failed("look at", dir))?.permissions().mode();
    if mode & 0o077 == 0 {
        return Ok(());
    }
    match fs::set_permissions(dir, Permissions::from_mode(0o700)) {
        Ok(()) => {
            warn!(dir = %dir.display(), "others on this host could read the private keys in it, and cannot any more; think of new ones")
        }
        // What is in it is closed by itself.
        Err(fault) => {
            warn!(dir = %dir.display(), "others on this host can look into the directory of the private keys: `chmod 0700` it ({fault})")
        }
    }
    Ok(())
}

/// Replaces a file that is nobody else's to read, as a whole: after a crash it is the old one or this. When this
/// returns it survives a power cut.
///
/// # Errors
/// [`StateError`]: the old one is still there, unless it was the directory that could not be flushed.
pub fn replace_secret(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    let (temp, file) = Temp::create(path, bytes, 0o600)?;
    file.sync_all().map_err(failed("flush", &temp.0))?;
    temp.rename(path)?;
    let dir = path.parent().unwrap_or(path);
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(failed("flush", dir))
}

fn sweep(dir: &Path) -> Result<(), StateError> {
    for entry in fs::read_dir(dir).map_err(failed("list", dir))? {
        let path = entry.map_err(failed("list", dir))?.path();
        if Temp::is_one(&path) {
            fs::remove_file(&path).map_err(failed("remove", &path))?;
            info!(path = %path.display(), "half-written state file of a crash removed");
        }
    }
    Ok(())
}

/// Flushes these files, several at once where there are many.
fn flush_all(files: &[(Temp, File)]) -> Result<(), StateError> {
    let flush = |files: &[(Temp, File)]| {
        files.iter().try_for_each(|(temp, file)| file.sync_all().map_err(failed("flush", &temp.0)))
    };
    if let [_] = files {
        return flush(files);
    }
    thread::scope(|scope| {
        let start =
            |files| thread::Builder::new().spawn_scoped(scope, move || flush(files)).map_err(|fault| (files, fault));
        let started: Vec<_> = files.chunks(files.len().div_ceil(ABREAST).max(1)).map(start).collect();
        started.into_iter().try_for_each(|started| match started {
            Ok(thread) => thread.join().unwrap_or_else(|panic| resume_unwind(panic)),
            // No thread to be had: they are only slower without.
            Err((files, _)) => flush(files),
        })
    })
}

fn unusable(dir: PathBuf, source: io::Error) -> StateError {
    match source.kind() {
        io::ErrorKind::NotFound => StateError::Missing { dir },
        io::ErrorKind::NotADirectory => StateError::NotADirectory { dir },
        _ => StateError::NotWritable { dir, source },
    }
}

fn lock(dir: &Path) -> Result<File, StateError> {
    let path = dir.join(".lock");
    let file = File::options().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    let mut file = file.map_err(|source| unusable(dir.to_owned(), source))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut text = String::new();
            let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StateError::Taken { dir: dir.to_owned(), pid });
        }
        Err(fault) => return Err(failed("lock", &path)(fault.into())),
    }
    // For the message above only; the lock holds without it, so a full disk is no reason not to start.
    let pid = format!("{}\n", std::process::id());
    if let Err(fault) = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(pid.as_bytes())) {
        warn!(path = %path.display(), error = %fault, "process id not written");
    }
    Ok(file)
}

fn look(path: &Path, service: &ServiceName) -> Result<Found, StateError> {
    Ok(read(path)?.map_or(Found::Absent, |bytes| decode(path, &bytes, service)))
}

/// An unreadable file is no damaged one: a wrong owner or a sick disk is to be mended, not to be stepped over.
fn read(path: &Path) -> Result<Option<Vec<u8>>, StateError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(fault) if fault.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(fault) => Err(failed("read", path)(fault)),
    }
}

// === impl Temp ===

impl Temp {
    /// Unique without luck: the lock makes us the only writer, and the sweep has removed what came before us.
    fn new(name: &Path) -> Temp {
        use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let base = name.file_name().unwrap_or_default().display();
        Temp(name.with_file_name(format!(".{base}.{}.tmp", COUNT.fetch_add(1, Relaxed))))
    }

    /// Makes the file, with these bytes, which are not on disk yet.
    fn create(name: &Path, bytes: &[u8], mode: u32) -> Result<(Temp, File), StateError> {
        let temp = Temp::new(name);
        let file = File::options().write(true).create_new(true).mode(mode).open(&temp.0);
        let mut file = file.map_err(failed("create", &temp.0))?;
        file.write_all(bytes).map_err(failed("write", &temp.0))?;
        Ok((temp, file))
    }

    fn is_one(path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_ours = name.contains(".json.") || name.contains(".pem.");
        name.starts_with('.') && is_ours && name.ends_with(".tmp")
    }

    fn rename(self, to: &Path) -> Result<(), StateError> {
        fs::rename(&self.0, to).map_err(failed("replace", to))
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // Also after a rename: one that finds both names on the same file says yes and leaves both where they are.
        let _ = fs::remove_file(&self.0);
    }
}
