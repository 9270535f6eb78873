//! Each kind of fault, as it is shown.

use insta::assert_snapshot;

use super::*;
use crate::Config;

fn fault(text: &str) -> ConfigError {
    Config::parse(text, Path::new("/etc/bgproxy/bgproxy.toml")).expect_err("a fault")
}

#[test]
fn a_missing_file_says_what_to_do() {
    let fault = Config::load(Path::new("/nonexistent/bgproxy.toml")).expect_err("a fault");
    assert_snapshot!(fault, @"
    error: cannot read the configuration: No such file or directory (os error 2)
    --> /nonexistent/bgproxy.toml
     = help: create it, or name another file: `bgproxy run -c FILE`, `bgctl check FILE`
    ");
    assert!(fault.source().is_some());
}

#[test]
fn a_forbidden_file_says_what_to_do() {
    let fault = ConfigError::unreadable(Path::new("bgproxy.toml"), io::Error::from_raw_os_error(13));
    assert_snapshot!(fault, @"
    error: cannot read the configuration: Permission denied (os error 13)
    --> bgproxy.toml
     = help: let the user that runs bgproxy read it, and pass through the directories above it (`namei -l FILE` shows them)
    ");
}

#[test]
fn an_unknown_key_names_the_one_that_was_meant() {
    assert_snapshot!(fault("[service.portal]\nbackend = { blue = \"/b\" }\n"), @r#"
    error: unknown key `backend`
     --> /etc/bgproxy/bgproxy.toml:2:1
      |
    2 | backend = { blue = "/b" }
      | ^^^^^^^
      |
      = help: did you mean `backends`?
    "#);
    assert_snapshot!(fault("lisen = []\n").hint().expect("a hint"), @"did you mean `listen`?");
    assert_snapshot!(fault("[drain]\ndeadline = \"1s\"\n"), @"
    error: unknown key `drain`
     --> /etc/bgproxy/bgproxy.toml:1:2
      |
    1 | [drain]
      |  ^^^^^
      |
      = help: known here: `workers`, `listen`, `certificate`, `acme`, `control`, `admin`, `state`, `trusted`, `limits`, `error_pages`, `shutdown`, `log`, `service`
    ");
}

#[test]
fn a_missing_key_is_named() {
    assert_snapshot!(fault("workers = 1\n\n[service.portal]\nhosts = [\"portal.example.com\"]\n"), @r#"
    error: missing key `backends`
     --> /etc/bgproxy/bgproxy.toml:3:1
      |
    3 | [service.portal]
      | ^^^^^^^^^^^^^^^^
      |
      = help: write where its colors are, such as `backends.blue = "/var/run/nginx/blue/nginx.sock"`
    "#);
}

#[test]
fn a_value_of_the_wrong_type_says_what_is_expected() {
    assert_snapshot!(fault("[limits]\nconnections = \"many\"\n"), @r#"
    error: expected a whole number, found string "many"
     --> /etc/bgproxy/bgproxy.toml:2:15
      |
    2 | connections = "many"
      |               ^^^^^^
    "#);
    assert_snapshot!(fault("[service.a]\nhosts = \"a.example.com\"\nbackends.blue = \"/b\"\n"), @r#"
    error: expected a list, found string "a.example.com"
     --> /etc/bgproxy/bgproxy.toml:2:9
      |
    2 | hosts = "a.example.com"
      |         ^^^^^^^^^^^^^^^
      |
      = help: write it in brackets: `["a", "b"]`
    "#);
    assert_snapshot!(fault("limits = 5\n"), @"
    error: expected a section, found integer `5`
     --> /etc/bgproxy/bgproxy.toml:1:10
      |
    1 | limits = 5
      |          ^
    ");
    assert_snapshot!(fault("listen = [\"0.0.0.0:80\"]\n"), @r#"
    error: expected a section, found string "0.0.0.0:80"
     --> /etc/bgproxy/bgproxy.toml:1:11
      |
    1 | listen = ["0.0.0.0:80"]
      |           ^^^^^^^^^^^^
    "#);
    assert_snapshot!(fault("limits.connections = -1\n").message(), @"expected a whole number from 0, found integer `-1`");
    assert_snapshot!(fault("limits.requests_per_second = 99999999999\n").message(), @"expected a whole number from 0 to 4294967295, found integer `99999999999`");
}

#[test]
fn a_plain_number_asks_for_its_unit() {
    assert_snapshot!(fault("[shutdown]\ndeadline = 30\n"), @r#"
    error: a duration needs its unit
     --> /etc/bgproxy/bgproxy.toml:2:12
      |
    2 | deadline = 30
      |            ^^
      |
      = help: write "30s"
    "#);
    assert_snapshot!(fault("[limits]\nbody_size = 1048576\n"), @r#"
    error: a size needs its unit
     --> /etc/bgproxy/bgproxy.toml:2:13
      |
    2 | body_size = 1048576
      |             ^^^^^^^
      |
      = help: write "1048576B" or, for example, "64KiB"
    "#);
    assert_snapshot!(fault("[service.a]\nbackends.blue = 8080\n").hint().expect("a hint"), @r#"write "localhost:8080""#);
    assert_snapshot!(fault("[service.a]\nbackends.blue = \"/b\"\nready.expect = 200\n").hint().expect("a hint"), @r#"write "200""#);
}

#[test]
fn a_bad_value_says_why() {
    assert_snapshot!(fault("[service.a]\nhosts = [\"a.example.com\", \"https://b.example.com\"]\nbackends.blue = \"/b\"\n"), @r#"
    error: `https://b.example.com` is not a host: a scheme has no place here
     --> /etc/bgproxy/bgproxy.toml:2:27
      |
    2 | hosts = ["a.example.com", "https://b.example.com"]
      |                           ^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: write "portal.example.com" or "*.example.com"
    "#);
    assert_snapshot!(fault("[service.a.backends]\nBlue = \"/run/blue.sock\"\n"), @r#"
    error: `Blue` is not a color
     --> /etc/bgproxy/bgproxy.toml:2:1
      |
    2 | Blue = "/run/blue.sock"
      | ^^^^
      |
      = help: write up to 32 of a-z, 0-9, `-` and `_` beginning with a letter, such as "green"
    "#);
    assert_snapshot!(fault("[service.a.backends]\nblue = \"run/blue.sock\"\n"), @r#"
    error: `run/blue.sock` is not an address: a socket's path starts with `/`
     --> /etc/bgproxy/bgproxy.toml:2:8
      |
    2 | blue = "run/blue.sock"
      |        ^^^^^^^^^^^^^^^
      |
      = help: write "/run/app/nginx.sock" or "localhost:8080"
    "#);
    assert_snapshot!(fault("workers = \"4\"\n"), @r#"
    error: a number stands without quotes
     --> /etc/bgproxy/bgproxy.toml:1:11
      |
    1 | workers = "4"
      |           ^^^
      |
      = help: write 4
    "#);
    assert_snapshot!(fault("[trusted]\nproxies = [\"10.0.0.0\"]\n"), @r#"
    error: not a range of IP addresses
     --> /etc/bgproxy/bgproxy.toml:2:12
      |
    2 | proxies = ["10.0.0.0"]
      |            ^^^^^^^^^^
      |
      = help: write "10.0.0.0/8", for example, or "192.0.2.1/32" for one address
    "#);
    assert_snapshot!(fault("[admin]\naddress = \"localhost:9180\"\n"), @r#"
    error: not an IP address with a port
     --> /etc/bgproxy/bgproxy.toml:2:11
      |
    2 | address = "localhost:9180"
      |           ^^^^^^^^^^^^^^^^
      |
      = help: write "0.0.0.0:80" or "[::]:80", for example
    "#);
}

#[test]
fn an_unknown_variant_names_the_known_ones() {
    assert_snapshot!(fault("[log]\nformat = \"jsno\"\n"), @r#"
    error: unknown value `jsno`
     --> /etc/bgproxy/bgproxy.toml:2:10
      |
    2 | format = "jsno"
      |          ^^^^^^
      |
      = help: did you mean `json`?
    "#);
    assert_snapshot!(fault("[log]\nformat = \"logfmt\"\n"), @r#"
    error: unknown value `logfmt`
     --> /etc/bgproxy/bgproxy.toml:2:10
      |
    2 | format = "logfmt"
      |          ^^^^^^^^
      |
      = help: known here: `plain`, `json`
    "#);
}

#[test]
fn what_is_not_toml_is_shown_where_it_stops_being_toml() {
    assert_snapshot!(fault("[admin]\naddress = 127.0.0.1:9180\n"), @r#"
    error: invalid float
     --> /etc/bgproxy/bgproxy.toml:2:16
      |
    2 | address = 127.0.0.1:9180
      |                ^^^^^^^^^
      |
      = help: write it in quotes: "127.0.0.1:9180"
    "#);
    assert_snapshot!(fault("shutdown.deadline = 30s # soon\n"), @r#"
    error: string values must be quoted, expected literal string
     --> /etc/bgproxy/bgproxy.toml:1:21
      |
    1 | shutdown.deadline = 30s # soon
      |                     ^^^
      |
      = help: write it in quotes: "30s"
    "#);
    assert_snapshot!(fault("limits.body_size = 10MiB\n"), @r#"
    error: string values must be quoted, expected literal string
     --> /etc/bgproxy/bgproxy.toml:1:20
      |
    1 | limits.body_size = 10MiB
      |                    ^^^^^
      |
      = help: write it in quotes: "10MiB"
    "#);
    assert_snapshot!(fault("control.socket = /run/x.sock\n"), @r#"
    error: string values must be quoted, expected literal string
     --> /etc/bgproxy/bgproxy.toml:1:18
      |
    1 | control.socket = /run/x.sock
      |                  ^^^^^^^^^^^
      |
      = help: write it in quotes: "/run/x.sock"
    "#);
    assert_snapshot!(fault("log.level = info\n").hint().expect("a hint"), @r#"write it in quotes: "info""#);
    assert_snapshot!(fault("listen = [{ address = 1.1.1.1:80 }]\n"), @"
    error: invalid float
     --> /etc/bgproxy/bgproxy.toml:1:26
      |
    1 | listen = [{ address = 1.1.1.1:80 }]
      |                          ^^^^^^^
    ");
    assert_snapshot!(fault("[log\nlevel = \"info\"\n"), @"
    error: unclosed table, expected `]`
     --> /etc/bgproxy/bgproxy.toml:1:5
      |
    1 | [log
      |     ^
    ");
    assert_snapshot!(fault("[log]\nlevel = \"info\n"), @r#"
    error: invalid basic string, expected `"`
     --> /etc/bgproxy/bgproxy.toml:2:14
      |
    2 | level = "info
      |              ^
    "#);
    assert_snapshot!(fault("[log]\nlevel = \"info\"\nlevel = \"debug\"\n"), @r#"
    error: duplicate key
     --> /etc/bgproxy/bgproxy.toml:3:1
      |
    3 | level = "debug"
      | ^^^^^
    "#);
    assert_snapshot!(fault("[log]\nlevel =\n"), @"
    error: string values must be quoted, expected literal string
     --> /etc/bgproxy/bgproxy.toml:2:8
      |
    2 | level =
      |        ^
      |
      = help: write a value after the `=`
    ");
    assert_snapshot!(fault("workers"), @"
    error: key with no value, expected `=`
     --> /etc/bgproxy/bgproxy.toml:1:8
      |
    1 | workers
      |        ^
    ");
}

#[test]
fn text_of_many_bytes_before_the_fault_does_not_shift_the_mark() {
    let fault = fault("# größer – 日本語\nlog = { level = \"日本語\", formt = \"plain\" } # ü\n");
    assert_snapshot!(fault, @r#"
    error: unknown key `formt`
     --> /etc/bgproxy/bgproxy.toml:2:24
      |
    2 | log = { level = "日本語", formt = "plain" } # ü
      |                           ^^^^^
      |
      = help: did you mean `format`?
    "#);
    assert_eq!((fault.line(), fault.column()), (Some(2), Some(24)));
}

#[test]
fn lines_that_end_like_on_windows_are_counted_once() {
    let fault = fault("workers = 1\r\n[log]\r\nlevel = 3\r\n");
    assert_snapshot!(fault, @"
    error: expected a string, found integer `3`
     --> /etc/bgproxy/bgproxy.toml:3:9
      |
    3 | level = 3
      |         ^
    ");
    assert_eq!((fault.line(), fault.column()), (Some(3), Some(9)));
}

#[test]
fn no_span_is_too_odd_to_be_shown() {
    for text in ["", "\n", "ü", "a\nü", "\r\n\r\n", "ü\n\n日本", "\t\u{feff}x\0\u{1b}[31m"] {
        for start in 0..text.len() + 3 {
            for end in 0..text.len() + 3 {
                let fault = ConfigError::at(Path::new("x"), text, Some(start..end), "m", None);
                assert!(fault.line() >= Some(1) && fault.column() >= Some(1), "{text:?} {start} {end}");
                assert!(!fault.to_string().is_empty() && !fault.colored().is_empty());
            }
        }
    }
}

#[test]
fn colors_are_for_those_who_ask() {
    let fault = fault("workers = 0\n");
    assert!(!fault.to_string().contains('\u{1b}'));
    assert!(fault.colored().contains('\u{1b}'));
}

#[test]
fn a_faulty_backend_says_what_is_wrong_with_it() {
    let backend = |value: &str| fault(&format!("[service.a.backends]\nblue = {value}\n"));
    assert_snapshot!(backend("{ sokcet = \"/b\" }"), @r#"
    error: unknown key `sokcet`
     --> /etc/bgproxy/bgproxy.toml:2:10
      |
    2 | blue = { sokcet = "/b" }
      |          ^^^^^^
      |
      = help: did you mean `socket`?
    "#);
    assert_snapshot!(backend("{ protocol = \"h2c\" }"), @r#"
    error: missing key `socket`
     --> /etc/bgproxy/bgproxy.toml:2:8
      |
    2 | blue = { protocol = "h2c" }
      |        ^^^^^^^^^^^^^^^^^^^^
      |
      = help: write where it listens, such as `socket = "/run/app.sock"`
    "#);
    assert_snapshot!(backend("{ socket = \"/b\", protocol = \"http2\" }"), @r#"
    error: unknown value `http2`
     --> /etc/bgproxy/bgproxy.toml:2:36
      |
    2 | blue = { socket = "/b", protocol = "http2" }
      |                                    ^^^^^^^
      |
      = help: known here: `http1`, `h2c`
    "#);
    assert_snapshot!(backend("{ socket = \"b\" }"), @r#"
    error: `b` is not an address: it has no port
     --> /etc/bgproxy/bgproxy.toml:2:19
      |
    2 | blue = { socket = "b" }
      |                   ^^^
      |
      = help: write "/run/app/nginx.sock" or "localhost:8080"
    "#);
    assert_snapshot!(backend("{ socket = 8080 }"), @r#"
    error: a port alone is not an address
     --> /etc/bgproxy/bgproxy.toml:2:19
      |
    2 | blue = { socket = 8080 }
      |                   ^^^^
      |
      = help: write "localhost:8080"
    "#);
    assert_snapshot!(backend("8080"), @r#"
    error: a port alone is not an address
     --> /etc/bgproxy/bgproxy.toml:2:8
      |
    2 | blue = 8080
      |        ^^^^
      |
      = help: write "localhost:8080"
    "#);
    assert_snapshot!(backend("true"), @r#"
    error: expected the path of a unix socket, "host:port", or a table such as { socket = "/run/app.sock" }, found boolean `true`
     --> /etc/bgproxy/bgproxy.toml:2:8
      |
    2 | blue = true
      |        ^^^^
    "#);
    assert_snapshot!(backend("[\"/b\"]"), @r#"
    error: expected the path of a unix socket, "host:port", or a table such as { socket = "/run/app.sock" }, found sequence
     --> /etc/bgproxy/bgproxy.toml:2:8
      |
    2 | blue = ["/b"]
      |        ^^^^^^
    "#);
}

#[test]
fn a_faulty_listener_says_what_is_wrong_with_it() {
    let listener = |line: &str| fault(&format!("[[listen]]\naddress = \"0.0.0.0:80\"\n{line}\n"));
    assert_snapshot!(listener("proxy_protocol = \"require\""), @r#"
    error: unknown value `require`
     --> /etc/bgproxy/bgproxy.toml:3:18
      |
    3 | proxy_protocol = "require"
      |                  ^^^^^^^^^
      |
      = help: did you mean `required`?
    "#);
    assert_snapshot!(listener("proxy_protocol = true"), @"
    error: expected a word in quotes
     --> /etc/bgproxy/bgproxy.toml:3:18
      |
    3 | proxy_protocol = true
      |                  ^^^^
    ");
    assert_snapshot!(listener("tsl = true"), @"
    error: unknown key `tsl`
     --> /etc/bgproxy/bgproxy.toml:3:1
      |
    3 | tsl = true
      | ^^^
      |
      = help: did you mean `tls`?
    ");
    assert_snapshot!(listener("tls = \"yes\""), @r#"
    error: expected true or false, found string "yes"
     --> /etc/bgproxy/bgproxy.toml:3:7
      |
    3 | tls = "yes"
      |       ^^^^^
      |
      = help: write `true` or `false`, without quotes
    "#);
}

#[test]
fn a_faulty_upgrade_says_what_is_wrong_with_it() {
    let upgrades = |value: &str| fault(&format!("[service.a]\nbackends.blue = \"/b\"\nupgrades = {value}\n"));
    assert_snapshot!(upgrades("[\"h2c\"]"), @r#"
    error: a connection is not upgraded to `h2c` here: requests inside it would pass unseen
     --> /etc/bgproxy/bgproxy.toml:3:13
      |
    3 | upgrades = ["h2c"]
      |             ^^^^^
      |
      = help: write "websocket", or the name of your application's own protocol
    "#);
    assert_snapshot!(upgrades("[\"web socket\"]"), @r#"
    error: `web socket` is not a protocol
     --> /etc/bgproxy/bgproxy.toml:3:13
      |
    3 | upgrades = ["web socket"]
      |             ^^^^^^^^^^^^
      |
      = help: write "websocket"
    "#);
    assert_snapshot!(upgrades("\"websocket\""), @r#"
    error: expected a list, found string "websocket"
     --> /etc/bgproxy/bgproxy.toml:3:12
      |
    3 | upgrades = "websocket"
      |            ^^^^^^^^^^^
      |
      = help: write it in brackets: `["a", "b"]`
    "#);
}
