//! What has the process given up, whatever started it? As the kernel tells it.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use serde_json::json;

use crate::harness::door::Builder;
use crate::harness::{Authority, DEADLINE, Door, Fake, wait_until};

/// Nobody in particular.
const NOBODY: u32 = 65_534;

/// What `/proc/PID/FILE` says behind this word.
#[track_caller]
fn told(door: &Door, file: &str, word: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{}/{file}", door.pid())).expect("what the kernel tells");
    let line = text.lines().find_map(|line| line.strip_prefix(word));
    line.unwrap_or_else(|| panic!("no {word} in {text}")).trim().to_owned()
}

/// Core dumps allowed, soft and hard.
fn cores(door: &Door) -> Vec<String> {
    told(door, "limits", "Max core file size").split_whitespace().take(2).map(str::to_owned).collect()
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("a file").permissions().mode() & 0o777
}

/// A door that may leave a core dump, as far as those who start it are concerned.
fn unlimited() -> Builder {
    Door::builder().under(&["prlimit", "--core=unlimited"])
}

#[test]
fn no_thread_can_gain_privileges() {
    let (door, _blue) = Door::builder().before(Fake::echoes);
    assert_eq!(door.get("/").status, 200);
    let threads = std::fs::read_dir(format!("/proc/{}/task", door.pid())).expect("threads").flatten();
    let threads: Vec<_> = threads.map(|entry| entry.file_name().into_string().expect("a number")).collect();
    assert!(threads.len() >= 3, "two workers and control: {threads:?}");
    for thread in threads {
        assert_eq!(told(&door, &format!("task/{thread}/status"), "NoNewPrivs:"), "1");
    }
}

#[test]
fn a_door_with_keys_leaves_no_core_dump() {
    let (door, _blue) = unlimited().tls(&Authority::new()).before(Fake::echoes);
    assert_eq!(cores(&door), ["0", "0"]);
    // Without keys whoever starts it decides, until a reload brings some.
    let (mut door, _blue) = unlimited().before(Fake::echoes);
    assert_eq!(cores(&door), ["unlimited", "unlimited"]);
    let certificate = Authority::new().server(&["1.test"]).write(door.dir());
    door.configure("certificate", json!([certificate]));
    assert_eq!(door.post("/v1/reload", json!({})).json()["ok"], true);
    assert_eq!(cores(&door), ["0", "0"]);
}

/// The kernel gives what is in /proc about a process that must not be dumped to root.
#[test]
fn nobody_but_root_looks_into_a_door_with_keys() {
    let is_root = rustix::process::getuid().is_root();
    let owner = |builder: Builder| {
        let (reuid, regid) = (format!("--reuid={NOBODY}"), format!("--regid={NOBODY}"));
        // As root everything is root's in any case.
        let builder = if is_root { builder.under(&["setpriv", &reuid, &regid, "--clear-groups"]) } else { builder };
        let mut door = builder.door();
        if is_root {
            give(door.dir());
        }
        door.restart();
        let environment = format!("/proc/{}/environ", door.pid());
        // It still sees itself.
        assert!(door.metrics().sum("process_open_fds", &[]) > 0.0);
        std::fs::metadata(environment).expect("its environment").uid()
    };
    let itself = if is_root { NOBODY } else { rustix::process::getuid().as_raw() };
    assert_eq!(owner(Door::builder().tls(&Authority::new())), 0);
    assert_eq!(owner(Door::builder()), itself);
}

/// Makes all of it nobody's.
fn give(path: &Path) {
    chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("a directory").flatten() {
            give(&entry.path());
        }
    }
}

#[test]
fn files_can_be_read_by_those_who_shall() {
    let (door, _blue) = Door::builder().live_file().before(Fake::echoes);
    assert_eq!(told(&door, "status", "Umask:"), "0077");
    assert_eq!(door.get("/").status, 200);
    wait_until("a live file", DEADLINE, || door.live_file().exists());
    door.post("/v1/services/portal/switch", json!({ "to": "green", "force": true })).json();
    wait_until("a state file", DEADLINE, || door.state_file("").exists());
    let modes = [door.live_file(), door.state_file(""), door.access_log(), door.control()].map(|path| mode(&path));
    assert_eq!(modes, [0o644, 0o600, 0o640, 0o666]);
}

#[test]
fn a_stricter_umask_holds_on() {
    let (door, _blue) =
        Door::builder().live_file().under(&["sh", "-c", "umask 0027; exec \"$0\" \"$@\""]).before(Fake::echoes);
    wait_until("a live file", DEADLINE, || door.live_file().exists());
    // The control socket is for everybody, and asks who is calling.
    let modes = [door.live_file(), door.access_log(), door.control()].map(|path| mode(&path));
    assert_eq!(modes, [0o640, 0o640, 0o666]);
}
