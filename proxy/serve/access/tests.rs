use std::fs;
use std::io::{PipeReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, UNIX_EPOCH};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

fn line() -> Line<'static> {
    Line {
        time: UNIX_EPOCH + Duration::from_millis(1_769_903_999_123),
        client: IpAddr::from([192, 0, 2, 7]),
        method: "GET",
        host: b"portal.example.com",
        target: b"/a?b=c",
        protocol: "HTTP/1.1",
        status: 200,
        bytes_in: 0,
        bytes_out: 12,
        seconds: 0.001_234_567,
        first_byte: Some(0.001),
        service: Some("portal"),
        color: Some("blue"),
        generation: Some(7),
        reason: None,
        retries: 0,
        request_id: Some(b"8f1c"),
        user_agent: Some(b"curl/8.5.0"),
        referer: None,
    }
}

fn formatted(format: AccessFormat, line: &Line<'_>) -> String {
    let (mut out, mut stamp) = (Vec::new(), Stamp::default());
    match format {
        AccessFormat::Json => format::json(&mut out, &mut stamp, line),
        AccessFormat::Combined => format::combined(&mut out, &mut stamp, line),
    }
    .expect("formats");
    String::from_utf8(out).expect("text")
}

/// A log into a pipe, so that a test decides when it is read.
fn piped() -> (AccessLog, AccessWriterHandle, PipeReader) {
    let (reader, writer) = io::pipe().expect("a pipe");
    let losses = Arc::new(Losses::default());
    let writer = Writer::new(OwnedFd::from(writer).into(), losses.clone());
    let (log, handle) = AccessLog::start(writer, AccessFormat::Json, losses).expect("starts");
    (log, handle, reader)
}

fn text(mut reader: impl Read) -> String {
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("reads");
    text
}

#[test]
fn a_json_line_says_what_is_known() {
    assert_eq!(
        formatted(AccessFormat::Json, &line()),
        concat!(
            r#"{"time":"2026-01-31T23:59:59.123Z","client":"192.0.2.7","method":"GET","host":"portal.example.com","#,
            r#""target":"/a?b=c","protocol":"HTTP/1.1","status":200,"bytes_in":0,"bytes_out":12,"seconds":0.001235,"#,
            r#""first_byte":0.001,"service":"portal","color":"blue","generation":7,"#,
            r#""retries":0,"request_id":"8f1c","user_agent":"curl/8.5.0"}"#,
            "\n"
        )
    );
}

#[test]
fn a_combined_line_is_what_analyzers_expect() {
    assert_eq!(
        formatted(AccessFormat::Combined, &line()),
        "192.0.2.7 - - [31/Jan/2026:23:59:59 +0000] \"GET /a?b=c HTTP/1.1\" 200 12 \"-\" \"curl/8.5.0\"\n"
    );
}

#[test]
fn the_second_turns_and_the_calendar_has_an_end() {
    let (mut out, mut stamp) = (Vec::new(), Stamp::default());
    let times = [
        (UNIX_EPOCH + Duration::from_millis(951_782_399_999), "2000-02-28T23:59:59.999Z", "28/Feb/2000:23:59:59"),
        (UNIX_EPOCH + Duration::from_millis(951_782_400_001), "2000-02-29T00:00:00.001Z", "29/Feb/2000:00:00:00"),
        (UNIX_EPOCH + Duration::from_millis(951_782_400_020), "2000-02-29T00:00:00.020Z", "29/Feb/2000:00:00:00"),
        (UNIX_EPOCH - Duration::from_secs(1), "1970-01-01T00:00:00.000Z", "01/Jan/1970:00:00:00"),
        (UNIX_EPOCH + Duration::from_secs(1 << 40), "9999-12-31T23:59:59.000Z", "31/Dec/9999:23:59:59"),
    ];
    for (time, rfc3339, clf) in times {
        out.clear();
        format::json(&mut out, &mut stamp, &Line { time, ..line() }).expect("formats");
        format::combined(&mut out, &mut stamp, &Line { time, ..line() }).expect("formats");
        let both = String::from_utf8_lossy(&out);
        assert!(both.contains(rfc3339) && both.contains(clf), "{both}");
    }
}

/// What must hold of any bytes a client may send: one line, its fields in their places, nothing for a terminal.
fn cannot_forge(bytes: &[u8]) {
    let hostile = Line {
        host: bytes,
        target: bytes,
        request_id: Some(bytes),
        user_agent: Some(bytes),
        referer: Some(bytes),
        ..line()
    };

    let json = formatted(AccessFormat::Json, &hostile);
    let value: Value = serde_json::from_str(&json).expect("one JSON value");
    for key in ["host", "target", "request_id", "user_agent", "referer"] {
        let found = value[key].as_str().expect("a string");
        if !bytes.contains(&b'\\') && bytes.iter().all(|byte| (b' '..=b'~').contains(byte)) {
            assert_eq!(found.as_bytes(), bytes);
        }
    }
    assert_eq!(value["status"], 200);
    assert!(json.ends_with("}\n") && json.lines().count() == 1, "{json:?}");
    let unseen = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
    assert!(!json.trim_end_matches('\n').contains(unseen), "{json:?}");

    let combined = formatted(AccessFormat::Combined, &hostile);
    let printable = combined.trim_end_matches('\n').bytes().all(|byte| (b' '..=b'~').contains(&byte));
    assert!(printable && combined.ends_with("\"\n"), "{combined:?}");
    assert_eq!(combined.matches('"').count(), 6, "{combined:?}");
    assert!(combined.contains(" HTTP/1.1\" 200 12 \""), "{combined:?}");
}

#[test]
fn a_client_cannot_forge_a_line_or_a_field() {
    let attempts: [&[u8]; 12] = [
        b"",
        b"/\" 200 0 \"-\" \"-\"\n10.0.0.1 - - [x] \"GET /admin HTTP/1.1\" 200 1 \"-\" \"-",
        b"/\",\"status\":500,\"x\":\"",
        b"\r\n{\"status\":500}\r\n",
        b"\\\" \\",
        b"\\x22 \\u0022",
        b"\0\x01\x07\x08\x1b[2J\x7f",
        b"\xff\xfe\xc0\xaf\xed\xa0\x80",
        b"half of two bytes \xc3",
        "C1: \u{9b}31m \u{85} \u{2028} \u{2029} \u{80}\u{9f}".as_bytes(),
        "Grüße ☺ \u{1f980}".as_bytes(),
        b"\xe2\x80",
    ];
    attempts.into_iter().for_each(cannot_forge);
    let odd = Line { target: b"/\xff\x1b\"", user_agent: Some("\u{9b}\\".as_bytes()), ..line() };
    let json = formatted(AccessFormat::Json, &odd);
    assert!(json.contains(r#""target":"/\\xFF\u001b\"""#) && json.contains(r#""user_agent":"\\xC2\\x9B\\""#), "{json}");
    let combined = formatted(AccessFormat::Combined, &odd);
    assert!(
        combined.contains(r#""GET /\xFF\x1B\x22 HTTP/1.1""#) && combined.contains(r#""\xC2\x9B\x5C""#),
        "{combined}"
    );
}

proptest! {
    #[test]
    fn no_bytes_at_all_can_forge(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
        cannot_forge(&bytes);
    }

    #[test]
    fn no_text_at_all_can_forge(text in any::<String>()) {
        cannot_forge(text.as_bytes());
    }
}

#[test]
fn off_is_nothing() {
    assert!(AccessLog::open(&Destination::Off, AccessFormat::Json).expect("opens").is_none());
}

#[test]
fn a_file_that_cannot_be_opened_says_what_to_do() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("missing/access.log");
    let error = AccessLog::open(&Destination::File(path.clone()), AccessFormat::Json).expect_err("no directory");
    assert_eq!(
        error.to_string(),
        format!(
            "cannot open the access log `{}`, whose directory must exist and be writable (`log.access`)",
            path.display()
        )
    );
}

#[test]
fn every_worker_s_lines_are_written_whole_and_once() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("access.log");
    let open = AccessLog::open(&Destination::File(path.clone()), AccessFormat::Json).expect("opens");
    let (log, handle) = open.expect("is on");
    let losses = log.losses();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let mut lines = log.lines();
            std::thread::spawn(move || {
                for number in 0..2_000_u64 {
                    lines.push(&Line { bytes_in: number, generation: Some(worker), ..line() });
                    if number % 97 == 0 {
                        lines.flush();
                    }
                }
            })
        })
        .collect();
    drop(log);
    workers.into_iter().for_each(|worker| worker.join().expect("pushes"));
    assert!(handle.join(PATIENCE));
    let text = fs::read_to_string(&path).expect("reads");
    let mut next = [0; 4];
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).expect("a whole line");
        let worker = &mut next[usize::try_from(line["generation"].as_u64().expect("a number")).expect("small")];
        // What the queue could not take may be missing, but nothing comes twice or out of order.
        assert!(line["bytes_in"].as_u64().expect("a number") >= *worker);
        *worker = line["bytes_in"].as_u64().expect("a number") + 1;
    }
    assert_eq!(text.lines().count() as u64 + losses.queue_full(), 8_000);
    let mode = fs::metadata(&path).expect("is there").permissions().mode();
    assert_eq!(mode & 0o137, 0, "{mode:o}");
}

#[test]
fn a_full_queue_costs_lines_and_counts_them() {
    let (log, handle, reader) = piped();
    let (mut lines, losses) = (log.lines(), log.losses());
    drop(log);
    // Nobody reads: the pipe fills, the writer waits in it, then the queue fills.
    let mut pushed: u64 = 0;
    while losses.queue_full() < 1_000 && pushed < 200_000 {
        lines.push(&line());
        pushed += 1;
    }
    assert!(losses.queue_full() >= 1_000, "the queue has no bound, or nobody counts");
    drop(lines);
    let reader = std::thread::spawn(move || text(reader));
    assert!(handle.join(PATIENCE));
    let text = reader.join().expect("reads");
    assert!(text.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    assert_eq!(text.lines().count() as u64 + losses.queue_full(), pushed);
    assert_eq!(losses.write_failed(), 0);
}

#[test]
fn a_writer_that_is_stuck_does_not_hold_up_the_end() {
    let (log, handle, reader) = piped();
    let mut lines = log.lines();
    (0..1_000).for_each(|_| lines.push(&line()));
    drop((lines, log));
    assert!(!handle.join(Duration::from_millis(20)));
    drop(reader);
}

#[test]
fn a_reader_that_went_away_costs_lines_and_counts_them() {
    let (log, handle, reader) = piped();
    drop(reader);
    let (mut lines, losses) = (log.lines(), log.losses());
    drop(log);
    (0..10).for_each(|_| lines.push(&line()));
    drop(lines);
    assert!(handle.join(PATIENCE));
    assert_eq!((losses.write_failed(), losses.queue_full()), (10, 0));
}

#[test]
fn a_full_disk_costs_lines_and_counts_them() {
    let open = AccessLog::open(&Destination::File("/dev/full".into()), AccessFormat::Combined).expect("opens");
    let (log, handle) = open.expect("is on");
    let (mut lines, losses) = (log.lines(), log.losses());
    drop(log);
    for _ in 0..3 {
        (0..10).for_each(|_| lines.push(&line()));
        lines.flush();
    }
    drop(lines);
    assert!(handle.join(PATIENCE));
    assert_eq!(losses.write_failed(), 30);
}

#[test]
fn a_line_torn_by_a_full_disk_does_not_spoil_the_next() {
    let (mut reader, pipe) = io::pipe().expect("a pipe");
    rustix::fs::fcntl_setfl(&pipe, rustix::fs::OFlags::NONBLOCK).expect("sets");
    let losses = Arc::new(Losses::default());
    let mut writer = Writer::new(OwnedFd::from(pipe).into(), losses.clone());
    // A pipe takes 64 KiB and then no more, as a disk that fills up in the midst of a batch.
    let whole = formatted(AccessFormat::Json, &line());
    writer.write(whole.repeat(1_000).as_bytes());
    writer.write(whole.as_bytes());
    let written = 65_536 / whole.len();
    assert_eq!(losses.write_failed(), 1_001 - written as u64);

    let mut first = vec![0; 65_536];
    reader.read_exact(&mut first).expect("reads");
    writer.write(whole.repeat(2).as_bytes());
    drop(writer);
    let text = String::from_utf8(first).expect("text") + &text(reader);
    let (good, torn): (Vec<_>, Vec<_>) = text.lines().partition(|line| serde_json::from_str::<Value>(line).is_ok());
    assert_eq!((good.len(), torn.len()), (written + 2, 1));
}

#[test]
fn a_rotated_file_is_let_go() {
    let dir = tempfile::tempdir().expect("a temp dir");
    let path = dir.path().join("access.log");
    let mut writer = Writer::open(&path, Arc::default()).expect("opens");
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    writer.write(b"1\n");
    writer.follow();
    writer.write(b"2\n");
    assert_eq!(read("access.log"), "1\n2\n");

    fs::rename(&path, dir.path().join("access.log.1")).expect("renames");
    writer.write(b"3\n");
    writer.follow();
    writer.write(b"4\n");
    assert_eq!((read("access.log.1").as_str(), read("access.log").as_str()), ("1\n2\n3\n", "4\n"));

    // logrotate's `create`: a new file is there already.
    fs::rename(&path, dir.path().join("access.log.2")).expect("renames");
    fs::write(&path, "").expect("creates");
    writer.follow();
    writer.write(b"5\n");
    assert_eq!((read("access.log.2").as_str(), read("access.log").as_str()), ("4\n", "5\n"));

    // `copytruncate`: the same file, shorter; appending goes to its end.
    fs::write(&path, "").expect("truncates");
    writer.follow();
    writer.write(b"6\n");
    assert_eq!(read("access.log"), "6\n");

    // What cannot be opened anew is written on, and found again when it can.
    fs::rename(&path, dir.path().join("access.log.3")).expect("renames");
    fs::create_dir(&path).expect("creates");
    writer.follow();
    writer.write(b"7\n");
    assert_eq!(read("access.log.3"), "6\n7\n");
    fs::remove_dir(&path).expect("removes");
    writer.follow();
    writer.write(b"8\n");
    assert_eq!(read("access.log"), "8\n");
}

#[test]
fn a_buffer_comes_back_empty_and_is_used_again() {
    let (log, handle, reader) = piped();
    let mut lines = log.lines();
    lines.push(&line());
    let first = (lines.buffer.as_ptr(), lines.buffer.capacity());
    lines.flush();
    let back = lines.spares.recv_timeout(PATIENCE).expect("comes back");
    assert_eq!(((back.as_ptr(), back.capacity()), back.len()), (first, 0));
    drop((lines, log));
    assert!(handle.join(PATIENCE));
    assert_eq!(text(reader).lines().count(), 1);
}
