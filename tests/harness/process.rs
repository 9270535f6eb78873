//! A child process with a name, a log and an end: whatever a test does, nothing it started survives it.

use std::fmt;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitOptions, getpid, kill_process, set_child_subreaper, waitpid};

use super::{DEADLINE, must, pace, text_of, wait_for};

/// How long a process may take to end after SIGTERM before it is killed.
const GRACE: Duration = Duration::from_secs(5);

/// A running child. Dropping it ends it; when the test has failed its log is shown.
pub(crate) struct Process {
    name: String,
    child: Child,
    log: PathBuf,
    ended: Option<ExitStatus>,
}

impl Process {
    /// Starts a program; all it prints is appended to `log`.
    pub(crate) fn start(name: &str, command: &mut Command, log: &Path) -> Process {
        Process::start_on(name, command, log, Stdio::null())
    }

    /// The same with something on its standard input, such as a socket that it shall accept from: so its port is
    /// known, and nobody else's.
    pub(crate) fn start_on(name: &str, command: &mut Command, log: &Path, input: impl Into<Stdio>) -> Process {
        // Children of a killed child become ours, to be waited for; else they were zombies of whoever is process 1.
        must("the place of a reaper", set_child_subreaper(Some(getpid())));
        let file = File::options().create(true).append(true).open(log).expect("a log file");
        let child = command
            .stdin(input)
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|why| panic!("cannot start {name} ({command:?}): {why}"));
        Process { name: name.to_owned(), child, log: log.to_owned(), ended: None }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// All it has printed so far.
    pub(crate) fn log(&self) -> String {
        text_of(&self.log)
    }

    /// How it ended, if it has.
    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        if self.ended.is_none() {
            self.ended = self.child.try_wait().expect("a child of ours");
        }
        self.ended
    }

    /// Waits for `condition` as [`wait_for`] does, and fails at once when the process ends meanwhile.
    #[track_caller]
    pub(crate) fn wait_for<T, E: fmt::Display>(&mut self, what: &str, mut look: impl FnMut() -> Result<T, E>) -> T {
        let name = self.name.clone();
        let found = wait_for(what, DEADLINE, || match self.ended() {
            Some(status) => Ok(Err(format!("{name} ended: {status}"))),
            None => look().map(Ok),
        });
        must(format_args!("waited for {what}"), found)
    }

    #[track_caller]
    pub(crate) fn signal(&mut self, signal: Signal) {
        // A pid is only ours until the child has been waited for; afterwards it may be anybody's.
        if self.ended().is_none() {
            let pid = Pid::from_child(&self.child);
            must(format_args!("cannot signal {}", self.name), kill_process(pid, signal));
        }
    }

    /// Waits for the end that something else has caused.
    #[track_caller]
    pub(crate) fn wait_end(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        wait_for(&what, deadline, || self.ended().ok_or("it runs"))
    }

    /// Asks it to end and waits until it has.
    #[track_caller]
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end(DEADLINE)
    }

    /// Kills it and its children at once, as `kill -9` of a container does, and waits until they are gone.
    #[track_caller]
    pub(crate) fn kill9(&mut self) {
        assert!(self.kill_all(), "{} or a child of it outlived SIGKILL", self.name);
    }

    /// [`Process::kill9`] for `drop`, which must not panic: whether all of them are gone.
    fn kill_all(&mut self) -> bool {
        // The parent goes first, or it would start new children in place of the killed ones.
        let children = if self.ended().is_none() { children_of(self.pid()) } else { Vec::new() };
        if self.ended().is_none() {
            let _ = kill_process(Pid::from_child(&self.child), Signal::KILL);
        }
        for pid in &children {
            let _ = kill_process(*pid, Signal::KILL);
        }
        // Their sockets close only when they are gone.
        self.ends_within(GRACE, |this| {
            this.ended().is_some() && children.iter().all(|pid| waitpid(Some(*pid), WaitOptions::NOHANG).is_err())
        })
    }

    fn ends_within(&mut self, deadline: Duration, gone: impl Fn(&mut Self) -> bool) -> bool {
        let end = Instant::now() + deadline;
        while !gone(self) {
            if Instant::now() > end {
                return false;
            }
            pace(Duration::from_millis(2));
        }
        true
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- {} ({}) said:\n{}---", self.name, self.pid(), tail(&self.log()));
        }
        if self.ended().is_some() {
            return;
        }
        let _ = kill_process(Pid::from_child(&self.child), Signal::TERM);
        if !self.ends_within(GRACE, |this| this.ended().is_some()) {
            eprintln!("{} did not end within {GRACE:?} of SIGTERM: killed", self.name);
            self.kill_all();
        }
    }
}

/// The last lines of a log; the whole of it may be megabytes.
fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(60)..].iter().map(|line| format!("{line}\n")).collect()
}

/// The processes that `parent` started and that still run.
fn children_of(parent: u32) -> Vec<Pid> {
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    processes
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(Pid::from_raw)
        .filter(|pid| parent_of(*pid) == Some(parent))
        .collect()
}

fn parent_of(pid: Pid) -> Option<u32> {
    let text = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // After the name, which may hold spaces and parentheses: the state and the parent.
    text.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}

/// What a finished program left behind.
#[derive(Debug)]
pub(crate) struct Output {
    /// The exit code; none when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Output {
    /// Runs a program to its end. Its output goes through files in `dir`, so that it can neither block nor be lost.
    #[track_caller]
    pub(crate) fn of(command: &mut Command, dir: &Path) -> Output {
        let stdout = tempfile::NamedTempFile::new_in(dir).expect("a file for stdout");
        let stderr = tempfile::NamedTempFile::new_in(dir).expect("a file for stderr");
        let child = command
            .stdin(Stdio::null())
            .stdout(stdout.reopen().expect("a second handle"))
            .stderr(stderr.reopen().expect("a second handle"))
            .spawn()
            .unwrap_or_else(|why| panic!("cannot start {command:?}: {why}"));
        let name = command.get_program().to_string_lossy().into_owned();
        let mut process = Process { name, child, log: stderr.path().to_owned(), ended: None };
        let status = process.wait_end(DEADLINE * 3);
        Output { code: status.code(), stdout: text_of(stdout.path()), stderr: text_of(stderr.path()) }
    }

    /// The output, when it succeeded; fails the test otherwise.
    #[track_caller]
    pub(crate) fn ok(self) -> Output {
        assert_eq!(self.code, Some(0), "it failed:\n{}{}", self.stdout, self.stderr);
        self
    }
}
