use std::io::Write;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::time::Instant as Clock;

use notify::EventKind;
use notify::event::{AccessKind, AccessMode, ModifyKind};
use tempfile::TempDir;
use tokio::time::timeout;

use super::places::{is_ours, places};
use super::*;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(20);

/// A file beside the watched one whose change proves that the watcher has looked at both twice since: the watched one
/// stands before it in the set, so whatever there was to say about it has been said.
const CANARY: &str = "canary/file";

struct Scene {
    dir: TempDir,
    watcher: Watcher,
    changes: mpsc::Receiver<Change>,
    sung: u32,
}

impl Scene {
    fn new() -> Scene {
        Scene::with(Watcher::start())
    }

    fn with((watcher, changes): (Watcher, mpsc::Receiver<Change>)) -> Scene {
        let dir = tempfile::tempdir().expect("a temp dir");
        fs::create_dir(dir.path().join("canary")).expect("creates");
        Scene { dir, watcher, changes, sung: 0 }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn put(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("writes");
    }

    /// Written beside and renamed over, as careful writers do.
    fn swap(&self, name: &str, text: &str) {
        let beside = self.path(&format!("{name}.new"));
        fs::write(&beside, text).expect("writes");
        fs::rename(beside, self.path(name)).expect("renames");
    }

    fn relink(&self, name: &str, target: impl AsRef<Path>) {
        let beside = self.path(&format!("{name}.new"));
        symlink(target, &beside).expect("links");
        fs::rename(beside, self.path(name)).expect("renames");
    }

    fn watch(&self, name: &str, what: What) -> Watched {
        Watched::new(Key::Config, self.path(name), what)
    }

    async fn start(&mut self, watched: impl IntoIterator<Item = Watched>) {
        let mut set: Vec<_> = watched.into_iter().collect();
        set.push(Watched::new(canary(), self.path(CANARY), What::Content));
        self.watcher.set(set);
        // Until the set is in use.
        self.nothing().await;
    }

    async fn next(&mut self) -> Change {
        timeout(PATIENCE, self.changes.recv()).await.expect("a change in time").expect("a living watcher")
    }

    async fn content(&mut self) -> String {
        match self.next().await {
            Change { key: Key::Config, seen: Seen::Content(bytes), .. } => String::from_utf8(bytes).expect("text"),
            other => panic!("{other:?}"),
        }
    }

    async fn identity(&mut self) -> Seen {
        match self.next().await {
            Change { key: Key::Config, seen: seen @ Seen::Identity { .. }, .. } => seen,
            other => panic!("{other:?}"),
        }
    }

    /// Proves that there is nothing to say about the watched paths.
    async fn nothing(&mut self) {
        self.sung += 1;
        let song = self.sung.to_string();
        self.swap(CANARY, &song);
        let change = self.next().await;
        assert_eq!((change.key, change.seen), (canary(), Seen::Content(song.into_bytes())));
    }
}

fn canary() -> Key {
    Key::LiveFile("canary".parse().expect("a name"))
}

/// Does it until it took less time than lies between two looks: only then is nothing in between to be seen, on
/// however busy a machine.
fn quickly(mut act: impl FnMut(usize)) {
    for turn in 0..1_000 {
        let start = Clock::now();
        act(turn);
        if start.elapsed() < STABLE / 2 {
            return;
        }
    }
    panic!("this machine is too busy to do it quickly");
}

#[tokio::test]
async fn a_rename_over_is_seen() {
    let mut scene = Scene::new();
    scene.put("file", "blue\n");
    scene.start([scene.watch("file", What::Content)]).await;
    for text in ["green\n", "blue\n", ""] {
        scene.swap("file", text);
        assert_eq!(scene.content().await, text);
    }
    scene.nothing().await;
}

// The owner put "blue" back after "green" was reported; "green" written again before the next look was no change to
// the watcher, and a command was lost.
#[tokio::test]
async fn what_the_owner_wrote_himself_is_no_news_and_what_was_there_before_is() {
    let mut scene = Scene::new();
    scene.put("file", "blue\n");
    scene.start([scene.watch("file", What::Content)]).await;
    scene.swap("file", "green\n");
    assert_eq!(scene.content().await, "green\n");

    scene.swap("file", "blue\n");
    scene.watcher.knows(Key::Config, Seen::Content(b"blue\n".to_vec()));
    scene.swap("file", "green\n");
    assert_eq!(scene.content().await, "green\n", "again");

    scene.swap("file", "blue\n");
    scene.watcher.knows(Key::Config, Seen::Content(b"blue\n".to_vec()));
    scene.nothing().await;
}

#[tokio::test]
async fn a_file_being_written_is_seen_when_it_is_whole() {
    let mut scene = Scene::new();
    scene.put("file", "blue\n");
    scene.start([scene.watch("file", What::Content)]).await;
    let path = scene.path("file");
    let mut last = String::new();
    quickly(|turn| {
        last = format!("green {turn}\n");
        let mut file = File::create(&path).expect("truncates");
        file.write_all(&last.as_bytes()[..3]).expect("writes");
        file.write_all(&last.as_bytes()[3..]).expect("writes");
    });
    // A turn that took too long may have been seen in any of its states, which is the truth about it.
    while scene.content().await != last {
        assert_ne!(last, "green 0\n", "a part of a file was reported");
    }
    scene.nothing().await;
}

#[tokio::test]
async fn a_symlink_swap_is_seen() {
    let mut scene = Scene::new();
    scene.put("one", "blue\n");
    scene.put("two", "green\n");
    symlink("one", scene.path("file")).expect("links");
    scene.start([scene.watch("file", What::Content)]).await;
    scene.relink("file", "two");
    assert_eq!(scene.content().await, "green\n");
    // And what happens behind the new target.
    scene.swap("two", "red\n");
    assert_eq!(scene.content().await, "red\n");
    scene.put("one", "no more of our business\n");
    scene.nothing().await;
}

/// As Kubernetes replaces a ConfigMap: `file` -> `..data/file`, `..data` -> `..version`.
#[tokio::test]
async fn a_symlink_swap_of_the_directory_is_seen() {
    let mut scene = Scene::new();
    for (version, text) in [("..1", "blue\n"), ("..2", "green\n")] {
        fs::create_dir(scene.path(version)).expect("creates");
        scene.put(&format!("{version}/file"), text);
    }
    symlink("..1", scene.path("..data")).expect("links");
    symlink("..data/file", scene.path("file")).expect("links");
    scene.start([scene.watch("file", What::Content)]).await;
    scene.relink("..data", "..2");
    fs::remove_dir_all(scene.path("..1")).expect("removes");
    assert_eq!(scene.content().await, "green\n");
    scene.put("..2/file", "red\n");
    assert_eq!(scene.content().await, "red\n");
}

#[tokio::test]
async fn a_directory_replaced_by_another_is_seen() {
    let mut scene = Scene::new();
    for (name, text) in [("dir", "blue\n"), ("other", "green\n")] {
        fs::create_dir(scene.path(name)).expect("creates");
        scene.put(&format!("{name}/file"), text);
    }
    scene.start([scene.watch("dir/file", What::Content)]).await;
    quickly(|_| {
        fs::rename(scene.path("dir"), scene.path("old")).expect("renames");
        fs::rename(scene.path("other"), scene.path("dir")).expect("renames");
    });
    assert_eq!(scene.content().await, "green\n");
    scene.swap("dir/file", "red\n");
    assert_eq!(scene.content().await, "red\n");
}

#[tokio::test]
async fn a_directory_that_appears_later_is_seen() {
    let mut scene = Scene::new();
    let watched = scene.watch("not/yet/file", What::Content);
    assert_eq!(watched.seen, Seen::Missing);
    scene.start([watched]).await;
    fs::create_dir_all(scene.path("not/yet")).expect("creates");
    scene.nothing().await;
    scene.put("not/yet/file", "green\n");
    assert_eq!(scene.content().await, "green\n");
    fs::remove_dir_all(scene.path("not")).expect("removes");
    assert_eq!(scene.next().await.seen, Seen::Missing);
    fs::create_dir_all(scene.path("not/yet")).expect("creates");
    scene.put("not/yet/file", "blue\n");
    assert_eq!(scene.content().await, "blue\n");
}

#[tokio::test]
async fn the_same_content_in_another_file_is_no_change_of_content() {
    let mut scene = Scene::new();
    scene.put("file", "blue\n");
    scene.start([scene.watch("file", What::Content)]).await;
    scene.swap("file", "blue\n");
    scene.put("file", "blue\n");
    scene.nothing().await;
    quickly(|_| {
        fs::remove_file(scene.path("file")).expect("removes");
        scene.put("file", "blue\n");
    });
    scene.nothing().await;
}

#[tokio::test]
async fn the_same_content_in_another_file_is_a_change_of_identity() {
    let mut scene = Scene::new();
    scene.put("file", "blue\n");
    let before = scene.watch("file", What::Identity);
    scene.start([before.clone()]).await;
    scene.put("file", "green\n");
    scene.nothing().await;
    scene.swap("file", "green\n");
    assert_ne!(scene.identity().await, before.seen);
    scene.nothing().await;
}

#[tokio::test]
async fn a_removed_file_is_missing_and_comes_back() {
    let mut scene = Scene::new();
    scene.put("file", "blue\n");
    scene.start([scene.watch("file", What::Content)]).await;
    fs::remove_file(scene.path("file")).expect("removes");
    assert_eq!(scene.next().await.seen, Seen::Missing);
    scene.put("file", "blue\n");
    assert_eq!(scene.content().await, "blue\n");
}

#[tokio::test]
async fn a_thousand_writes_end_with_the_last_content_and_few_changes() {
    let mut scene = Scene::new();
    scene.put("file", "");
    scene.start([scene.watch("file", What::Content)]).await;
    let start = Clock::now();
    let writer = {
        let path = scene.dir.path().to_owned();
        tokio::task::spawn_blocking(move || {
            for number in 1..=1_000 {
                // Both ways of writing, by turns.
                let name = path.join(if number % 2 == 0 { "file" } else { "file.new" });
                fs::write(&name, number.to_string()).expect("writes");
                if number % 2 == 1 {
                    fs::rename(&name, path.join("file")).expect("renames");
                }
            }
        })
    };
    writer.await.expect("writes");
    let most = start.elapsed().as_millis() / STABLE.as_millis() + 1;
    let mut changes = 1;
    while scene.content().await != "1000" {
        changes += 1;
    }
    scene.nothing().await;
    assert!(changes <= most, "{changes} changes, at most {most} can have been stable");
}

/// Events that never cease must not put off the look: the directory of a live file may be a busy one.
#[tokio::test]
async fn a_flood_of_other_events_does_not_drown_a_change() {
    let mut scene = Scene::new();
    scene.put("file", "blue\n");
    scene.start([scene.watch("file", What::Content)]).await;
    let noise = scene.path("noise");
    let flood = tokio::spawn(async move {
        loop {
            fs::write(&noise, "x").expect("writes");
            tokio::task::yield_now().await;
        }
    });
    let start = Clock::now();
    scene.swap("file", "green\n");
    assert_eq!(scene.content().await, "green\n");
    let late = start.elapsed();
    flood.abort();
    // Well below the periodic look; the slack is for a busy machine.
    assert!(late < EVERY / 2, "{late:?}");
}

#[tokio::test]
async fn a_socket_bound_anew_is_another_one() {
    let mut scene = Scene::new();
    let path = scene.path("nginx.sock");
    let first = UnixListener::bind(&path).expect("binds");
    let before = scene.watch("nginx.sock", What::Identity);
    scene.start([before.clone()]).await;

    // Left over by a container that was killed: still the same one.
    drop(first);
    scene.nothing().await;

    fs::remove_file(&path).expect("removes");
    assert_eq!(scene.next().await.seen, Seen::Missing);
    let _second = UnixListener::bind(&path).expect("binds");
    let after = scene.identity().await;
    assert_ne!(after, before.seen);

    // nginx binds and then changes the mode: one new socket, not two.
    fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o666)).expect("changes");
    scene.nothing().await;

    let _third = UnixListener::bind(scene.path("beside")).expect("binds");
    fs::rename(scene.path("beside"), &path).expect("renames");
    assert_ne!(scene.identity().await, after);
}

/// Many filesystems give the number of a removed file to the next one: device and inode alone would be the same.
#[test]
fn a_socket_in_the_place_of_a_removed_one_is_another_one() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("nginx.sock");
    for _ in 0..20 {
        let first = UnixListener::bind(&path).expect("binds");
        let before = look(&path, What::Identity);
        fs::remove_file(&path).expect("removes");
        drop(first);
        // The kernel stamps files with a clock of 1 to 10 ms; no container restarts within that.
        let made = Clock::now();
        while made.elapsed() < Duration::from_millis(20) {
            std::hint::spin_loop();
        }
        let _second = UnixListener::bind(&path).expect("binds");
        assert_ne!(look(&path, What::Identity), before);
        fs::remove_file(&path).expect("removes");
    }
}

#[tokio::test]
async fn without_inotify_changes_are_seen_by_looking() {
    let mut scene = Scene::with(Watcher::start_with(|_| Err(notify::Error::new(notify::ErrorKind::MaxFilesWatch))));
    scene.put("file", "blue\n");
    scene.start([scene.watch("file", What::Content)]).await;
    scene.swap("file", "green\n");
    assert_eq!(scene.content().await, "green\n");
}

#[tokio::test]
async fn what_changed_before_the_watch_began_is_seen() {
    let mut scene = Scene::new();
    scene.put("file", "blue\n");
    let watched = scene.watch("file", What::Content);
    scene.put("file", "green\n");
    scene.watcher.set(vec![watched]);
    assert_eq!(scene.content().await, "green\n");
}

#[tokio::test]
async fn a_new_set_goes_on_with_what_stays_and_forgets_the_rest() {
    let mut scene = Scene::new();
    for name in ["stays", "goes", "comes"] {
        scene.put(name, "1");
    }
    let (stays, goes) = (scene.watch("stays", What::Content), scene.watch("goes", What::Content));
    scene.start([stays.clone(), goes]).await;
    scene.swap("stays", "2");
    assert_eq!(scene.content().await, "2");
    // Its first look is old by now, but what was reported since counts.
    scene.start([stays, scene.watch("comes", What::Content)]).await;
    scene.swap("goes", "2");
    scene.nothing().await;
    scene.swap("comes", "3");
    assert_eq!(scene.content().await, "3");
    scene.swap("stays", "4");
    assert_eq!(scene.content().await, "4");
}

#[tokio::test]
async fn dropping_the_watcher_ends_the_task() {
    let scene = Scene::new();
    let mut changes = scene.changes;
    drop(scene.watcher);
    assert_eq!(timeout(PATIENCE, changes.recv()).await.expect("ends"), None);
}

#[tokio::test]
async fn stopping_does_not_wait_for_a_reader() {
    let mut scene = Scene::new();
    let many: Vec<_> = (0..2 * QUEUE)
        .map(|number| Watched { seen: Seen::Content(vec![]), ..scene.watch(&number.to_string(), What::Content) })
        .collect();
    scene.watcher.set(many);
    assert_eq!(scene.next().await.seen, Seen::Missing);
    timeout(PATIENCE, scene.watcher.stop()).await.expect("ends although its queue is full");
}

#[test]
fn a_look_tells_what_cannot_be_read() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = |name: &str| dir.path().join(name);
    let unreadable = |name: &str| match look(&path(name), What::Content) {
        Seen::Unreadable(why) => why,
        other => panic!("{name}: {other:?}"),
    };
    assert_eq!(look(&path("none"), What::Content), Seen::Missing);
    assert_eq!(look(&path("none"), What::Identity), Seen::Missing);
    symlink("none", path("dangling")).expect("links");
    assert_eq!(look(&path("dangling"), What::Content), Seen::Missing);
    fs::write(path("file"), "text").expect("writes");
    assert_eq!(look(&path("file/below"), What::Content), Seen::Missing);
    assert_eq!(look(&path("file"), What::Content), Seen::Content(b"text".to_vec()));

    assert_eq!(unreadable("."), "not a regular file");
    rustix::fs::mknodat(rustix::fs::CWD, path("fifo"), rustix::fs::FileType::Fifo, 0o600.into(), 0).expect("makes");
    assert_eq!(unreadable("fifo"), "not a regular file");
    let _socket = UnixListener::bind(path("socket")).expect("binds");
    unreadable("socket");
    symlink("loop", path("loop")).expect("links");
    unreadable("loop");
    File::create(path("large")).and_then(|file| file.set_len(LARGEST)).expect("creates");
    assert!(matches!(look(&path("large"), What::Content), Seen::Content(_)));
    File::create(path("large")).and_then(|file| file.set_len(LARGEST + 1)).expect("creates");
    assert_eq!(unreadable("large"), "larger than 1 MiB");
}

#[test]
fn our_own_looks_do_not_call_for_more() {
    assert!(is_ours(&EventKind::Access(AccessKind::Open(AccessMode::Any))));
    assert!(is_ours(&EventKind::Access(AccessKind::Close(AccessMode::Read))));
    assert!(!is_ours(&EventKind::Access(AccessKind::Close(AccessMode::Write))));
    assert!(!is_ours(&EventKind::Modify(ModifyKind::Any)));
    // What notify makes of an overflow of the kernel's queue.
    assert!(!is_ours(&EventKind::Other));
}

#[test]
fn the_places_of_a_path_are_where_its_meaning_can_change() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let root = dir.path().canonicalize().expect("exists");
    fs::create_dir_all(root.join("etc/..1")).expect("creates");
    fs::write(root.join("etc/..1/file"), "").expect("writes");
    symlink("..1", root.join("etc/..data")).expect("links");
    symlink("..data/file", root.join("etc/file")).expect("links");
    symlink(root.join("etc"), root.join("absolute")).expect("links");
    symlink("loop", root.join("loop")).expect("links");
    let of = |path: &str| -> Vec<String> {
        let mut found: Vec<_> = places(&root.join(path))
            .iter()
            .map(|place| place.strip_prefix(&root).expect("below").display().to_string())
            .collect();
        found.dedup();
        found
    };
    assert_eq!(of("etc/..1/file"), ["etc/..1"]);
    assert_eq!(of("etc/file"), ["etc", "etc/..1"]);
    assert_eq!(of("absolute/file"), ["", "etc", "etc/..1"]);
    assert_eq!(of("absolute/../etc/..1/file"), ["", "etc/..1"]);
    assert_eq!(of("etc/not/yet"), ["etc"]);
    assert_eq!(of("etc/..1/file/below"), ["etc/..1"]);
    assert_eq!(of("loop"), [""]);
}

#[tokio::test]
async fn a_look_alone_is_no_news_until_a_later_one_agrees() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("file");
    fs::write(&path, "blue\n").expect("writes");
    let mut entry = Entry { watched: Watched::new(Key::Config, &path, What::Content), unsure: None };
    let later = |entry: &mut Entry| entry.unsure.as_mut().expect("something seen once").1 -= STABLE;

    fs::write(&path, "").expect("truncates");
    assert_eq!(entry.look(), None);
    later(&mut entry);
    fs::write(&path, "gre").expect("writes");
    assert_eq!(entry.look(), None, "empty, then half");
    later(&mut entry);
    fs::write(&path, "green\n").expect("writes");
    assert_eq!(entry.look(), None, "half, then whole");
    assert_eq!(entry.look(), None, "twice, but at once");
    later(&mut entry);
    assert_eq!(entry.look().expect("news").seen, Seen::Content(b"green\n".to_vec()));
    assert_eq!((entry.look(), entry.unsure), (None, None), "told once");

    // There and back again between two looks that agree on nothing.
    let mut entry = Entry { watched: Watched::new(Key::Config, &path, What::Content), unsure: None };
    fs::write(&path, "").expect("truncates");
    assert_eq!(entry.look(), None);
    fs::write(&path, "green\n").expect("writes");
    assert_eq!((entry.look(), entry.unsure), (None, None));
}
