//! How is it counted? Instructions and allocations by callgrind, system calls by strace, both over the same requests.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal, kill_process};

use super::client::Client;
use super::door::Door;
use super::workloads::{House, Workload};

/// How many requests go ahead of those that are counted: connections are made, tables and buffers find their size.
const AHEAD: u32 = 20;

/// How often each workload is counted. The least is taken: what comes by time and not by request can only add.
const TURNS: u32 = 6;

/// What is called for memory, in C's library and in what may take its place.
const ALLOCATORS: [&str; 19] = [
    "malloc",
    "calloc",
    "realloc",
    "posix_memalign",
    "aligned_alloc",
    "memalign",
    "mi_malloc",
    "mi_zalloc",
    "mi_calloc",
    "mi_realloc",
    "mi_malloc_aligned",
    "mi_zalloc_aligned",
    "mi_realloc_aligned",
    "_rjem_malloc",
    "_rjem_calloc",
    "_rjem_realloc",
    "_rjem_mallocx",
    "_rjem_rallocx",
    "_rjem_aligned_alloc",
];

/// What callgrind counted in all.
#[derive(Debug, Default)]
pub(super) struct Profile {
    pub(super) instructions: u64,
    pub(super) allocations: u64,
}

/// Instructions and allocations of each workload.
pub(super) fn profiles(dir: &Path, house: House, workloads: &[&Workload]) -> anyhow::Result<Vec<Profile>> {
    let pipes = format!("--vgdb-prefix={}/vgdb", dir.display());
    let out = dir.join("callgrind.out");
    let wrapper = [
        "valgrind".to_owned(),
        "--tool=callgrind".to_owned(),
        "--separate-threads=yes".to_owned(),
        // It looks for our orders after so many blocks of code: an idle door runs few.
        "--vgdb=yes".to_owned(),
        "--vgdb-poll=500".to_owned(),
        pipes.clone(),
        format!("--callgrind-out-file={}", out.display()),
    ];
    let door = Door::start(dir, &wrapper, house)?;
    let dump = || -> anyhow::Result<()> {
        let pid = format!("--pid={}", door.pid());
        let output = Command::new("vgdb").args([&pid, &pipes, "--max-invoke-ms=0", "dump"]).output()?;
        ensure!(output.status.success(), "vgdb: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    let mut profiles = Vec::new();
    let mut dumps = 0;
    for workload in workloads {
        let mut client = Client::new(workload, &door.target)?;
        client.send(AHEAD)?;
        // A dump says what was since the one before, in a file for each thread.
        dump()?;
        dumps += 1;
        let mut turns = Vec::new();
        for _ in 0..TURNS {
            client.send(workload.number)?;
            dump()?;
            dumps += 1;
            turns.push(Profile::read(dir, &format!("callgrind.out.{dumps}-"))?);
        }
        let least = |count: fn(&Profile) -> u64| turns.iter().map(count).min().unwrap_or_default();
        let profile =
            Profile { instructions: least(|turn| turn.instructions), allocations: least(|turn| turn.allocations) };
        ensure!(profile.allocations > 0, "not one allocation was seen: has `ALLOCATORS` all names?");
        profiles.push(profile);
    }
    Ok(profiles)
}

impl Profile {
    /// The sum over the threads that serve: control has its own hours.
    fn read(dir: &Path, prefix: &str) -> anyhow::Result<Profile> {
        let mut sum = Profile::default();
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            if !entry.file_name().to_string_lossy().starts_with(prefix) {
                continue;
            }
            let text = fs::read_to_string(entry.path())?;
            if text.contains("bgproxy::serve::") {
                let thread = Profile::parse(&text);
                sum.instructions += thread.instructions;
                sum.allocations += thread.allocations;
            }
        }
        Ok(sum)
    }

    /// From callgrind's file format, version 1: names stand once beside a number, afterwards the number alone.
    fn parse(text: &str) -> Profile {
        let mut profile = Profile::default();
        let mut allocators: HashMap<&str, bool> = HashMap::new();
        let (mut caller, mut callee) = (false, false);
        for line in text.lines() {
            if let Some(named) = line.strip_prefix("fn=") {
                caller = is_allocator(&mut allocators, named);
            } else if let Some(named) = line.strip_prefix("cfn=") {
                callee = is_allocator(&mut allocators, named);
            } else if let Some(calls) = line.strip_prefix("calls=") {
                let number = calls.split(' ').next().and_then(|number| number.parse::<u64>().ok());
                // What one of them leaves to another is one allocation.
                profile.allocations += number.filter(|_| callee && !caller).unwrap_or_default();
            } else if let Some(totals) = line.strip_prefix("totals: ") {
                profile.instructions = totals.trim().parse().unwrap_or_default();
            }
        }
        profile
    }
}

/// Whether `(7) malloc`, or later `(7)`, is one of them. A function that calls itself is another one at each depth:
/// name'2.
fn is_allocator<'t>(known: &mut HashMap<&'t str, bool>, named: &'t str) -> bool {
    let (number, name) = named.split_once(' ').unwrap_or((named, ""));
    if !name.is_empty() {
        let name = name.split('\'').next().unwrap_or_default();
        known.insert(number, ALLOCATORS.contains(&name));
    }
    known.get(number).copied().unwrap_or_default()
}

/// How often each system call was made, for each workload.
pub(super) fn syscalls(
    dir: &Path,
    house: House,
    workloads: &[&Workload],
) -> anyhow::Result<Vec<BTreeMap<String, u64>>> {
    let door = Door::start(dir, &[], house)?;
    let mut all = Vec::new();
    for workload in workloads {
        let mut client = Client::new(workload, &door.target)?;
        client.send(AHEAD)?;
        let mut least: Option<BTreeMap<String, u64>> = None;
        for _ in 0..TURNS {
            let turn = traced(dir, &door, &mut client, workload.number)?;
            if least.as_ref().is_none_or(|least| turn.values().sum::<u64>() < least.values().sum()) {
                least = Some(turn);
            }
        }
        all.extend(least);
    }
    Ok(all)
}

/// System calls of the door while it answers so many requests.
fn traced(dir: &Path, door: &Door, client: &mut Client<'_>, number: u32) -> anyhow::Result<BTreeMap<String, u64>> {
    let summary = dir.join("strace");
    let mut strace = Command::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-p", &door.pid().to_string(), "-o"])
        .arg(&summary)
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start strace (`tests/install` installs it)")?;
    let mut said = BufReader::new(strace.stderr.take().context("strace has no stderr")?);
    let mut line = String::new();
    // One line for all threads, once it follows each of them.
    said.read_line(&mut line)?;
    ensure!(line.contains("attached"), "strace: {line}");
    let sent = client.send(number);
    // It lets go of the door, and says what it saw.
    kill_process(Pid::from_child(&strace), Signal::INT)?;
    said.read_to_string(&mut line)?;
    strace.wait()?;
    sent?;
    let text = fs::read_to_string(&summary)?;
    parse_summary(&text).with_context(|| format!("no summary of strace: {text}\n{line}"))
}

/// Lines of a number and a name, between rules, and their sum.
fn parse_summary(text: &str) -> Option<BTreeMap<String, u64>> {
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let (Some(number), Some(name), None) = (words.next(), words.next(), words.next()) else { continue };
        if let Ok(number) = number.parse() {
            calls.insert(name.to_owned(), number);
        }
    }
    calls.remove("total").map(|_| calls)
}
