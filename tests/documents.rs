//! Documents that speak of names in the code, compared with the code.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::harness::authority::Authority;
use crate::harness::fake::ok;
use crate::harness::raw::request;
use crate::harness::{DEADLINE, Door, Fake, Output, Raw, need, temp_dir, text_of, wait_for};

fn read(name: &str) -> String {
    text_of(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
}

/// The first cell of each row of the document's tables, without its backticks: (heading above the table, cell).
fn first_cells(document: &str) -> Vec<(String, String)> {
    let mut heading = String::new();
    let mut cells = Vec::new();
    for line in document.lines() {
        if let Some(text) = line.strip_prefix("## ") {
            heading = text.to_owned();
        }
        let cell = line.strip_prefix("| `").and_then(|rest| rest.split_once('`'));
        cells.extend(cell.map(|(cell, _)| (heading.clone(), cell.to_owned())));
    }
    cells
}

fn names(document: &str) -> BTreeSet<String> {
    let cells: Vec<String> = first_cells(document).into_iter().map(|(_, cell)| cell).collect();
    let names: BTreeSet<String> = cells.iter().cloned().collect();
    assert_eq!(names.len(), cells.len(), "a name stands twice");
    names
}

/// Names of the families on a metrics page, with their labels.
fn families(page: &str) -> BTreeMap<String, BTreeSet<String>> {
    let mut families: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            families.entry(rest.split(' ').next().expect("a name").to_owned()).or_default();
        } else if let Some((name, rest)) = line.split_once('{') {
            let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| families.contains_key(*family)).unwrap_or(name);
            let labels = rest.split("\",").filter_map(|pair| Some(pair.split_once('=')?.0.to_owned()));
            let known = families.get_mut(family).unwrap_or_else(|| panic!("no type for {line}"));
            known.extend(labels.filter(|label| label != "le"));
        }
    }
    families
}

/// Every metric that the page can show is explained, with its labels, and nothing else is.
#[test]
fn docs_metrics_explains_every_metric_and_no_other() {
    let dir = temp_dir();
    let blue = Fake::answers(dir.path().join("blue"), ok("blue"));
    // No green: its connects fail.
    let certificate = Authority::new().server(&["portal.test"]).write(dir.path());
    let door = Door::builder().color("blue", blue.address()).color("green", dir.path().join("green"));
    let listen = serde_json::json!([{ "address": "127.0.0.1:0" }, { "address": "127.0.0.1:0", "tls": true }]);
    let door = door.set("certificate", serde_json::json!([certificate])).set("listen", listen).start();
    let secure: std::net::SocketAddr = door.status().listen[1].parse().expect("an address");
    Raw::connect(secure).send(b"this is not TLS\r\n\r\n");
    assert_eq!(door.get("/").status, 200);
    door.post("/v1/services/portal/probe", serde_json::json!({ "color": "blue" }));
    door.post("/v1/services/portal/switch", serde_json::json!({ "to": "green", "force": true, "wait": true }));
    assert_eq!(door.connect().send(request("GET", "/", &[], b"")).response().status, 502);
    // A request is counted when its last byte is with the kernel, which may be a moment after its client has it.
    let page = wait_for("a failure counted", DEADLINE, || {
        let page = Raw::get(door.admin(), "/metrics").text();
        let counted = ["request_failures", "connection_failures"];
        match counted.iter().find(|what| !page.contains(&format!("bgproxy_{what}_total{{"))) {
            None => Ok(page),
            Some(what) => Err(format!("no {what} yet")),
        }
    });

    let document = read("docs/metrics.md");
    let mut explained: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in document.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let labels = cells[2].split('`').skip(1).step_by(2).map(str::to_owned).collect();
        assert_eq!(explained.insert(cells[1].trim_matches('`').to_owned(), labels), None, "it stands twice: {line}");
    }
    assert_eq!(explained, families(&page));
}

/// Every reason why the control socket refuses has its row, with its status where that is fixed, and only those.
#[test]
fn docs_control_api_lists_each_reason() {
    let listed: BTreeSet<String> =
        first_cells(&read("docs/control-api.md")).into_iter().map(|(_, name)| name).collect();
    let (api, switchboard) = (read("proxy/control/api.rs"), read("proxy/control/switchboard.rs"));
    let quoted = |rest: &str| rest.split('"').next().expect("a name").to_owned();
    // `problem(StatusCode::NOT_FOUND, "unknown_service", ..` and `Refusal::NoPrevious => "no_previous",`
    let answered = api.split("StatusCode::").filter_map(|rest| {
        Some(quoted(rest.split_once(", \"")?.1)).filter(|_| {
            rest.split_once(", \"")
                .is_some_and(|(status, _)| status.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        })
    });
    let refused = switchboard.lines().filter(|line| line.contains("Refusal::"));
    let refused = refused.filter_map(|line| Some(quoted(line.split_once("=> \"")?.1)));
    assert_eq!(listed, answered.chain(refused).collect());
}

/// The script of docs/operating.md, with `docker` played by a program that writes down what it is asked.
#[test]
fn the_deployment_script_deploys() {
    let dir = temp_dir();
    let (blue, green) =
        (Fake::answers(dir.path().join("blue"), ok("blue")), Fake::answers(dir.path().join("green"), ok("green")));
    let door = Door::builder().fakes(&blue, &green);
    let door = door.set("service.portal.preview.hosts", serde_json::json!(["preview.portal.example.com"])).start();
    let document = read("docs/operating.md");
    let script = document.split_once("```bash\n").expect("a script").1.split_once("\n```").expect("its end").0;
    let here = dir.path().to_str().expect("a readable path");
    let door_here = format!("http://{}/", door.addr());
    let places = [("http://127.0.0.1/", door_here.as_str()), ("/etc/portal", here), ("/run/lock", here)];
    let script = places.iter().fold(script.to_owned(), |script, (from, to)| {
        assert!(script.contains(from), "no {from} in the script");
        script.replace(from, to)
    });
    std::fs::write(dir.path().join("deploy"), script).expect("written");
    std::fs::write(dir.path().join(".env"), "BLUE_TAG=1\nGREEN_TAG=0\n").expect("written");
    std::fs::create_dir(dir.path().join("bin")).expect("a directory");
    let docker = dir.path().join("bin/docker");
    std::fs::write(&docker, format!("#!/bin/sh\necho \"$@\" >> {here}/asked\n")).expect("written");
    std::fs::set_permissions(&docker, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a program");
    need("jq");
    let bin = Path::new(env!("CARGO_BIN_EXE_bgctl")).parent().expect("a directory");
    let path = format!("{here}/bin:{}:{}", bin.display(), std::env::var("PATH").expect("a PATH"));
    let deploy = |tag: &str| {
        let mut command = std::process::Command::new("bash");
        command.arg(dir.path().join("deploy")).arg(tag).env("PATH", &path).env("BGCTL_SOCKET", door.control());
        Output::of(&mut command, dir.path()).ok()
    };

    deploy("2");
    assert_eq!(door.live(), "green");
    deploy("3");
    assert_eq!(door.live(), "blue");
    let said = read(&format!("{here}/asked"));
    let said: Vec<&str> = said.lines().filter_map(|line| Some(line.split_once(".yaml ")?.1)).collect();
    let up = "up --detach --no-deps --force-recreate";
    assert_eq!(said, [format!("{up} green"), "stop blue".into(), format!("{up} blue"), "stop green".into()]);
    assert_eq!(read(&format!("{here}/.env")), "GREEN_TAG=2\nBLUE_TAG=3\n");
}

/// Names in the alerts that ship are names of metrics.
#[test]
fn alerts_ask_for_metrics_that_exist() {
    let known = names(&read("docs/metrics.md"));
    let rules = read("conf/prometheus/alerts.yml");
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    let used: Vec<&str> = rules
        .lines()
        .filter(|line| !line.trim_start().starts_with('#'))
        .flat_map(|line| line.split(word))
        .filter(|word| word.starts_with("bgproxy_") || word.starts_with("process_"))
        .collect();
    assert!(!used.is_empty());
    for name in used {
        assert!(known.contains(name), "{name} is in no table of docs/metrics.md");
    }
}

/// Every crate in the manifests has its line, and only those.
#[test]
fn docs_dependencies_lists_each_direct_dependency() {
    let mut listed: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (heading, name) in first_cells(&read("docs/dependencies.md")) {
        assert!(listed.entry(heading.clone()).or_default().insert(name.clone()), "{name} stands twice in {heading}");
    }
    let section = |manifest: &str, section: &str| -> BTreeSet<String> {
        let text = read(manifest);
        let lines = text.lines().skip_while(|line| *line != format!("[{section}]")).skip(1);
        let lines = lines.take_while(|line| !line.starts_with('[')).filter(|line| !line.starts_with('#'));
        lines.filter_map(|line| Some(line.split_once([' ', '.', '='])?.0.to_owned())).collect()
    };
    let of = |heading: &str| listed.get(heading).cloned().unwrap_or_default();
    assert_eq!(of("bgproxy and bgctl"), section("Cargo.toml", "dependencies"));
    assert_eq!(of("conf"), section("conf/Cargo.toml", "dependencies"));
    let tests =
        section("Cargo.toml", "dev-dependencies").into_iter().chain(section("conf/Cargo.toml", "dev-dependencies"));
    assert_eq!(of("Tests and benches"), tests.collect());
    // And each is used: what is a path in the code has `::` behind it, or stands in a `use`.
    let sources = sources();
    for name in section("Cargo.toml", "dependencies").iter().chain(&section("conf/Cargo.toml", "dependencies")) {
        let path = format!("{}::", name.replace('-', "_"));
        assert!(sources.contains(&path), "nothing uses {name}");
    }
}

/// All Rust of the two packages.
fn sources() -> String {
    fn walk(dir: &Path, all: &mut String) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, all);
            } else if path.extension().is_some_and(|end| end == "rs") {
                all.push_str(&text_of(&path));
            }
        }
    }
    let mut all = String::new();
    for dir in ["proxy", "ctl", "conf/src"] {
        walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join(dir), &mut all);
    }
    all
}

#[test]
fn the_configuration_in_the_readme_is_right() {
    let dir = temp_dir();
    let readme = read("README.md");
    let text = readme.split_once("```toml\n").expect("a configuration").1.split_once("```").expect("its end").0;
    let pair = Authority::new().server(&["portal.example.com"]);
    for (name, pem) in [("fullchain.pem", pair.cert), ("privkey.pem", pair.key)] {
        std::fs::write(dir.path().join(name), pem).expect("written");
    }
    std::fs::write(dir.path().join("sorry.html"), "<p>Sorry").expect("written");
    let here = dir.path().to_str().expect("a readable path");
    let text = text.replace("/etc/letsencrypt/live/portal.example.com", here).replace("/etc/bgproxy", here);
    let file = dir.path().join("bgproxy.toml");
    std::fs::write(&file, text).expect("written");
    let mut check = std::process::Command::new(env!("CARGO_BIN_EXE_bgproxy"));
    Output::of(check.args(["check", "-c"]).arg(file), dir.path()).ok();
}

/// What workers could wait for each other at is on one list.
#[test]
fn docs_scaling_lists_each_file_of_the_serving_wing_that_locks_or_writes_what_is_shared() {
    fn walk(dir: &Path, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).expect("a directory").flatten() {
            let path = entry.path();
            let name = path.strip_prefix(Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy/serve")).expect("below");
            let name = name.to_str().expect("a readable path").to_owned();
            if path.is_dir() {
                walk(&path, found);
            } else if !name.ends_with("tests.rs") {
                let text = text_of(&path);
                let shared = ["fetch_", "compare_exchange", ".swap(&", "Mutex<", "RwLock<", "OnceLock<", "LazyLock<"];
                let waits = ["Notify,", "oneshot::", "CancellationToken,"];
                if shared.iter().chain(&waits).any(|word| text.contains(word)) {
                    found.insert(name);
                }
            }
        }
    }
    let mut found = BTreeSet::new();
    walk(&Path::new(env!("CARGO_MANIFEST_DIR")).join("proxy/serve"), &mut found);
    let listed: BTreeSet<String> = first_cells(&read("docs/scaling.md"))
        .into_iter()
        .filter(|(heading, _)| heading.starts_with("What takes a lock"))
        .map(|(_, name)| name)
        .collect();
    assert_eq!(found, listed);
}

/// Every test that a promise names exists, in the file that it names; and each promise names one.
#[test]
fn security_md_names_tests_that_exist() {
    let document = read("SECURITY.md");
    let section = document.split("\n## ").find(|section| section.starts_with("Promises\n")).expect("a section");
    let promises: Vec<&str> =
        section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| promise |")).collect();
    assert!(promises.len() > 8, "{promises:?}");
    for promise in promises {
        let cells: Vec<&str> = promise.split(" | ").collect();
        let [_, tests, result] = cells[..] else { panic!("three cells: {promise}") };
        assert!(!result.trim_matches([' ', '|']).is_empty(), "no result: {promise}");
        let (mut text, mut named) = (String::new(), 0);
        for name in tests.split('`').skip(1).step_by(2) {
            if name.ends_with(".rs") || name.ends_with(".toml") {
                assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(name).is_file(), "{name} does not exist: {promise}");
                text = read(name);
            } else {
                let is_there = text.contains(name) && (name.contains(' ') || text.contains(&format!("fn {name}(")));
                assert!(is_there, "{name} is not there: {promise}");
            }
            named += 1;
        }
        assert!(named > 0, "nothing tests it: {promise}");
    }
}

/// A link within the repository leads to a file.
#[test]
fn links_between_documents_lead_somewhere() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let docs = std::fs::read_dir(root.join("docs")).expect("docs").flatten().map(|entry| entry.path());
    let tops = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"].map(|name| root.join(name));
    for path in docs.chain(tops).filter(|path| path.extension().is_some_and(|end| end == "md")) {
        let text = text_of(&path);
        for link in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
            let file = link.split('#').next().expect("a link");
            if link.starts_with("http") || file.is_empty() {
                continue;
            }
            assert!(path.with_file_name(file).exists(), "{}: no {link}", path.display());
        }
    }
}
