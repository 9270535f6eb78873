use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use bgproxy_conf::wire::{Action, CutRequest, DrainOutcome, Receipt};
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn service() -> ServiceName {
    "portal".parse().expect("a name")
}

fn entry(generation: u64) -> HistoryEntry {
    HistoryEntry {
        at: "2026-01-31T23:59:59.123Z".into(),
        service: service(),
        generation,
        action: Action::Switch,
        from: Color::green(),
        to: Color::blue(),
        forced: false,
        by: "uid 1000 (deploy) pid 4711".into(),
        receipt: Some(Receipt {
            generation,
            from: Color::green(),
            to: Color::blue(),
            outcome: DrainOutcome::Cut,
            served: 100,
            in_flight: 3,
            finished: 1,
            moved: 0,
            failed: 1,
            cut_total: 1,
            cut: vec![CutRequest { method: "GET".into(), path: "/slow?\"\n".into(), age: 31.5 }],
            streams_kept: 0,
            streams_left: 0,
            seconds: 30.001,
        }),
    }
}

fn record(generation: u64) -> Record {
    Record {
        generation,
        live: Color::blue(),
        preview: Color::green(),
        previous: Some(Color::green()),
        file_seen: Some("blue\n".into()),
        history: vec![entry(generation)],
    }
}

/// A state directory; everything in it, hidden files included, is listed by `files`.
struct Dir(TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().expect("a temp dir"))
    }

    fn open(&self) -> Store {
        Store::open(self.0.path()).expect("opens")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn put(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("writes");
    }

    fn files(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.0.path())
            .expect("lists")
            .map(|entry| entry.expect("an entry").file_name().into_string().expect("text"))
            .collect();
        names.sort();
        names
    }

    /// With generation 1 as the previous record and generation 2 as the newest one.
    fn with_two() -> (Dir, Store) {
        let dir = Dir::new();
        let store = dir.open();
        store.save(&service(), &record(1)).expect("saves");
        store.save(&service(), &record(2)).expect("saves");
        (dir, store)
    }
}

/// What `--assume-live` is offered in, and what must never be offered in another: a whole sentence.
fn told(error: &StateError) -> String {
    error.to_string()
}

#[test]
fn nothing_saved_is_fresh() {
    let dir = Dir::new();
    assert_eq!(dir.open().load(&service()).expect("loads"), Loaded::Fresh);
    assert_eq!(dir.files(), [".lock"]);
}

#[test]
fn what_is_saved_is_loaded_and_the_one_before_is_kept() {
    let (dir, store) = Dir::with_two();
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record(2)));
    assert_eq!(dir.files(), [".lock", "portal.json", "portal.json.previous"]);
    fs::remove_file(dir.path("portal.json")).expect("removes");
    match store.load(&service()).expect("loads") {
        Loaded::Previous { record: found, fault } => {
            assert_eq!(found, record(1));
            assert_eq!(fault, format!("`{}` is missing", dir.path("portal.json").display()));
        }
        other => panic!("{other:?}"),
    }
    let mode = fs::metadata(dir.path("portal.json.previous")).expect("is there").permissions().mode();
    assert_eq!(mode & 0o177, 0, "{mode:o}: nobody else may read or write");
}

/// A file of the first release. It must be readable for as long as schema 1 is: a change of the record, or of the
/// history's entries, that breaks this test keeps hosts from booting after an upgrade.
#[test]
fn a_file_of_the_first_release_is_readable() {
    let dir = Dir::new();
    dir.put("portal.json", GOLDEN);
    assert_eq!(dir.open().load(&service()).expect("loads"), Loaded::Current(record(7)));
    // What is written now has one field more.
    let written = String::from_utf8(encode(&service(), &record(7))).expect("text");
    let record = |text: &str| text.split_once("\"record\":").expect("a record").1.to_owned();
    assert_eq!(record(&written).replace("\"streams_kept\":0,", ""), record(GOLDEN));
}

const GOLDEN: &str = include_str!("golden.json");

#[test]
fn a_file_cut_off_anywhere_is_not_believed() {
    let (dir, store) = Dir::with_two();
    let whole = fs::read(dir.path("portal.json")).expect("reads");
    // The last byte is a newline, without which nothing is lost.
    for length in 0..whole.len() - 1 {
        dir.put("portal.json", &whole[..length]);
        match store.load(&service()) {
            Ok(Loaded::Previous { record: found, .. }) => assert_eq!(found, record(1), "{length}"),
            other => panic!("{length}: {other:?}"),
        }
    }
}

#[test]
fn a_file_with_any_bit_flipped_is_not_believed() {
    let (dir, store) = Dir::with_two();
    let whole = fs::read(dir.path("portal.json")).expect("reads");
    let mut refused = 0;
    for bit in 0..(whole.len() - 1) * 8 {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        dir.put("portal.json", &bytes);
        match store.load(&service()) {
            Ok(Loaded::Previous { record: found, .. }) => assert_eq!(found, record(1), "bit {bit}"),
            // The schema's own digit: a 3, 5 or 9 out of the 1 cannot be told from a newer daemon's.
            Err(StateError::Foreign { .. }) => refused += 1,
            other => panic!("bit {bit}: {other:?}"),
        }
    }
    assert_eq!(refused, 3);
}

#[test]
fn both_damaged_is_refused_with_what_to_do() {
    let (dir, store) = Dir::with_two();
    dir.put("portal.json", "{");
    dir.put("portal.json.previous", "");
    let error = store.load(&service()).expect_err("damaged");
    assert!(matches!(error, StateError::Damaged { .. }), "{error:?}");
    assert!(told(&error).contains("`--assume-live blue`"), "{error}");
    assert!(told(&error).contains("portal.json.previous` is not readable"), "{error}");
}

#[test]
fn the_only_one_damaged_is_not_fresh() {
    for name in ["portal.json", "portal.json.previous"] {
        let dir = Dir::new();
        dir.put(name, "blue");
        let error = dir.open().load(&service()).expect_err("damaged");
        assert!(matches!(error, StateError::Damaged { .. }), "{error:?}");
        assert!(told(&error).contains("is missing"), "{error}");
    }
}

#[test]
fn a_newer_schema_is_refused_although_the_previous_is_good() {
    let (dir, store) = Dir::with_two();
    dir.put("portal.json", r#"{"schema":2,"what":["comes","after"]}"#);
    let error = store.load(&service()).expect_err("newer");
    assert!(told(&error).contains("is of schema 2, this bgproxy knows up to 1; start the bgproxy that wrote it"));
    assert!(told(&error).contains("`--assume-live blue`"), "{error}");
    // Also where only the previous one is newer: it is the newest that can be read, and we cannot.
    fs::rename(dir.path("portal.json"), dir.path("portal.json.previous")).expect("renames");
    dir.put("portal.json", "");
    assert!(matches!(store.load(&service()), Err(StateError::Foreign { .. })));
}

#[test]
fn a_field_nobody_told_us_about_is_refused() {
    let (dir, store) = Dir::with_two();
    let text = serde_json::to_string(&record(3)).expect("serializes").replacen('{', r#"{"split":{"green":5},"#, 1);
    let checksum = format!("crc32:{:08x}", crc32fast::hash(text.as_bytes()));
    dir.put("portal.json", format!(r#"{{"schema":1,"checksum":"{checksum}","service":"portal","record":{text}}}"#));
    let error = store.load(&service()).expect_err("foreign");
    assert!(matches!(error, StateError::Foreign { .. }), "{error:?}");
    assert!(told(&error).contains("unknown field `split`"), "{error}");
}

#[test]
fn the_file_of_another_service_is_not_believed() {
    let (dir, store) = Dir::with_two();
    let other: ServiceName = "other".parse().expect("a name");
    fs::copy(dir.path("portal.json"), dir.path("other.json")).expect("copies");
    let error = store.load(&other).expect_err("not its own");
    assert!(told(&error).contains("belongs to service `portal`"), "{error}");
}

#[test]
fn an_unreadable_file_is_not_stepped_over() {
    let (dir, store) = Dir::with_two();
    fs::remove_file(dir.path("portal.json")).expect("removes");
    fs::create_dir(dir.path("portal.json")).expect("creates");
    let error = store.load(&service()).expect_err("a directory");
    assert!(matches!(error, StateError::Io { action: "read", .. }), "{error:?}");
}

#[test]
fn a_kill_between_any_two_steps_leaves_a_good_record() {
    // Killed while the new record is written: `forget` is what a kill does to guards.
    let (dir, store) = Dir::with_two();
    let names = store.names(&service());
    std::mem::forget(store.write(&names.current, b"{\"schema\":1,").expect("writes"));
    drop(store);
    assert_eq!(dir.files().len(), 4);
    let store = dir.open();
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record(2)));
    assert_eq!(dir.files(), [".lock", "portal.json", "portal.json.previous"]);

    // Killed while the old one gets its second name.
    let bytes = fs::read(&names.current).expect("reads");
    std::mem::forget(store.double(&names.current, &bytes).expect("links"));
    drop(store);
    let store = dir.open();
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record(2)));
    assert_eq!(dir.files(), [".lock", "portal.json", "portal.json.previous"]);

    // Killed after it: both names hold it.
    let temp = store.write(&names.current, &encode(&service(), &record(3))).expect("writes");
    store.keep(&names, &service()).expect("keeps");
    std::mem::forget(temp);
    drop(store);
    let store = dir.open();
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record(2)));
    fs::remove_file(&names.current).expect("removes");
    assert!(matches!(store.load(&service()), Ok(Loaded::Previous { record: found, .. }) if found == record(2)));

    // Killed before the directory's fsync.
    let temp = store.write(&names.current, &encode(&service(), &record(3))).expect("writes");
    temp.rename(&names.current).expect("renames");
    drop(store);
    assert_eq!(dir.open().load(&service()).expect("loads"), Loaded::Current(record(3)));
}

/// A handle whose fsync fails: the kernel has none for pipes.
fn unsyncable() -> File {
    let (_, writer) = io::pipe().expect("a pipe");
    OwnedFd::from(writer).into()
}

#[test]
fn a_failed_flush_of_the_directory_puts_the_old_record_back() {
    let (dir, mut store) = Dir::with_two();
    let handle = std::mem::replace(&mut store.handle, unsyncable());
    let error = store.save(&service(), &record(3)).expect_err("no fsync");
    assert!(matches!(error, StateError::Io { action: "flush", .. }), "{error:?}");
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record(2)));
    assert_eq!(dir.files(), [".lock", "portal.json", "portal.json.previous"]);

    // Both names lead to one file now, between which a rename does nothing: it must not leave a third name behind.
    assert_eq!(
        fs::metadata(dir.path("portal.json")).expect("is there").ino(),
        fs::metadata(dir.path("portal.json.previous")).expect("is there").ino()
    );
    store.handle = handle;
    store.save(&service(), &record(4)).expect("saves");
    assert_eq!(dir.files(), [".lock", "portal.json", "portal.json.previous"]);
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record(4)));
}

#[test]
fn a_failed_flush_of_the_first_record_leaves_none() {
    let dir = Dir::new();
    let mut store = dir.open();
    store.handle = unsyncable();
    store.save(&service(), &record(1)).expect_err("no fsync");
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Fresh);
    assert_eq!(dir.files(), [".lock"]);
}

#[test]
fn a_failed_flush_over_a_damaged_record_leaves_the_previous_in_charge() {
    let (dir, mut store) = Dir::with_two();
    dir.put("portal.json", "{");
    store.handle = unsyncable();
    store.save(&service(), &record(3)).expect_err("no fsync");
    assert!(matches!(store.load(&service()), Ok(Loaded::Previous { record: found, .. }) if found == record(1)));
}

#[test]
fn a_damaged_record_does_not_replace_the_good_previous_one() {
    let (dir, store) = Dir::with_two();
    dir.put("portal.json", "{");
    store.save(&service(), &record(3)).expect("saves");
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record(3)));
    assert_eq!(fs::read(dir.path("portal.json.refused")).expect("reads"), b"{");
    fs::remove_file(dir.path("portal.json")).expect("removes");
    assert!(matches!(store.load(&service()), Ok(Loaded::Previous { record: found, .. }) if found == record(1)));
}

/// The disk is full in the middle of the new record. A file-size limit makes the kernel cut the write off for real,
/// without root; it holds for a whole process, hence the second one.
#[test]
fn a_full_disk_leaves_the_old_record_and_no_litter() {
    const CHILD: &str = "BGPROXY_TEST_STATE_DIR";
    if let Some(dir) = std::env::var_os(CHILD) {
        let mut large = record(3);
        large.history = (0..50).map(entry).collect();
        let store = Store::open(Path::new(&dir)).expect("opens");
        let error = store.save(&service(), &large).expect_err("does not fit");
        assert!(
            matches!(&error, StateError::Io { action: "write", source, .. } if source.kind() == io::ErrorKind::FileTooLarge)
        );
        assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record(2)));
        return;
    }
    let (dir, store) = Dir::with_two();
    drop(store);
    let output = Command::new("sh")
        .args(["-c", r#"trap '' XFSZ; ulimit -f 8; exec "$0" --exact "$1""#])
        .arg(std::env::current_exe().expect("a path"))
        .arg("control::state::tests::a_full_disk_leaves_the_old_record_and_no_litter")
        .env(CHILD, dir.0.path())
        .output()
        .expect("runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("1 passed"), "{told}{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(dir.files(), [".lock", "portal.json", "portal.json.previous"]);
    assert_eq!(dir.open().load(&service()).expect("loads"), Loaded::Current(record(2)));
}

#[test]
fn a_directory_that_vanished_fails_the_save() {
    let (dir, store) = Dir::with_two();
    fs::remove_dir_all(dir.0.path()).expect("removes");
    let error = store.save(&service(), &record(3)).expect_err("no directory");
    assert!(matches!(error, StateError::Io { action: "create", .. }), "{error:?}");
}

#[test]
fn an_unusable_directory_says_what_to_do() {
    let dir = Dir::new();
    let missing = dir.path("missing");
    let error = Store::open(&missing).expect_err("missing");
    assert_eq!(
        told(&error),
        format!("state directory `{0}` does not exist; create it with `install -d -o bgproxy {0}`", missing.display())
    );
    dir.put("file", "");
    let error = Store::open(&dir.path("file")).expect_err("a file");
    assert!(told(&error).contains("is not a directory"), "{error}");
    let error = Store::open(&dir.path("file/below")).expect_err("a file");
    assert!(told(&error).contains("is not a directory"), "{error}");
    // Not even root may create a file there.
    let error = Store::open(Path::new("/sys")).expect_err("not writable");
    assert!(told(&error).contains("chown bgproxy /sys"), "{error}");
}

#[test]
fn two_daemons_cannot_share_a_directory() {
    let dir = Dir::new();
    let store = dir.open();
    let error = Store::open(dir.0.path()).expect_err("taken");
    assert!(told(&error).contains(&format!("another bgproxy (process {})", std::process::id())), "{error}");
    dir.put(".lock", "");
    let error = Store::open(dir.0.path()).expect_err("taken");
    assert!(told(&error).contains("another bgproxy;"), "{error}");
    drop(store);
    dir.open();
}

#[test]
fn litter_is_removed_and_nothing_else() {
    let dir = Dir::new();
    for name in [".portal.json.3.tmp", ".portal.json.previous.4.tmp", ".other.tmp", "portal.json.1.tmp", "notes"] {
        dir.put(name, "");
    }
    dir.open();
    assert_eq!(dir.files(), [".lock", ".other.tmp", "notes", "portal.json.1.tmp"]);
}

#[test]
fn an_assumed_record_is_above_what_can_be_made_out() {
    let (dir, store) = Dir::with_two();
    let assumed = |store: &Store| store.assume(&service(), Color::green());
    assert_eq!((assumed(&store).generation, assumed(&store).live.as_str()), (3, "green"));
    let cut = fs::read(dir.path("portal.json")).expect("reads");
    dir.put("portal.json", &cut[..cut.len() / 2]);
    assert_eq!(assumed(&store).generation, 3);
    dir.put("portal.json", r#"{"generation":99999999999999999999"#);
    assert_eq!(assumed(&store).generation, 2);
    fs::remove_file(dir.path("portal.json.previous")).expect("removes");
    let record = assumed(&store);
    assert_eq!(record.generation, 1);
    store.save(&service(), &record).expect("saves");
    assert_eq!(store.load(&service()).expect("loads"), Loaded::Current(record));
}

#[test]
fn history_forgets_its_oldest() {
    let mut record = record(1);
    record.history.clear();
    (0..60).for_each(|generation| record.remember(entry(generation)));
    let generations: Vec<_> = record.history.iter().map(|entry| entry.generation).collect();
    assert_eq!(generations, (10..60).collect::<Vec<_>>());
}

fn color() -> impl Strategy<Value = Color> {
    "[a-z][a-z0-9_-]{0,31}".prop_map(|text| text.parse().expect("a color"))
}

prop_compose! {
    fn any_entry()(
        at in any::<String>(),
        generation in any::<u64>(),
        (from, to) in (color(), color()),
        forced in any::<bool>(),
        by in any::<String>(),
        path in any::<String>(),
        millis in any::<u32>(),
        receipt in any::<bool>(),
    ) -> HistoryEntry {
        let mut entry = HistoryEntry { at, generation, from, to, forced, by, ..entry(0) };
        if let Some(receipt) = &mut entry.receipt {
            receipt.cut[0].path = path;
            // A float takes its way through text without loss up to 15 digits; more is no number of seconds.
            receipt.seconds = f64::from(millis) / 1e3;
        }
        entry.receipt = entry.receipt.filter(|_| receipt);
        entry
    }
}

prop_compose! {
    fn any_record()(
        generation in any::<u64>(),
        (live, preview, previous) in (color(), color(), proptest::option::of(color())),
        file_seen in proptest::option::of(any::<String>()),
        history in proptest::collection::vec(any_entry(), 0..4),
    ) -> Record {
        Record { generation, live, preview, previous, file_seen, history }
    }
}

proptest! {
    #[test]
    fn every_record_comes_back_as_it_was(record in any_record()) {
        let bytes = encode(&service(), &record);
        match decode(Path::new("portal.json"), &bytes, &service()) {
            Found::Good(found) => prop_assert_eq!(found, record),
            _ => prop_assert!(false, "{}", String::from_utf8_lossy(&bytes)),
        }
    }
}

/// Records of this generation, of services called `s0` and so on.
fn many(count: usize, generation: u64) -> Vec<(ServiceName, Record)> {
    let name = |n| format!("s{n}").parse().expect("a name");
    (0..count).map(|n| (name(n), record(generation))).collect()
}

fn are_at(store: &Store, records: &[(ServiceName, Record)]) -> bool {
    records.iter().all(|(name, record)| store.load(name).expect("loads") == Loaded::Current(record.clone()))
}

#[test]
fn many_are_saved_together_and_those_before_them_are_kept() {
    let dir = Dir::new();
    let store = dir.open();
    for count in [0, 1, 2, 31, 33, 500] {
        store.save_all(&many(count, 1)).expect("saves");
        assert!(are_at(&store, &many(count, 1)), "{count}");
    }
    assert_eq!(dir.files().len(), 1 + 500 + 33, "and nothing half-written: {:?}", dir.files());
    store.save_all(&many(500, 2)).expect("saves");
    drop(store);
    assert!(are_at(&dir.open(), &many(500, 2)));
    assert_eq!(dir.files().len(), 1 + 500 + 500);
}

#[test]
fn a_failed_flush_puts_all_of_many_back() {
    let dir = Dir::new();
    let mut store = dir.open();
    store.save_all(&many(50, 1)).expect("saves");
    store.handle = unsyncable();
    store.save_all(&many(100, 2)).expect_err("no fsync");
    assert!(are_at(&store, &many(50, 1)));
    assert!(many(100, 2)[50..].iter().all(|(name, _)| store.load(name).expect("loads") == Loaded::Fresh));
    assert_eq!(dir.files().len(), 1 + 50 + 50, "newest and previous of those there were: {:?}", dir.files());
}

/// The others had been replaced already, or were yet to be.
#[test]
fn one_that_cannot_be_replaced_leaves_all_as_they_were() {
    let dir = Dir::new();
    let store = dir.open();
    store.save_all(&many(50, 1)).expect("saves");
    fs::remove_file(dir.path("s25.json")).expect("removes");
    fs::create_dir(dir.path("s25.json")).expect("a directory in its place");
    store.save_all(&many(50, 2)).expect_err("no file");
    let all = many(50, 1);
    assert!(are_at(&store, &all[..25]) && are_at(&store, &all[26..]));
    assert!(dir.files().iter().all(|name| !name.ends_with(".tmp")), "{:?}", dir.files());
}

/// A crash after the new ones are on disk and before they are renamed.
#[test]
fn many_that_were_written_and_not_renamed_were_never_there() {
    let dir = Dir::new();
    let store = dir.open();
    store.save_all(&many(40, 1)).expect("saves");
    std::mem::forget(store.write_all(&many(60, 2)).expect("writes"));
    drop(store);
    let store = dir.open();
    assert!(are_at(&store, &many(40, 1)));
    assert_eq!(dir.files().len(), 1 + 40, "{:?}", dir.files());
}
