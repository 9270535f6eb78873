//! That the harness can be relied on: its parts against each other, without the door.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use bgproxy_conf::wire;

use crate::harness::door::{Events, Metrics};
use crate::harness::fake::{Crowded, ok};
use crate::harness::http2::{Http2, piece, runtime};
use crate::harness::load::{Done, Plan, Speaks, SwitchSeen, Tally};
use crate::harness::others::nginx;
use crate::harness::raw::{Failure, Framing, request};
use crate::harness::tools::missing;
use crate::harness::trust::{base64, certificate};
use crate::harness::{
    Act, App, Authority, Door, Fake, Kind, Load, Output, Process, Raw, Trust, need, temp_dir, text_of, wait_for,
    wait_until,
};

// === the application ===

#[test]
fn the_application_serves_files_pages_and_uploads() {
    let dir = temp_dir();
    let app = App::start(dir.path(), "blue");

    let index = app.get("/?a=1");
    assert_eq!((index.status, index.color(), index.text()), (200, Some("blue"), "blue\n".into()));
    let page = app.get("/static/page.html");
    assert_eq!((page.status, page.header("content-type"), page.color()), (200, Some("text/html"), Some("blue")));
    let image = app.get("/static/image.png");
    assert_eq!((image.header("content-type"), &image.body[..4]), (Some("image/png"), &b"\x89PNG"[..]));
    assert_eq!(app.get("/nothing").status, 404);
    assert_eq!(app.get("/big?bytes=100000").body.len(), 100_000);

    let headers = [("X-Forwarded-For", "203.0.113.9"), ("X-Thing", "a"), ("Connection", "close")];
    let said = Raw::ask(app.socket(), &request("POST", "/echo/%7e//x?q=%20", &headers, b"hello")).json();
    assert_eq!(said["method"], "POST");
    assert_eq!(said["target"], "/echo/%7e//x?q=%20");
    assert_eq!(said["client"], "203.0.113.9", "nginx believes the door about the client");
    assert_eq!(said["headers"]["x-thing"], "a");
    assert_eq!(said["length"], 5);
    assert_eq!(said["sha256"], "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824");
}

#[test]
fn the_application_answers_each_kind_of_status_and_its_cookies() {
    let dir = temp_dir();
    let app = App::start(dir.path(), "green");
    for status in [204, 304, 404, 500, 503] {
        assert_eq!(app.get(&format!("/status/{status}")).status, status);
    }
    assert_eq!(app.get("/status/204").framing, Framing::Empty);
    assert_eq!(app.get("/redirect?to=/x").header("location"), Some("/x"));

    let cookies = Raw::ask(app.socket(), &request("GET", "/cookies", &[("Cookie", "c=3")], b""));
    assert_eq!((cookies.head.fields.all("set-cookie").len(), cookies.text()), (2, "c=3".into()));
    let head = Raw::ask(app.socket(), &request("HEAD", "/big?bytes=10", &[], b""));
    assert_eq!((head.header("content-length"), head.body.len()), (Some("10"), 0));
}

#[test]
fn the_application_keeps_a_request_until_it_is_released() {
    let dir = temp_dir();
    let app = App::start(dir.path(), "blue");
    let mut raw = Raw::connect(app.socket());
    assert!(!app.has_entered("a"));
    raw.send(request("GET", "/hold?id=a", &[], b""));
    app.wait_entered("a");
    app.release("a");
    assert_eq!(raw.response().text(), "blue\n");

    raw.send(request("GET", "/slow?ms=20&id=b", &[], b""));
    app.wait_entered("b");
    assert_eq!(raw.response().text(), "blue\n", "on the same connection");
}

#[test]
fn the_application_streams_while_it_is_held() {
    let dir = temp_dir();
    let app = App::start(dir.path(), "blue");
    let mut raw = Raw::connect(app.socket());
    raw.send(request("GET", "/stream?chunks=2&id=s", &[], b""));
    let (head, mut body) = raw.head();
    assert_eq!((head.status, body.framing), (200, Framing::Chunked));
    assert_eq!(raw.piece(&mut body).unwrap().unwrap(), b"blue 0\n", "before the second one is due");
    app.release("s");
    assert_eq!(raw.piece(&mut body).unwrap().unwrap(), b"blue 1\n");
    assert!(raw.piece(&mut body).unwrap().is_none());

    raw.send(request("GET", "/sse?events=2&every_ms=1", &[], b""));
    assert_eq!(raw.response().text(), "id: 0\ndata: blue\n\nid: 1\ndata: blue\n\n");
}

#[test]
fn the_application_can_be_made_unready() {
    let dir = temp_dir();
    let app = App::start(dir.path(), "blue");
    app.set_ready(false);
    assert_eq!((app.get("/ready").status, app.get("/ready").text()), (503, "migrating the database\n".into()));
    app.set_ready(true);
    assert_eq!(app.get("/ready").status, 200);
}

#[test]
fn a_killed_application_leaves_its_socket_file_and_starts_again() {
    let dir = temp_dir();
    let mut app = App::start(dir.path(), "blue");
    let before = app.pid();
    app.kill9_nginx();
    assert!(app.socket().exists());
    let why = Raw::try_connect(app.socket()).unwrap_err();
    assert!(matches!(&why, Failure::Connect(why) if why.kind() == std::io::ErrorKind::ConnectionRefused), "{why}");

    app.restart();
    assert_eq!(app.get("/").status, 200);
    assert_ne!(app.pid(), before);
    app.stop();
    assert!(!app.socket().exists());
}

// === the load ===

#[test]
fn a_load_against_the_application_has_no_failures() {
    let dir = temp_dir();
    let app = App::start(dir.path(), "blue");
    let load = Load::start(app.socket(), 32, Kind::mixed());
    load.wait_round();
    load.wait_round_of("blue");
    assert!(load.progress().iter().all(|count| *count >= 2));
    let tally = load.stop();
    tally.assert_clean();
    assert_eq!(tally.by_color()["blue"], tally.total());
    assert_eq!(tally.terms().unwrap(), [("blue".into(), tally.total() as u64)]);
}

#[test]
fn a_bounded_load_sends_what_it_was_told_to_and_finds_wrong_answers() {
    let dir = temp_dir();
    let right = b"HTTP/1.1 200 OK\r\nX-Color: blue\r\nContent-Length: 5\r\n\r\nblue\n";
    let fake = Fake::answers(dir.path().join("a"), right);
    let tally = Load::bounded(fake.target(), 3, vec![Kind::Index], 10).finish();
    tally.assert_clean();
    assert_eq!((tally.total(), fake.heard().len()), (30, 3), "three connections, kept alive");

    let wrong = b"HTTP/1.1 200 OK\r\nX-Color: blue\r\nContent-Length: 6\r\n\r\ngreen\n";
    let fake = Fake::answers(dir.path().join("b"), wrong);
    let tally = Load::bounded(fake.target(), 1, vec![Kind::Index], 2).finish();
    assert_eq!(tally.faults().len(), 2);
    assert!(tally.faults()[0].contains(r#"body is "green\n", must be "blue\n""#), "{:?}", tally.faults());
}

#[test]
fn a_load_speaks_each_protocol_to_a_server_that_nobody_here_wrote() {
    let dir = temp_dir();
    let app = App::start(dir.path(), "blue");
    let authority = Authority::new();
    let (tls, clear, _nginx) = nginx_before(&app.socket(), dir.path(), &authority);
    let trust = Trust::of(&authority, "portal.example");
    let ways = [
        (&tls, Speaks::TlsHttp1(trust.clone()), 8, 1),
        (&tls, Speaks::TlsHttp2(trust.clone()), 2, 8),
        (&tls, Speaks::TlsHttp2(trust.resuming()), 2, 8),
        (&clear, Speaks::H2c, 2, 8),
    ];
    for (to, speaks, connections, streams) in ways {
        let plan = Plan::new(to.as_path(), connections, Kind::mixed()).speaks(speaks.clone()).streams(streams);
        let tally = plan.requests(30).renew(40).start().finish();
        tally.assert_clean();
        assert_eq!((tally.connections.len(), tally.total()), (connections * streams, 30 * connections * streams));
        assert_eq!(tally.by_color()["blue"], tally.total(), "{speaks:?}");
    }
}

#[test]
fn a_load_over_http2_finds_wrong_answers_and_lost_connections() {
    let dir = temp_dir();
    let socket = dir.path().join("s");
    let server = format!(
        "server {{ listen unix:{} http2; keepalive_requests 3; location / {{ add_header X-Color blue; \
         return 200 \"green\\n\"; }} }}",
        socket.display()
    );
    let mut nginx = nginx(dir.path(), &server, &socket);
    let plan = Plan::new(socket.as_path(), 1, vec![Kind::Index]).speaks(Speaks::H2c);
    let tally = plan.clone().requests(10).start().finish();
    // That it ends the connection after three requests is its right, and no fault.
    assert_eq!(tally.faults().len(), 10);
    assert!(tally.faults()[0].contains(r#"body is "green\n", must be "blue\n""#), "{:?}", tally.faults());
    nginx.kill9();
    let tally = plan.requests(1).start().finish();
    assert!(tally.faults()[0].contains("cannot connect"), "{:?}", tally.faults());
}

#[test]
fn a_client_over_tls_knows_whom_it_speaks_to() {
    let dir = temp_dir();
    let (authority, other) = (Authority::new(), Authority::new());
    let upstream = Fake::answers(dir.path().join("a"), ok("hi"));
    let (tls, _, _nginx) = nginx_before(Path::new(&upstream.address()), dir.path(), &authority);
    let mut raw = Raw::connect_tls(&*tls, &Trust::of(&authority, "portal.example"));
    raw.send(request("GET", "/", &[("Connection", "close")], b""));
    assert_eq!(raw.response().text(), "hi");
    assert!(!raw.rest().reset, "an orderly end");
    let shown = raw.server_certificate().expect("a certificate");
    assert_eq!(shown, certificate(&text_of(&dir.path().join("tls/cert.pem"))));

    let refused = |trust: Trust| Raw::try_connect_tls(&*tls, &trust).expect_err("not that one").to_string();
    let other_name = refused(Trust::of(&authority, "other.example"));
    assert!(other_name.contains("not valid for name \"other.example\""), "{other_name}");
    let other_authority = refused(Trust::of(&other, "portal.example"));
    assert!(other_authority.contains("UnknownIssuer"), "{other_authority}");
}

#[test]
fn a_client_of_http2_asks_and_opens_a_tunnel_on_one_connection() {
    let dir = temp_dir();
    let path = dir.path().join("s");
    runtime().block_on(async {
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let serving = async {
            let (socket, _) = listener.accept().await.unwrap();
            let mut serving = h2::server::Builder::new().enable_connect_protocol().handshake(socket).await.unwrap();
            while let Some(request) = serving.accept().await {
                let (request, mut answer) = request.unwrap();
                let protocol = request.extensions().get::<h2::ext::Protocol>().map(|name| name.as_str().to_owned());
                let mut out = answer.send_response(http::Response::new(()), false).unwrap();
                let said = protocol.unwrap_or_else(|| request.uri().path().to_owned());
                out.send_data(bytes::Bytes::from(said), true).unwrap();
            }
        };
        let asking = async {
            let open = Http2::connect(&path.as_path().into(), None).await.unwrap();
            let answer = open.get("https://portal.example/x").await.unwrap();
            assert_eq!((answer.status, answer.text(), answer.head.version.as_str()), (200, "/x".into(), "HTTP/2"));
            let (status, _out, mut body) = open.websocket("https://portal.example/tunnel").await.unwrap();
            assert_eq!((status, piece(&mut body).await.unwrap().unwrap()), (200, "websocket".into()));
            assert!(piece(&mut body).await.is_none() && !open.has_ended());
        };
        tokio::join!(serving, asking);
    });
}

#[test]
fn an_authority_signs_for_servers_and_clients_that_programs_believe() {
    let (authority, dir) = (Authority::new(), temp_dir());
    let ca = authority.write(dir.path());
    let server = dir.path().join("server");
    authority.server_for(&["portal.example", "127.0.0.1"], Duration::from_secs(60)).write(&server);
    let client = dir.path().join("client");
    authority.client("alice").write(&client);
    let verify = |dir: &Path, args: &[&str]| {
        let mut command = Command::new(need("openssl"));
        command.args(["verify", "-CAfile"]).arg(&ca).args(args).arg(dir.join("cert.pem"));
        Output::of(&mut command, dir)
    };
    verify(&server, &["-purpose", "sslserver", "-verify_hostname", "portal.example"]).ok();
    verify(&server, &["-purpose", "sslserver", "-verify_ip", "127.0.0.1"]).ok();
    verify(&client, &["-purpose", "sslclient"]).ok();
    assert_ne!(verify(&client, &["-purpose", "sslserver"]).code, Some(0));
    let later = (SystemTime::now() + Duration::from_secs(120)).duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let told = verify(&server, &["-attime", &later.as_secs().to_string()]);
    assert!(told.stderr.contains("certificate has expired"), "{told:?}");
    assert_eq!([base64(b""), base64(b"f"), base64(b"fo"), base64(b"foo")], ["", "Zg==", "Zm8=", "Zm9v"]);
}

/// An nginx before a socket: over TLS with the certificate in `tls/`, and in clear over HTTP/2.
fn nginx_before(socket: &Path, dir: &Path, authority: &Authority) -> (PathBuf, PathBuf, Process) {
    authority.server(&["portal.example"]).write(&dir.join("tls"));
    let (tls, clear) = (dir.join("tls.sock"), dir.join("h2c.sock"));
    let place = "location / { proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ''; }";
    let http = format!(
        "client_max_body_size 0;\nupstream behind {{ server unix:{}; keepalive 32; }}\n\
         server {{ listen unix:{} ssl http2; ssl_certificate {dir}/tls/cert.pem; \
         ssl_certificate_key {dir}/tls/key.pem; {place} }}\n\
         server {{ listen unix:{} http2; {place} }}",
        socket.display(),
        tls.display(),
        clear.display(),
        dir = dir.display(),
    );
    let process = nginx(dir, &http, &tls);
    (tls, clear, process)
}

#[test]
fn a_load_never_sends_a_request_twice() {
    let dir = temp_dir();
    let fake = Fake::scripted(dir.path().join("a"), |number| match number {
        0 => vec![Act::ReadRequest],
        _ => vec![Act::ReadRequest, Act::Say(ok("")), Act::Repeat],
    });
    let tally = Load::bounded(fake.target(), 1, vec![Kind::Post(10)], 2).finish();
    assert!(tally.faults()[0].contains("closed after 0 bytes"), "{:?}", tally.faults());
    let requests: Vec<usize> = fake.heard().iter().map(|heard| heard.requests).collect();
    assert_eq!(requests, [1, 1], "a new connection for the next request");
}

#[test]
fn a_tally_is_cut_into_terms_and_judged_by_the_replies() {
    let start = Instant::now();
    let at = |ms: u64| start + Duration::from_millis(ms);
    let done =
        |color: &str, sent, ended| Done { color: Some(color.into()), sent: at(sent), done: at(ended), fault: None };
    let tally = Tally {
        connections: vec![
            vec![done("blue", 0, 1), done("blue", 2, 9), done("green", 13, 14), done("blue", 25, 26)],
            vec![done("blue", 0, 12), done("green", 12, 13), done("green", 14, 21), done("blue", 22, 23)],
        ],
    };
    assert_eq!(tally.terms().unwrap(), [("blue".into(), 3), ("green".into(), 3), ("blue".into(), 2)]);

    let seen = |asked, replied, to: &str| SwitchSeen { asked: at(asked), replied: at(replied), to: to.into() };
    assert!(tally.served_by_the_wrong_color(&[seen(10, 11, "green"), seen(20, 24, "blue")]).is_empty());
    let early = [seen(1, 2, "green"), seen(20, 24, "blue")];
    assert_eq!(tally.served_by_the_wrong_color(&early).len(), 1, "blue answered what was sent at 2");

    let uneven = Tally { connections: vec![vec![done("blue", 0, 1)], vec![done("green", 0, 1)]] };
    assert!(uneven.terms().is_err());
}

// === fake backends and the raw client ===

#[test]
fn a_fake_backend_keeps_every_byte_it_was_sent() {
    let dir = temp_dir();
    let fake = Fake::answers(dir.path().join("a"), ok("hi"));
    let sent = b"POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: 1\r\n\r\n";
    let mut raw = Raw::connect(fake.target());
    raw.send_slowly(sent, 7, Duration::from_millis(1));
    assert_eq!(raw.response().text(), "hi");
    raw.send(b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n");
    assert_eq!((raw.response().text(), raw.response().text()), ("hi".into(), "hi".into()), "pipelined");
    assert_eq!(fake.wait_requests(3)[0].requests, 3);
    assert_eq!(fake.only(), [&sent[..], b"GET /1 HTTP/1.1\r\n\r\nGET /2 HTTP/1.1\r\n\r\n"].concat());
}

#[test]
fn a_fake_backend_commits_the_sin_it_is_named_after() {
    let dir = temp_dir();
    let at = || dir.path().join("a");
    let get = request("GET", "/", &[], b"");
    let failure = |fake: Fake| Raw::try_ask(fake.target(), &get).unwrap_err();

    // Which of them it is depends on whether the request came before the close.
    let closed = failure(Fake::closes_without_reading(at()));
    assert!(matches!(closed, Failure::Closed(_) | Failure::Reset(_) | Failure::Send(_)), "{closed}");
    assert!(matches!(failure(Fake::reads_then_closes(at())), Failure::Closed(read) if read.is_empty()));
    assert!(matches!(failure(Fake::resets_after(at(), 5)), Failure::Reset(read) if read.is_empty()));
    assert!(matches!(failure(Fake::answers_half_a_head(at())), Failure::Closed(read) if !read.is_empty()));
    assert!(matches!(failure(Fake::answers_half_a_body(at())), Failure::Closed(_)));
    assert!(matches!(failure(Fake::answers_half_a_chunked_body(at())), Failure::Closed(_)));
    assert!(matches!(failure(Fake::answers_with_both_lengths(at())), Failure::Malformed(_)));

    let silent = Fake::never_answers(at());
    let mut raw = Raw::connect(silent.target()).deadline(Duration::from_millis(50));
    assert!(matches!(raw.send(&get).try_response(), Err(Failure::Timeout(_))));
}

#[test]
fn a_fake_backend_resets_over_tcp_too() {
    let anywhere: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    let fake = Fake::resets_after(anywhere, 5);
    assert!(!fake.address().ends_with(":0"));
    let failure = Raw::try_ask(fake.target(), &request("GET", "/", &[], b"")).unwrap_err();
    assert!(matches!(failure, Failure::Reset(_)), "{failure}");
}

#[test]
fn a_fake_backend_answers_in_odd_but_right_ways() {
    let dir = temp_dir();
    let at = || dir.path().join("a");
    let get = request("GET", "/", &[], b"");

    let fake = Fake::answers_chunked_with_trailers(at());
    let chunked = Raw::ask(fake.target(), &get);
    assert_eq!((chunked.text(), chunked.trailers.get("x-checksum")), ("hello world".into(), Some("42")));
    drop(fake);

    let fake = Fake::answers_interim_first(at(), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    let hinted = Raw::ask(fake.target(), &get);
    assert_eq!((hinted.interim[0].status, hinted.status, hinted.text()), (103, 200, "done".into()));
    drop(fake);

    let fake = Fake::answers_byte_by_byte(at(), ok("slow"), Duration::from_micros(100));
    assert_eq!(Raw::ask(fake.target(), &get).text(), "slow");
    drop(fake);

    let fake = Fake::answers_then_closes(at(), "HTTP/1.1 200 OK\r\n\r\nto the end");
    let unsized_body = Raw::ask(fake.target(), &get);
    assert_eq!((unsized_body.framing, unsized_body.text()), (Framing::UntilClose, "to the end".into()));
    drop(fake);

    let fake = Fake::answers_after(at(), 30, ok("early"));
    let mut raw = Raw::connect(fake.target());
    raw.send("x".repeat(31));
    assert_eq!(raw.response().text(), "early");
    wait_until("the rest", Duration::from_secs(5), || fake.only().len() == 31);
    raw.finish_sending();
    wait_until("the end", Duration::from_secs(5), || fake.heard()[0].ended);
    assert!(raw.rest().bytes.is_empty());
}

#[test]
fn a_fake_backend_refuses_an_upload_early_and_reads_on_or_closes() {
    let dir = temp_dir();
    let head = request("POST", "/", &[("Content-Length", "1000000")], b"");
    let fake = Fake::refuses_early(dir.path().join("a"), true);
    let mut raw = Raw::connect(fake.target());
    assert_eq!(raw.send(&head).response().status, 413);
    raw.send("x".repeat(1_000_000));
    wait_until("the upload", Duration::from_secs(5), || fake.only().len() == head.len() + 1_000_000);

    let fake = Fake::refuses_early(dir.path().join("b"), false);
    let mut raw = Raw::connect(fake.target());
    assert_eq!(raw.send(&head).response().status, 413);
    raw.send("x");
    assert!(raw.rest().reset);
}

#[test]
fn a_fake_backend_waits_for_its_cue() {
    let dir = temp_dir();
    let fake = Fake::scripted(dir.path().join("a"), |_| vec![Act::ReadRequest, Act::AwaitGo, Act::Say(ok("went"))]);
    let mut raw = Raw::connect(fake.target());
    raw.send(request("GET", "/", &[], b""));
    fake.wait_requests(1);
    fake.go();
    assert_eq!(raw.response().text(), "went");
}

#[test]
fn a_crowded_backend_refuses_with_eagain_until_it_accepts() {
    let dir = temp_dir();
    let path = dir.path().join("a");
    let crowded = Crowded::at(path.as_path());
    let (socket, address) = crowded.target().socket().unwrap();
    socket.set_nonblocking(true).unwrap();
    assert_eq!(socket.connect(&address).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);

    let fake = crowded.accepts(|_| vec![Act::ReadRequest, Act::Say(ok("at last"))]);
    assert_eq!(Raw::get(fake.target(), "/").text(), "at last");
}

#[test]
fn a_dropped_fake_ends_its_connections_and_leaves_its_file() {
    let dir = temp_dir();
    let fake = Fake::never_answers(dir.path().join("a"));
    let mut raw = Raw::connect(fake.target());
    raw.send(request("GET", "/", &[], b""));
    fake.wait_requests(1);
    drop(fake);
    assert!(raw.rest().bytes.is_empty());
    let why = Raw::try_connect(dir.path().join("a")).unwrap_err();
    assert!(matches!(&why, Failure::Connect(why) if why.kind() == std::io::ErrorKind::ConnectionRefused), "{why}");
}

#[test]
fn a_raw_client_that_reads_little_stops_the_sender() {
    let dir = temp_dir();
    let app = App::start(dir.path(), "blue");
    let mut raw = Raw::connect_narrow(app.socket());
    raw.send(request("GET", "/big?bytes=3000000", &[("Connection", "close")], b""));
    let (_, mut body) = raw.head();
    let mut read = 0;
    while let Some(piece) = raw.piece(&mut body).unwrap() {
        read += piece.len();
    }
    assert_eq!(read, 3_000_000);
}

// === the door's surfaces ===

#[test]
fn events_are_read_piece_by_piece() {
    let dir = temp_dir();
    let event = |id: u64| {
        let what = wire::What::LiveFile { fault: "nonsense".into() };
        let event = wire::Event { id, at: "2026-01-01T00:00:00Z".into(), service: None, what };
        format!("id: {id}\nevent: live_file\ndata: {}\n\n", serde_json::to_string(&event).unwrap())
    };
    let stream = format!(": hello\n\n{}{}", event(1), event(2));
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
    let said = format!("{head}{stream}").into_bytes();
    let fake = Fake::scripted(dir.path().join("a"), move |_| {
        vec![Act::ReadRequest, Act::SaySlowly(said.clone(), Duration::from_micros(50)), Act::Stay]
    });
    let mut events = Events::open(fake.target(), Some(0));
    assert_eq!(events.next().id, 1);
    assert_eq!(events.wait(|what| matches!(what, wire::What::LiveFile { .. })).id, 2);
    assert!(String::from_utf8(fake.only()).unwrap().contains("Last-Event-ID: 0\r\n"));
}

#[test]
fn a_doors_settings_make_a_configuration_that_the_daemon_reads() {
    let builder = Door::builder()
        .color("blue", "127.0.0.1:80")
        .live_file()
        .set("service.portal.hosts", serde_json::json!(["a.example", "*.a.example"]))
        .set("service.portal.drain.deadline", "1s")
        .unset("log.access");
    let config = bgproxy_conf::Config::parse(&builder.render(), &builder.dir().join("bgproxy.toml"));
    let config = config.unwrap_or_else(|why| panic!("{why}"));
    let portal = config.service.values().next().unwrap();
    assert_eq!((portal.hosts.len(), portal.backends.len(), portal.ready.passes), (2, 2, 1));
    assert_eq!(portal.live_file.as_deref(), Some(builder.dir().join("live/portal").as_path()));
    assert_eq!(config.listen[0].address.port(), 0);
    assert!(builder.dir().as_os_str().len() < 80);
}

#[test]
fn metrics_are_summed_by_their_labels() {
    let page = "# HELP a_total Things.\n# TYPE a_total counter\na_total{color=\"blue\",code=\"200\"} 3\n\
                a_total{color=\"blue\",code=\"502\"} 1\na_total{color=\"green\",code=\"200\"} 5\nb 1.5\n";
    let metrics = Metrics::parse(page);
    assert_eq!(metrics.sum("a_total", &[("color", "blue")]), 4.0);
    assert_eq!(metrics.sum("a_total", &[("code", "200"), ("color", "green")]), 5.0);
    assert_eq!(metrics.sum("a_total", &[]), 9.0);
    assert_eq!((metrics.sum("b", &[]), metrics.sum("c", &[])), (1.5, 0.0));
}

// === processes ===

#[test]
fn a_killed_process_takes_its_children_with_it() {
    let dir = temp_dir();
    let log = dir.path().join("log");
    let mut command = Command::new(need("sh"));
    command.args(["-c", "trap '' TERM; sleep 600 & echo started $!; wait; wait"]);
    let mut process = Process::start("stubborn", &mut command, &log);
    let child = process.wait_for("its word", || match process_word(&log) {
        Some(word) => Ok(word),
        None => Err("nothing"),
    });
    let pid = process.pid();
    process.kill9();
    drop(process);
    assert!(!runs(pid) && !runs(child));
}

#[test]
fn a_dropped_process_is_told_to_end() {
    let dir = temp_dir();
    let process = Process::start("sleep", Command::new(need("sleep")).arg("600"), &dir.path().join("log"));
    let pid = process.pid();
    drop(process);
    assert!(!runs(pid));
}

#[test]
fn a_programs_output_and_exit_code_are_kept() {
    let dir = temp_dir();
    let output = Output::of(Command::new(need("sh")).args(["-c", "echo out; echo err >&2; exit 3"]), dir.path());
    assert_eq!((output.code, output.stdout.as_str(), output.stderr.as_str()), (Some(3), "out\n", "err\n"));
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no files stay behind");
}

#[test]
#[should_panic(expected = "waited 5ms for a miracle; last seen: none so far")]
fn a_wait_that_ends_in_vain_says_for_what() {
    wait_for("a miracle", Duration::from_millis(5), || Err::<(), _>("none so far"));
}

fn process_word(log: &Path) -> Option<u32> {
    text_of(log).strip_prefix("started ")?.trim().parse().ok()
}

fn runs(pid: u32) -> bool {
    // Also true of a zombie: nobody shall leave one.
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn a_missing_program_is_told_with_the_command_that_installs_it() {
    let told = missing("nginx");
    assert!(told.starts_with("nginx is not installed: run `apt-get install nginx-light`"), "{told}");
    assert!(missing("uwsgi-core").contains("apt-get install uwsgi-core uwsgi-plugin-python3"));
    assert!(missing("jq").contains("apt-get install jq"));
}
