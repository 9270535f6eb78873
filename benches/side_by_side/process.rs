//! How are programs run and measured? Started in a directory of their own, ended by dropping them, and what the kernel
//! charges to them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

/// Ticks per second of the times in `/proc/PID/stat`: 100 on every Linux that Rust runs on, whatever its own clock.
const USER_HZ: f64 = 100.0;

/// How long a program may take to end, and a server to answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// How long it may take until one answers that has ten thousand services to begin with.
const BEGINNING: Duration = Duration::from_secs(120);

/// How many lines of a log say why something does not begin.
const LAST_WORDS: usize = 10;

/// A program with all its children; dropping it ends them.
pub(crate) struct Running {
    child: Child,
    log: PathBuf,
    begun: Instant,
    /// From its beginning until it was ready.
    pub(crate) took: Duration,
}

impl Running {
    pub(crate) fn start(command: &mut Command, dir: &Path, name: &str) -> anyhow::Result<Running> {
        let log = dir.join(format!("{name}.log"));
        let file = fs::File::create(&log)?;
        let begun = Instant::now();
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn();
        let child = child.with_context(|| format!("cannot start {name}"))?;
        Ok(Running { child, log, begun, took: Duration::ZERO })
    }

    /// nginx with everything it has in `dir/NAME`.
    pub(crate) fn nginx(nginx: &Path, dir: &Path, name: &str, config: &str) -> anyhow::Result<Running> {
        let home = dir.join(name);
        fs::create_dir(&home)?;
        // Started as root its workers would be another user, who cannot enter the directory.
        let user = if rustix::process::getuid().is_root() { "user root;" } else { "" };
        let (main, http) = config.split_once('\n').context("a line for the process, the rest for http")?;
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path {kind};"));
        let text = format!(
            "{user} {main} daemon off; pid pid; error_log stderr; worker_rlimit_nofile 18000;\n\
             events {{ worker_connections 16000; }}\n\
             http {{ access_log off; {} keepalive_requests 1000000; default_type text/html;\n{http} }}\n",
            temp.join(" ")
        );
        let file = home.join("nginx.conf");
        fs::write(&file, text)?;
        Running::start(Command::new(nginx).args(["-e", "stderr", "-p"]).arg(&home).arg("-c").arg(file), &home, "nginx")
    }

    pub(crate) fn wait_for(&mut self, ready: impl Fn() -> bool) -> anyhow::Result<()> {
        let end = self.begun + BEGINNING;
        while !ready() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || Instant::now() > end {
                let log = fs::read_to_string(&self.log).unwrap_or_default();
                let lines: Vec<&str> = log.lines().rev().take(LAST_WORDS).collect();
                bail!("after {:.0?}: {}", self.begun.elapsed(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
            pause_briefly();
        }
        self.took = self.begun.elapsed();
        Ok(())
    }

    /// Tells the process, not its children.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.child), signal)?)
    }

    /// The process and its children.
    fn pids(&self) -> io::Result<Vec<u32>> {
        let mut pids = vec![self.child.id()];
        for entry in fs::read_dir("/proc")?.flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if stat(pid).is_ok_and(|fields| fields[1] == self.child.id().to_string()) {
                pids.push(pid);
            }
        }
        Ok(pids)
    }

    /// What `look` finds of each.
    fn each<T>(&self, look: impl Fn(u32) -> anyhow::Result<T>) -> anyhow::Result<Vec<T>> {
        let mut found = Vec::new();
        for pid in self.pids()? {
            match look(pid) {
                Ok(one) => found.push(one),
                // A child may have ended since: after a reload.
                Err(_) if pid != self.child.id() => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found)
    }

    /// CPU seconds of all of them and all their threads so far.
    pub(crate) fn cpu(&self) -> anyhow::Result<f64> {
        let ticks = self.each(|pid| {
            let fields = stat(pid)?;
            // utime and stime: fields 14 and 15 of proc(5), of which the first two are left out.
            Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
        })?;
        Ok(ticks.into_iter().sum::<u64>() as f64 / USER_HZ)
    }

    /// MiB of memory of their own.
    pub(crate) fn memory(&self) -> anyhow::Result<f64> {
        let kib = self.each(|pid| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let lines = text.lines().filter_map(|line| line.strip_prefix("Pss:"));
            Ok(lines.filter_map(|line| line.split_whitespace().next()?.parse::<u64>().ok()).sum::<u64>())
        })?;
        Ok(kib.into_iter().sum::<u64>() as f64 / 1024.0)
    }
}

/// What `/proc/PID/stat` says after the name, which may hold spaces and parentheses: state, parent, ...
fn stat(pid: u32) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = text.rsplit_once(')').context("no name in stat")?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already; then there is nobody to tell.
        let _gone = kill_process(Pid::from_child(&self.child), Signal::TERM);
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            pause();
        }
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// Lets this process, and those that it starts, open as many files as the system allows.
pub(crate) fn open_many_files() -> anyhow::Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).context("cannot raise the limit of open files")
}

/// Between two looks at something that will be so soon.
#[expect(clippy::disallowed_methods, reason = "nothing tells us when a program listens or ends")]
pub(crate) fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}

/// The same where a millisecond counts.
#[expect(clippy::disallowed_methods, reason = "nothing tells us when a program listens")]
pub(crate) fn pause_briefly() {
    std::thread::sleep(Duration::from_micros(200));
}

/// Where time itself is what is waited for.
#[expect(clippy::disallowed_methods, reason = "there is no condition but the time")]
pub(crate) fn rest_until(when: Instant) {
    std::thread::sleep(when.saturating_duration_since(Instant::now()));
}

pub(crate) fn need(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut places = path.split(':').chain(["/usr/local/sbin", "/usr/sbin", "/sbin"]);
    let found = places.find_map(|dir| Some(Path::new(dir).join(program)).filter(|file| file.is_file()));
    found.with_context(|| format!("{program} is not installed: run `apt-get install {package}` (or `tests/install`)"))
}

/// The first line of what a program says about its version.
pub(crate) fn version(program: &Path, flag: &str) -> String {
    let output = Command::new(program).arg(flag).output();
    let text = output.map(|output| [output.stdout, output.stderr].concat()).unwrap_or_default();
    String::from_utf8_lossy(&text).lines().next().unwrap_or_default().trim().to_owned()
}

pub(crate) fn machine() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ")).map(|(_, name)| name);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    format!("machine: {cores} cores, {}, Linux {}", model.unwrap_or("unknown"), kernel.trim())
}
