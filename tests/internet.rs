//! What the internet speaks, spoken by what it speaks with: curl, Chromium, nghttp and h2load, over TLS and in clear.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::harness::authority::Signed;
use crate::harness::door::NAME;
use crate::harness::load::{Plan, Speaks};
use crate::harness::trust::{certificate, public_key_name};
use crate::harness::{
    Authority, Browser, DEADLINE, Kind, Output, Raw, Site, Trust, need, tell, temp_dir, wait_for, wait_until,
};

/// The page and its files.
const FILES: [&str; 3] = ["page.html", "style.css", "image.png"];

/// A site behind a door that speaks TLS, and in clear at its second listener.
fn site(authority: &Authority) -> Site {
    Site::start_with(|door| door.tls(authority))
}

// === curl ===

#[test]
fn curl_loads_the_page_and_its_files_in_each_protocol() {
    let authority = Authority::new();
    let site = site(&authority);
    let (tls, clear) = (site.door.addr(), site.door.listener(1));
    for (flag, scheme, at, version) in [
        ("--http2", "https", tls, "2"),
        ("--http2-prior-knowledge", "https", tls, "2"),
        ("--http1.1", "https", tls, "1.1"),
        ("--http2-prior-knowledge", "http", clear, "2"),
        ("--http1.1", "http", clear, "1.1"),
        // Asks for an upgrade, which a server may pass over.
        ("--http2", "http", clear, "1.1"),
    ] {
        // That one it cannot use again, in the version that Debian has (7.88), whoever serves.
        let once = (flag, scheme) == ("--http2-prior-knowledge", "http");
        let said: Vec<String> = match once {
            true => FILES.iter().flat_map(|file| curl(&authority, flag, scheme, at, &[file])).collect(),
            false => curl(&authority, flag, scheme, at, &FILES),
        };
        let opened = |number: usize| u8::from(once || number == 0);
        let expected: Vec<String> =
            (0..FILES.len()).map(|number| format!("{version} 200 {}", opened(number))).collect();
        assert_eq!(said, expected, "{flag} {scheme}: version, status and new connections of each file");
        tell(format_args!("curl {flag} {scheme}://: {} files over HTTP/{version}", said.len()));
    }
}

/// Loads files with curl over one connection; for each its version, status and new connections.
fn curl(authority: &Authority, flag: &str, scheme: &str, at: SocketAddr, files: &[&str]) -> Vec<String> {
    let dir = temp_dir();
    let mut command = Command::new(need("curl"));
    command.args(["--noproxy", "*", "--silent", "--show-error", "--fail", flag]);
    command.arg("--cacert").arg(authority.write(dir.path()));
    command.args(["--resolve", &format!("{NAME}:{}:{}", at.port(), at.ip())]);
    command.args(["--write-out", "%{http_version} %{response_code} %{num_connects}\n"]);
    for file in files {
        command.arg("--output").arg(dir.path().join(file));
        command.arg(format!("{scheme}://{NAME}:{}/static/{file}", at.port()));
    }
    let said = Output::of(&mut command, dir.path()).ok().stdout;
    for file in files {
        let original = std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/app/static").join(file));
        assert!(std::fs::read(dir.path().join(file)).unwrap() == original.unwrap(), "{file} over {flag}");
    }
    said.lines().map(ToOwned::to_owned).collect()
}

// === a browser ===

/// Fetches on and on, two at a time, and remembers.
const FETCHING: &str = "window.seen = []; window.failed = []; window.stop = false;
    const fetching = async lane => {
        for (let turn = 0; !window.stop; turn++) {
            try {
                const answer = await fetch(`/?lane=${lane}&turn=${turn}`, { cache: 'no-store' });
                const color = (await answer.text()).trim();
                if (answer.status === 200) window.seen.push(color); else window.failed.push(`${answer.status}`);
            } catch (why) { window.failed.push(`${why}`); }
            await new Promise(done => setTimeout(done, 5));
        }
    };
    window.lanes = Promise.all([fetching(0), fetching(1)]);";

#[test]
fn a_browser_stays_on_one_connection_over_twenty_switches_and_no_fetch_fails() {
    let authority = Authority::new();
    let dir = temp_dir();
    let signed = authority.server(&[NAME]);
    let certificate = serde_json::json!([signed.write(dir.path())]);
    let site = Site::start_with(|door| door.tls(&authority).set("certificate", certificate));
    let browser = browser(dir.path(), &signed);
    let connections = || site.door.metrics().sum("bgproxy_connections_total", &[]);
    browser.open(&format!("https://{NAME}:{}/static/page.html", site.door.addr().port()));
    let protocols = browser.run(
        "return performance.getEntries().filter(entry => entry.nextHopProtocol !== undefined) \
         .map(entry => entry.name.split('/').pop() + ' ' + entry.nextHopProtocol)",
    );
    let loaded: Vec<String> = serde_json::from_value(protocols).expect("a list");
    assert!(FILES.iter().all(|file| loaded.contains(&format!("{file} h2"))), "{loaded:?}");

    browser.run(FETCHING);
    browser_sees(&browser, "blue");
    // It may have opened several before it knew that one is enough, and closes the others in its own time.
    let open = || site.door.metrics().sum("bgproxy_connections_open", &[]);
    wait_until("one connection", DEADLINE, || open() == 1.0);
    let opened = connections();
    let switches = 20;
    for to in ["green", "blue"].into_iter().cycle().take(switches) {
        site.door.switch(to);
        browser_sees(&browser, to);
    }
    assert_eq!((connections(), open()), (opened, 1.0), "connections over the switches");
    browser.run("window.stop = true; return window.lanes.then(() => true)");
    assert_eq!(browser.run("return window.failed"), serde_json::json!([]));
    let seen = browser.run("return window.seen.length").as_u64().expect("a number");
    let complaints = browser.complaints().into_iter().filter(|said| !said.contains("/favicon.ico"));
    assert_eq!(complaints.collect::<Vec<_>>(), Vec::<String>::new());
    tell(format_args!(
        "Chromium over TLS: {seen} fetches over {switches} switches on one connection of HTTP/2, 0 failed"
    ));
}

/// Chromium that trusts this certificate's key under [`NAME`].
fn browser(dir: &Path, signed: &Signed) -> Browser {
    let key = format!("--ignore-certificate-errors-spki-list={}", public_key_name(signed));
    Browser::start_with(dir, &[&key, &format!("--host-resolver-rules=MAP {NAME} 127.0.0.1")])
}

/// Waits until its newest answers are of this color.
fn browser_sees(browser: &Browser, color: &str) {
    wait_for(&format!("{color} in the browser"), DEADLINE, || {
        let newest = browser.run("return window.seen.slice(-2).concat(window.failed)");
        if newest == serde_json::json!([color, color]) { Ok(()) } else { Err(newest) }
    });
}

// === nghttp and h2load ===

#[test]
fn nghttp_loads_the_page_and_what_is_in_it() {
    let authority = Authority::new();
    let site = site(&authority);
    for (scheme, at) in [("https", site.door.addr()), ("http", site.door.listener(1))] {
        let mut command = Command::new(need("nghttp"));
        command.args(["--null-out", "--get-assets", "--stat", "--no-verify-peer"]);
        command.arg(format!("{scheme}://{at}/static/page.html"));
        let output = Output::of(&mut command, site.door.dir()).ok();
        // Lines such as ` 13  +4.09ms  +169us  3.92ms  200  203 /static/page.html`.
        let lines = output.stdout.lines().skip_while(|line| !line.starts_with("id ")).skip(1);
        let lines: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
        let mut loaded: Vec<(&str, &str)> = lines.iter().map(|line| (line[6], line[4])).collect();
        loaded.sort_unstable();
        let all = [("/static/image.png", "200"), ("/static/page.html", "200"), ("/static/style.css", "200")];
        assert_eq!(loaded, all, "{output:?}");
        let table = output.stdout.lines().skip_while(|line| !line.starts_with("id "));
        tell(format_args!("nghttp {scheme}://:\n{}", table.collect::<Vec<_>>().join("\n")));
    }
}

#[test]
fn h2load_has_no_failed_request() {
    let authority = Authority::new();
    let site = site(&authority);
    let (tls, clear) = (site.door.addr(), site.door.listener(1));
    for (args, scheme, at, path) in [
        (&["--clients=8", "--max-concurrent-streams=32"][..], "https", tls, "/static/style.css"),
        (&["--clients=8", "--max-concurrent-streams=32"], "http", clear, "/static/style.css"),
        (&["--clients=16", "--h1"], "https", tls, "/static/style.css"),
        (&["--clients=4", "--max-concurrent-streams=8"], "https", tls, "/big?bytes=100000"),
    ] {
        let requests = if path.starts_with("/big") { 400 } else { 3000 };
        let mut command = Command::new(need("h2load"));
        command.arg(format!("--requests={requests}")).args(args).arg(format!("{scheme}://{at}{path}"));
        let output = Output::of(&mut command, site.door.dir()).ok();
        let expected = format!(
            "requests: {requests} total, {requests} started, {requests} done, {requests} succeeded, 0 failed, 0 errored, \
             0 timeout"
        );
        assert!(output.stdout.lines().any(|line| line == expected), "{output:?}");
        assert!(output.stdout.contains(&format!("status codes: {requests} 2xx, 0 3xx, 0 4xx, 0 5xx")), "{output:?}");
        let summary = output.stdout.lines().filter(|line| {
            ["finished in", "requests:", "status codes:", "Application protocol"]
                .iter()
                .any(|word| line.starts_with(word))
        });
        let summary: Vec<&str> = summary.collect();
        tell(format_args!("h2load {} {scheme}://{path}:\n  {}", args.join(" "), summary.join("\n  ")));
    }
}

// === a certificate that is replaced ===

const REPLACEMENTS: usize = 50;

#[test]
fn fifty_replaced_certificates_cost_no_request() {
    let authority = Authority::new();
    let live = temp_dir();
    let place = Place { dir: live.path().to_owned() };
    place.link("first", &authority.server(&[NAME]));
    let setting = serde_json::json!([{ "cert": place.at("cert.pem"), "key": place.at("key.pem") }]);
    let site = Site::start_with(|door| door.tls(&authority).set("certificate", setting));
    let (to, trust) = (site.door.addr(), Trust::of(&authority, NAME));
    let think = Duration::from_millis(20);
    let plan =
        |connections, speaks| Plan::new(to, connections, vec![Kind::Index, Kind::Static]).speaks(speaks).think(think);
    let loads = [
        // New connections all along, and some that stay.
        plan(6, Speaks::TlsHttp1(trust.clone())).renew(3).start(),
        plan(2, Speaks::TlsHttp1(trust.clone().resuming())).renew(3).start(),
        plan(2, Speaks::TlsHttp2(trust.clone())).streams(4).renew(16).start(),
        plan(2, Speaks::TlsHttp1(trust.clone())).start(),
        plan(1, Speaks::TlsHttp2(trust.clone())).streams(4).start(),
    ];
    let mut slowest = Duration::ZERO;
    for number in 0..REPLACEMENTS {
        let signed = authority.server(&[NAME]);
        place.replace(number, &signed);
        let replaced = Instant::now();
        let shown = || Raw::connect_tls(to, &trust).server_certificate();
        wait_until("the new certificate", DEADLINE, || shown().as_ref() == Some(&certificate(&signed.cert)));
        slowest = slowest.max(replaced.elapsed());
    }
    let tallies = loads.map(|load| {
        load.wait_round();
        load.stop()
    });
    tallies.iter().for_each(|tally| tally.assert_clean());
    let total: usize = tallies.iter().map(|tally| tally.total()).sum();
    let opened = site.door.metrics().sum("bgproxy_connections_total", &[]);
    tell(format_args!(
        "{REPLACEMENTS} certificates replaced under TLS load (rename, symlinks, truncate and write): {total} requests over \
         {opened} connections, 0 failed; the slowest was in use after {:.2} s",
        slowest.as_secs_f64()
    ));
}

/// Where a certificate and its key are: symbolic links, as certbot has them, until something is renamed over them.
struct Place {
    dir: PathBuf,
}

impl Place {
    fn at(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// In turn by rename, by swapping symbolic links, by writing into the files that are there.
    fn replace(&self, number: usize, signed: &Signed) {
        match number % 3 {
            0 => {
                signed.write(&self.at("new"));
                for name in ["key.pem", "cert.pem"] {
                    std::fs::rename(self.at("new").join(name), self.at(name)).expect("a new file");
                }
            }
            1 => self.link(&format!("archive{number}"), signed),
            _ => {
                for (name, text) in [("cert.pem", &signed.cert), ("key.pem", &signed.key)] {
                    std::fs::write(self.at(name), text).expect("a file");
                }
            }
        }
    }

    fn link(&self, archive: &str, signed: &Signed) {
        signed.write(&self.at(archive));
        for name in ["cert.pem", "key.pem"] {
            std::os::unix::fs::symlink(self.at(archive).join(name), self.at("link")).expect("a link");
            std::fs::rename(self.at("link"), self.at(name)).expect("the link");
        }
    }
}
