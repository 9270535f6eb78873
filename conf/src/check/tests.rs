//! Each rule, by a file that breaks it.

use insta::assert_snapshot;

use super::*;

fn fault(text: &str) -> ConfigError {
    Config::parse(text, Path::new("bgproxy.toml")).expect_err("a fault")
}

#[test]
fn the_defaults_break_no_rule() {
    check(&Config::default(), "", Path::new("none")).expect("no fault");
    assert_eq!(Config::parse("", Path::new("none")).expect("no fault"), Config::default());
}

#[test]
fn no_listener_is_a_fault() {
    assert_snapshot!(fault("workers = 2\nlisten = []\n"), @r#"
        error: `listen` has no address
         --> bgproxy.toml:2:1
          |
        2 | listen = []
          | ^^^^^^
          |
          = help: write `[[listen]]` and below it `address = "0.0.0.0:80"`
        "#);
}

#[test]
fn a_second_listener_at_the_same_address_is_a_fault() {
    assert_snapshot!(fault("[[listen]]\naddress = \"0.0.0.0:80\"\n\n[[listen]]\naddress = \"0.0.0.0:80\"\n"), @r#"
        error: `0.0.0.0:80` is listened on twice
         --> bgproxy.toml:5:1
          |
        5 | address = "0.0.0.0:80"
          | ^^^^^^^
          |
          = help: remove one of them; the other is on line 2
        "#);
}

#[test]
fn any_number_of_listeners_may_take_a_free_port() {
    let text =
        "listen = [{ address = \"127.0.0.1:0\" }, { address = \"127.0.0.1:0\" }]\nadmin.address = \"127.0.0.1:0\"";
    Config::parse(text, Path::new("bgproxy.toml")).expect("no fault");
}

#[test]
fn an_admin_address_that_a_listener_takes_is_a_fault() {
    assert_snapshot!(fault("listen = [{ address = \"0.0.0.0:80\" }]\n[admin]\naddress = \"127.0.0.1:80\"\n"), @r#"
        error: `admin.address` 127.0.0.1:80 is taken by the listener 0.0.0.0:80
         --> bgproxy.toml:3:1
          |
        3 | address = "127.0.0.1:80"
          | ^^^^^^^
          |
          = help: give `admin.address` a port of its own, such as "127.0.0.1:9180"
        "#);
    assert_snapshot!(fault("[[listen]]\naddress = \"127.0.0.1:9180\"\n"), @r#"
        error: `admin.address` 127.0.0.1:9180 is taken by the listener 127.0.0.1:9180
         --> bgproxy.toml:1:3
          |
        1 | [[listen]]
          |   ^^^^^^
          |
          = help: give `admin.address` a port of its own, such as "127.0.0.1:9180"
        "#);
}

#[test]
fn a_control_socket_with_too_long_a_path_is_a_fault() {
    let text = |length: usize| format!("[control]\nsocket = \"/{}\"\n", "x".repeat(length - 1));
    assert_snapshot!(fault(&text(108)).message(), @"the socket's path has 108 bytes, the kernel takes at most 107");
    Config::parse(&text(107), Path::new("bgproxy.toml")).expect("no fault");
}

#[test]
fn a_relative_path_is_a_fault() {
    assert_snapshot!(fault("[control]\nsocket = \"control.sock\"\n"), @r#"
        error: `control.socket` is not an absolute path
         --> bgproxy.toml:2:1
          |
        2 | socket = "control.sock"
          | ^^^^^^
          |
          = help: write "/run/bgproxy/control.sock"
        "#);
    assert_snapshot!(fault("state.dir = \"state\"\n").message(), @"`state.dir` is not an absolute path");
    assert_snapshot!(fault("[log]\naccess = \"stderr\"\n"), @r#"
        error: `log.access` is not an absolute path
         --> bgproxy.toml:2:1
          |
        2 | access = "stderr"
          | ^^^^^^
          |
          = help: write "off", "stdout" or a path such as "/var/log/bgproxy/access.log"
        "#);
    assert_snapshot!(fault("[service.a]\nbackends.blue = \"/b\"\nlive_file = \"live\"\n").message(), @"`live_file` is not an absolute path");
}

#[test]
fn a_limit_outside_of_its_bounds_is_a_fault() {
    assert_snapshot!(fault("[limits]\nheader_size = \"4KiB\"\n"), @r#"
        error: `limits.header_size` is 4KiB, outside of 8KiB to 1MiB
         --> bgproxy.toml:2:1
          |
        2 | header_size = "4KiB"
          | ^^^^^^^^^^^
          |
          = help: write "32KiB", for example
        "#);
    assert_snapshot!(fault("limits.header_size = \"2MiB\"\n").message(), @"`limits.header_size` is 2MiB, outside of 8KiB to 1MiB");
    assert_snapshot!(fault("limits.connections = 0\n").message(), @"`limits.connections` is 0, so nobody could connect");
    assert_snapshot!(fault("limits.requests_per_second = 100001\n").message(), @"`limits.requests_per_second` is 100001, above 100000");
}

#[test]
fn a_deadline_of_zero_is_a_fault() {
    assert_snapshot!(fault("[shutdown]\ndeadline = \"0s\"\n"), @r#"
        error: `shutdown.deadline` is no time at all
         --> bgproxy.toml:2:1
          |
        2 | deadline = "0s"
          | ^^^^^^^^
          |
          = help: write a duration above zero, such as "30s"
        "#);
    for key in [
        "ready.interval",
        "ready.timeout",
        "ready.within",
        "drain.deadline",
        "timeouts.connect",
        "timeouts.response",
        "timeouts.idle",
        "pool.idle",
    ] {
        let fault = fault(&format!("[service.a]\nbackends.blue = \"/b\"\n{key} = \"0s\"\n"));
        assert_eq!(fault.message(), format!("`{key}` is no time at all"));
        assert_eq!(fault.line(), Some(3));
    }
    for key in ["first_byte_time", "handshake_time", "header_time", "idle_time"] {
        let fault = fault(&format!("limits.{key} = \"0s\"\n"));
        assert_eq!((fault.message(), fault.line()), (&format!("`limits.{key}` is no time at all")[..], Some(1)));
    }
    // A rate of nothing is none.
    Config::parse("limits = { body_rate = \"0\", answer_rate = \"0\" }\n", Path::new("x")).expect("no fault");
}

#[test]
fn an_error_page_is_an_absolute_path_that_shows_what_it_is() {
    assert_snapshot!(fault("[error_pages]\n502 = \"/a.html\"\n503 = \"503.html\"\n"), @r#"
        error: `error_pages.503` is not an absolute path
         --> bgproxy.toml:3:1
          |
        3 | 503 = "503.html"
          | ^^^
          |
          = help: write a path such as "/etc/bgproxy/502.html"
        "#);
    assert_snapshot!(fault("[error_pages]\n502 = \"/a.htm\"\n"), @r#"
        error: `/a.htm` does not say what kind of text it is
         --> bgproxy.toml:2:1
          |
        2 | 502 = "/a.htm"
          | ^^^
          |
          = help: give it a name that ends in `.html`, `.json` or `.txt`
        "#);
    assert_snapshot!(fault("[error_pages]\n200 = \"/a.html\"\n"), @r#"
        error: `200` is not the status of a failure
         --> bgproxy.toml:2:1
          |
        2 | 200 = "/a.html"
          | ^^^
          |
          = help: write a status from 400 to 599, such as 502
        "#);
    Config::parse("error_pages = { 404 = \"/a.txt\", 502 = \"/b.json\" }\n", Path::new("x")).expect("no fault");
}

#[test]
fn a_service_without_backends_is_a_fault() {
    assert_snapshot!(fault("[service.a]\nbackends = {}\n"), @r#"
        error: service `a` has no backend
         --> bgproxy.toml:2:1
          |
        2 | backends = {}
          | ^^^^^^^^
          |
          = help: write where at least one color is, such as `blue = "/var/run/nginx/blue/nginx.sock"`
        "#);
}

#[test]
fn a_first_color_without_a_backend_is_a_fault() {
    let text = |first: &str| {
        format!("[service.a]\nfirst = \"{first}\"\n\n[service.a.backends]\nblue = \"/b\"\ngreen = \"/g\"\n")
    };
    assert_snapshot!(fault(&text("gren")), @r#"
        error: `first` is "gren", which is not a color of service `a`
         --> bgproxy.toml:2:1
          |
        2 | first = "gren"
          | ^^^^^
          |
          = help: did you mean "green"?
        "#);
    assert_snapshot!(fault(&text("pink")), @r#"
        error: `first` is "pink", which is not a color of service `a`
         --> bgproxy.toml:2:1
          |
        2 | first = "pink"
          | ^^^^^
          |
          = help: write one of `blue`, `green`
        "#);
}

#[test]
fn a_service_without_blue_must_say_what_comes_first() {
    assert_snapshot!(fault("[service.a.backends]\nred = \"/r\"\nwhite = \"/w\"\n"), @r#"
        error: service `a` has no color `blue`, so `first` must say which color starts live
         --> bgproxy.toml:1:12
          |
        1 | [service.a.backends]
          |            ^^^^^^^^
          |
          = help: add `first = "red"`
        "#);
}

#[test]
fn two_colors_with_one_socket_are_a_fault() {
    assert_snapshot!(fault("[service.a.backends]\nblue = \"/run/x.sock\"\ngreen = \"/run//x.sock\"\n"), @r#"
        error: `blue` and `green` of service `a` have the same backend
         --> bgproxy.toml:3:1
          |
        3 | green = "/run//x.sock"
          | ^^^^^
          |
          = help: give each color a place of its own, or a switch between them changes nothing
        "#);
}

#[test]
fn a_backend_socket_with_too_long_a_path_is_a_fault() {
    let fault = fault(&format!("[service.a.backends]\nblue = \"/{}\"\n", "x".repeat(107)));
    assert_snapshot!(fault.message(), @"the socket's path has 108 bytes, the kernel takes at most 107");
    assert_eq!((fault.line(), fault.column()), (Some(2), Some(1)));
}

#[test]
fn a_ready_question_that_cannot_be_asked_is_a_fault() {
    let text = |line: &str| format!("[service.a]\nbackends.blue = \"/b\"\n[service.a.ready]\n{line}\n");
    assert_snapshot!(fault(&text("path = \"health\"")), @r#"
        error: `ready.path` does not start with `/`
         --> bgproxy.toml:4:1
          |
        4 | path = "health"
          | ^^^^
          |
          = help: write a path such as "/health"
        "#);
    assert_snapshot!(fault(&text("path = \"/a b\"")).message(), @"`ready.path` has a character that no request target may have");
    assert_snapshot!(fault(&text("path = \"/\\r\\nX: y\"")).message(), @"`ready.path` has a character that no request target may have");
    assert_snapshot!(fault(&text("host = \"a/b\"")).message(), @"`ready.host` is not a host");
    assert_snapshot!(fault(&text("passes = 0")).message(), @"`ready.passes` is 0, outside of 1 to 100");
    assert_snapshot!(fault(&text("passes = 101")).message(), @"`ready.passes` is 101, outside of 1 to 100");
    assert_snapshot!(fault(&text("within = \"1s\"")), @r#"
        error: `ready.timeout` (2s) is longer than `ready.within` (1s)
         --> bgproxy.toml:4:1
          |
        4 | within = "1s"
          | ^^^^^^
          |
          = help: one answer must fit into the time that all of them have
        "#);
    assert_snapshot!(fault(&text("passes = 70")), @"
        error: 70 passes, 500ms apart, do not fit into `ready.within` (30s)
         --> bgproxy.toml:4:1
          |
        4 | passes = 70
          | ^^^^^^
          |
          = help: no color could ever become ready: raise `within`, or lower `interval` or `passes`
        ");
}

#[test]
fn two_services_with_one_route_are_a_fault() {
    assert_snapshot!(fault(r#"
[service.a]
hosts = ["a.example.com", "x.example.com"]
paths = ["/", "/shop"]
backends.blue = "/run/a.sock"

[service.b]
hosts = ["b.example.com", "X.example.com"]
paths = ["/shop/"]
backends.blue = "/run/b.sock"
"#), @r#"
        error: services `a` and `b` both serve `x.example.com/shop`
         --> bgproxy.toml:8:27
          |
        8 | hosts = ["b.example.com", "X.example.com"]
          |                           ^^^^^^^^^^^^^^^
          |
          = help: give one of them other `hosts` or `paths`
        "#);
    assert_snapshot!(fault("[service.a]\nbackends.blue = \"/a\"\n[service.b]\nbackends.blue = \"/b\"\n"), @"
        error: services `a` and `b` both serve every host with `/`
         --> bgproxy.toml:3:10
          |
        3 | [service.b]
          |          ^
          |
          = help: give one of them other `hosts` or `paths`
        ");
    assert_snapshot!(fault("[service.a]\nbackends.blue = \"/a\"\npaths = []\n").message(), @"service `a` has no path");
}

#[test]
fn a_preview_host_belongs_to_one_service_and_to_no_live_host() {
    let text = |a: &str, b: &str| {
        format!(
            "[service.a]\nhosts = [\"a.example.com\"]\nbackends.blue = \"/a\"\npreview.hosts = [\"{a}\"]\n\
                 [service.b]\nhosts = [\"b.example.com\"]\nbackends.blue = \"/b\"\npreview.hosts = [\"{b}\"]\n"
        )
    };
    assert_snapshot!(fault(&text("b.example.com", "p.example.com")), @r#"
        error: preview host `b.example.com` is also a live host of service `b`
         --> bgproxy.toml:4:18
          |
        4 | preview.hosts = ["b.example.com"]
          |                  ^^^^^^^^^^^^^^^
          |
          = help: testers need a host of their own, such as "preview.portal.example.com"
        "#);
    assert_snapshot!(fault(&text("p.example.com", "p.example.com")), @r#"
        error: `p.example.com` is the preview host of both `a` and `b`
         --> bgproxy.toml:8:18
          |
        8 | preview.hosts = ["p.example.com"]
          |                  ^^^^^^^^^^^^^^^
          |
          = help: testers need a host of their own, such as "preview.portal.example.com"
        "#);
    Config::parse(&text("p.example.com", "q.example.com"), Path::new("bgproxy.toml")).expect("no fault");
}

#[test]
fn a_live_file_is_shared_with_nobody() {
    let text = |a: &str, b: &str| {
        format!(
            "[service.a]\nhosts = [\"a\"]\nbackends.blue = \"/a\"\nlive_file = \"{a}\"\n\
                 [service.b]\nhosts = [\"b\"]\nbackends.blue = \"/b\"\nlive_file = \"{b}\"\n"
        )
    };
    assert_snapshot!(fault(&text("/etc/live", "/etc/x/../live")), @r#"
        error: services `a` and `b` have the same live file
         --> bgproxy.toml:8:1
          |
        8 | live_file = "/etc/x/../live"
          | ^^^^^^^^^
          |
          = help: give each service a file of its own
        "#);
    assert_snapshot!(fault(&text("/var/lib/bgproxy/live", "/etc/live")), @r#"
        error: the live file of service `a` is among the state files (/var/lib/bgproxy)
         --> bgproxy.toml:4:1
          |
        4 | live_file = "/var/lib/bgproxy/live"
          | ^^^^^^^^^
          |
          = help: give live files a directory, such as /var/lib/bgproxy/live
        "#);
    // A directory below the state files' is nobody's but the live files'.
    for (a, b) in [("/etc/live-a", "/etc/live-b"), ("/var/lib/bgproxy/live/a", "/var/lib/bgproxy/live/b")] {
        Config::parse(&text(a, b), Path::new("bgproxy.toml")).expect("no fault");
    }
}

const TLS: &str = r#"
[[listen]]
address = "0.0.0.0:443"
tls = true

[[certificate]]
cert = "/etc/a.pem"
key = "/etc/a.key"
"#;

#[test]
fn tls_without_a_certificate_is_a_fault() {
    assert_snapshot!(fault("[[listen]]\naddress = \"0.0.0.0:443\"\ntls = true\n"), @r#"
        error: `tls` needs a certificate
         --> bgproxy.toml:3:1
          |
        3 | tls = true
          | ^^^
          |
          = help: write `[[certificate]]` and below it `cert = "..."` and `key = "..."`, or fill in `[acme]`
        "#);
    Config::parse(TLS, Path::new("bgproxy.toml")).expect("no fault");
}

#[test]
fn client_certificates_are_asked_for_over_tls_only() {
    assert_snapshot!(fault("[[listen]]\naddress = \"0.0.0.0:80\"\nclient_ca = \"/etc/ca.pem\"\n"), @"
        error: `client_ca` is for listeners with `tls` only
         --> bgproxy.toml:3:1
          |
        3 | client_ca = \"/etc/ca.pem\"
          | ^^^^^^^^^
          |
          = help: add `tls = true`, or remove it: without TLS clients show no certificates
        ");
    let text = TLS.replace("tls = true", "tls = true\nclient_ca = \"ca.pem\"");
    assert_snapshot!(fault(&text), @r#"
        error: `client_ca` is not an absolute path
         --> bgproxy.toml:5:1
          |
        5 | client_ca = "ca.pem"
          | ^^^^^^^^^
          |
          = help: write a path such as "/etc/bgproxy/clients.pem"
        "#);
}

#[test]
fn a_redirect_to_tls_leads_from_a_listener_in_clear_to_one_with_tls() {
    let text = TLS.replace("tls = true", "tls = true\nredirect_https = true");
    assert_snapshot!(fault(&text), @r#"
        error: `redirect_https` on a listener with `tls` would go in circles
         --> bgproxy.toml:5:1
          |
        5 | redirect_https = true
          | ^^^^^^^^^^^^^^
          |
          = help: remove it here: it is for the listener in clear, such as "0.0.0.0:80"
        "#);
    let clear = "[[listen]]\naddress = \"0.0.0.0:80\"\nredirect_https = true\n";
    assert_snapshot!(fault(clear), @"
        error: `redirect_https` has no listener with `tls` to lead to
         --> bgproxy.toml:3:1
          |
        3 | redirect_https = true
          | ^^^^^^^^^^^^^^
          |
          = help: add a `[[listen]]` with `tls = true`; if something in front of bgproxy speaks TLS, let that redirect
        ");
    Config::parse(&format!("{clear}{TLS}"), Path::new("bgproxy.toml")).expect("no fault");
}

#[test]
fn a_certificate_is_named_once_by_absolute_paths() {
    let text = |cert: &str, key: &str| format!("[[certificate]]\ncert = \"{cert}\"\nkey = \"{key}\"\n");
    assert_snapshot!(fault(&text("a.pem", "/a.key")), @r#"
        error: `cert` is not an absolute path
         --> bgproxy.toml:2:1
          |
        2 | cert = "a.pem"
          | ^^^^
          |
          = help: write a path such as "/etc/bgproxy/portal.pem"
        "#);
    let relative = fault(&text("/a.pem", "a.key"));
    assert_eq!((relative.message(), relative.line()), ("`key` is not an absolute path", Some(3)));
    assert_snapshot!(fault(&(text("/a.pem", "/a.key") + &text("/x/../a.pem", "/a.key"))), @r#"
        error: the certificate /x/../a.pem is there twice
         --> bgproxy.toml:5:1
          |
        5 | cert = "/x/../a.pem"
          | ^^^^
          |
          = help: remove one of them; the other is on line 2
        "#);
}

#[test]
fn the_proxy_protocol_needs_somebody_to_trust() {
    let text = "[[listen]]\naddress = \"0.0.0.0:80\"\nproxy_protocol = \"required\"\n";
    assert_snapshot!(fault(&format!("{text}[trusted]\nproxies = []\n")), @r#"
        error: `proxy_protocol` is required, but `trusted.proxies` is empty, so nobody could connect
         --> bgproxy.toml:3:1
          |
        3 | proxy_protocol = "required"
          | ^^^^^^^^^^^^^^
          |
          = help: write whose word counts into `trusted.proxies`, such as ["10.0.0.0/24"]
        "#);
    Config::parse(text, Path::new("bgproxy.toml")).expect("no fault");
}

fn service(lines: &str) -> String {
    format!("[service.a]\nbackends.blue = \"/b\"\n{lines}\n")
}

#[test]
fn hsts_takes_time_and_a_listener_with_tls() {
    assert_snapshot!(fault(&service("hsts = \"0s\"")), @r#"
        error: `hsts` is 0s, less than a second
         --> bgproxy.toml:3:1
          |
        3 | hsts = "0s"
          | ^^^^
          |
          = help: write "180d", for example, or leave it out
        "#);
    assert_snapshot!(fault(&service("hsts = \"180d\"")), @r#"
        error: `hsts` has no listener with `tls` to be said on
         --> bgproxy.toml:3:1
          |
        3 | hsts = "180d"
          | ^^^^
          |
          = help: add a `[[listen]]` with `tls = true`: browsers believe `hsts` over TLS only
        "#);
    let text = service("hsts = \"180d\"") + TLS;
    Config::parse(&text, Path::new("bgproxy.toml")).expect("no fault");
}

#[test]
fn a_canonical_host_is_one_of_the_services_hosts() {
    assert_snapshot!(fault(&service("canonical_host = \"*.example.com\"")), @r#"
        error: `canonical_host` is `*.example.com`, which is no single host
         --> bgproxy.toml:3:1
          |
        3 | canonical_host = "*.example.com"
          | ^^^^^^^^^^^^^^
          |
          = help: write one host, such as "portal.example.com"
        "#);
    let text = |host: &str| {
        let hosts = "hosts = [\"example.com\", \"*.example.org\"]\npreview.hosts = [\"p.example.org\"]";
        service(&format!("{hosts}\ncanonical_host = \"{host}\""))
    };
    assert_snapshot!(fault(&text("www.example.com")), @r#"
        error: `canonical_host` is `www.example.com`, which is not among the `hosts` of service `a`
         --> bgproxy.toml:5:1
          |
        5 | canonical_host = "www.example.com"
          | ^^^^^^^^^^^^^^
          |
          = help: add it to `hosts`, or clients would be sent to where nobody serves them
        "#);
    for outside in ["example.org", "badexample.org"] {
        assert_eq!(fault(&text(outside)).line(), Some(5), "{outside} is not below example.org");
    }
    assert_snapshot!(fault(&text("p.example.org")).message(), @"`canonical_host` is `p.example.org`, which is a preview host of service `a`");
    for text in [text("example.com"), text("www.example.org"), service("canonical_host = \"any.example.com\"")] {
        Config::parse(&text, Path::new("bgproxy.toml")).expect("no fault");
    }
}

#[test]
fn an_upgrade_is_allowed_once() {
    assert_snapshot!(fault(&service("upgrades = [\"websocket\", \"WebSocket\"]")), @r#"
        error: `websocket` is there twice
         --> bgproxy.toml:3:26
          |
        3 | upgrades = ["websocket", "WebSocket"]
          |                          ^^^^^^^^^^^
          |
          = help: remove one of them
        "#);
    for upgrades in ["[]", "[\"websocket\", \"SPDY/3.1\"]"] {
        Config::parse(&service(&format!("upgrades = {upgrades}")), Path::new("bgproxy.toml")).expect("no fault");
    }
}

#[test]
fn streams_are_ended_some_day() {
    assert_snapshot!(fault(&service("streams.per_second = 0")), @"
        error: `streams.per_second` is 0, so no stream would ever be ended
         --> bgproxy.toml:3:9
          |
        3 | streams.per_second = 0
          |         ^^^^^^^^^^
          |
          = help: write 1 or more, such as 200; a long `streams.keep` lets them live
        ");
    assert_snapshot!(fault(&service("streams.idle = \"0s\"")).message(), @"`streams.idle` is no time at all");
    let at_once = service("streams = { keep = \"0s\", spread = \"0s\" }");
    Config::parse(&at_once, Path::new("bgproxy.toml")).expect("no fault");
}

#[test]
fn what_a_backend_speaks_and_is_told_goes_together() {
    let text = service("backends.green = { socket = \"a:1\", protocol = \"h2c\", send_proxy = true }");
    Config::parse(&text, Path::new("bgproxy.toml")).expect("no fault");
}

// === certificates that are fetched ===

fn acme(rest: &str) -> String {
    format!("[acme]\nhosts = [\"a.test\", \"b.test\"]\nterms_agreed = true\n{rest}")
}

#[test]
fn certificates_can_be_fetched_for_a_listener_that_has_none() {
    let tls = "[[listen]]\naddress = \"0.0.0.0:443\"\ntls = true\n";
    for text in [acme(tls), acme(&format!("email = \"me@example.com\"\nca = \"/etc/ca.pem\"\n{tls}"))] {
        Config::parse(&text, Path::new("bgproxy.toml")).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

#[test]
fn nobody_agrees_to_terms_unasked() {
    assert_snapshot!(fault("[acme]\nhosts = [\"a.test\"]\n"), @r#"
    error: `acme.hosts` needs `acme.terms_agreed`
     --> bgproxy.toml:1:2
      |
    1 | [acme]
      |  ^^^^
      |
      = help: read the authority's terms of service, and write `terms_agreed = true` below `[acme]` if you agree
    "#);
}

#[test]
fn hosts_that_cannot_be_proven_are_a_fault() {
    let message = |hosts: &str| fault(&format!("[acme]\nterms_agreed = true\nhosts = [{hosts}]\n")).to_string();
    assert!(message("\"*.a.test\"").contains("`*.a.test` cannot be fetched: an authority wants to see it in DNS"));
    assert!(message("\"192.0.2.1\"").contains("`192.0.2.1` is an address, not a name"));
    assert!(message("\"[::1]\"").contains("`[::1]` is an address, not a name"));
    assert_snapshot!(message("\"a.test\", \"A.test.\""), @r#"
    error: `a.test` is there twice
     --> bgproxy.toml:3:20
      |
    3 | hosts = ["a.test", "A.test."]
      |                    ^^^^^^^^^
      |
      = help: remove one of them; the other is on line 3
    "#);
}

#[test]
fn an_authority_is_asked_over_https_alone() {
    let ports = ["https://a.test:0/", "https://a.test:99999/", "https://a.test:/", "https://[::1]:x", "https://:443/"];
    let others = ["http://a.test/directory", "https://", "a.test", "https://me@a.test/", "https://a.test/a b"];
    for url in ports.into_iter().chain(others) {
        let said = fault(&acme(&format!("directory = \"{url}\"\n"))).to_string();
        assert!(said.contains("`acme.directory` is not a URL over HTTPS"), "{url}: {said}");
    }
    for email in ["me", "@a.test", "me@", "me@a@b", "me@a.test, you@a.test"] {
        let said = fault(&acme(&format!("email = \"{email}\"\n"))).to_string();
        assert!(said.contains("`acme.email` is not an address"), "{email}: {said}");
    }
    assert!(fault(&acme("ca = \"ca.pem\"\n")).to_string().contains("`acme.ca` is not an absolute path"));
}

#[test]
fn an_authority_needs_a_listener_to_look_at() {
    let clear = "[[listen]]\naddress = \"0.0.0.0:80\"\n";
    let tls = "[[listen]]\naddress = \"0.0.0.0:443\"\ntls = true\n";
    let closed = format!("{tls}client_ca = \"/etc/ca.pem\"\n");
    let message = |challenge: &str, listen: &str| {
        let text = acme(&format!("challenge = \"{challenge}\"\n{listen}"));
        Config::parse(&text, Path::new("bgproxy.toml")).map_or_else(|fault| fault.to_string(), |_| "fine".to_owned())
    };
    assert!(message("http-01", tls).contains("`http-01` needs a listener in clear"));
    assert!(message("tls-alpn-01", clear).contains("`tls-alpn-01` needs a listener with `tls` for everybody"));
    assert!(message("tls-alpn-01", &closed).contains("`tls-alpn-01` needs a listener with `tls` for everybody"));
    assert!(message("auto", &closed).contains("an authority could not look at any listener"));
    let both = format!("{clear}{tls}");
    for (challenge, listen) in [("http-01", &*both), ("tls-alpn-01", tls), ("auto", &both), ("auto", tls)] {
        assert_eq!(message(challenge, listen), "fine");
    }
    assert_ne!(message("dns-01", clear), "fine");
}

#[test]
fn certificates_that_no_listener_uses_are_a_fault() {
    assert_snapshot!(fault(&acme("[[listen]]\naddress = \"0.0.0.0:80\"\n")), @r#"
    error: `acme.hosts` has no listener with `tls` to be used on
     --> bgproxy.toml:2:1
      |
    2 | hosts = ["a.test", "b.test"]
      | ^^^^^
      |
      = help: add a `[[listen]]` with `tls = true`, such as at "0.0.0.0:443"
    "#);
}

// === limits ===

#[test]
fn limits_that_do_not_fit_together_are_a_fault() {
    assert_snapshot!(fault("[limits]\nrequests_burst = 5\n"), @"
    error: `limits.requests_burst` limits nothing without `limits.requests_per_second`
     --> bgproxy.toml:2:1
      |
    2 | requests_burst = 5
      | ^^^^^^^^^^^^^^
      |
      = help: write `requests_per_second` too, such as 50, or remove it
    ");
    assert_snapshot!(fault("[limits]\nconnections = 10\nconnections_per_address = 11\n"), @"
    error: `limits.connections_per_address` is 11, above `limits.connections` (10)
     --> bgproxy.toml:3:1
      |
    3 | connections_per_address = 11
      | ^^^^^^^^^^^^^^^^^^^^^^^
      |
      = help: lower it, or write 0 for no limit by address
    ");
    let fits =
        "[limits]\nconnections = 10\nconnections_per_address = 10\nrequests_burst = 5\nrequests_per_second = 1\n";
    Config::parse(fits, Path::new("bgproxy.toml")).expect("no fault");
}

#[test]
fn a_range_is_written_by_its_first_address() {
    assert_snapshot!(fault("[limits]\nexempt = [\"192.0.2.0/24\", \"10.0.0.1/8\"]\n"), @r#"
    error: `10.0.0.1/8` does not begin where its range begins
     --> bgproxy.toml:2:27
      |
    2 | exempt = ["192.0.2.0/24", "10.0.0.1/8"]
      |                           ^^^^^^^^^^^^
      |
      = help: write "10.0.0.0/8", or "10.0.0.1/32" for the one address
    "#);
    let services = |key: &str| service(&format!("{key} = [\"2001:db8::1/32\"]"));
    for text in ["trusted.proxies = [\"10.0.0.1/8\"]\n".to_owned(), services("allow"), services("deny")] {
        assert!(fault(&text).message().ends_with("does not begin where its range begins"), "{text}");
    }
    let fine = "limits.exempt = [\"10.0.0.0/8\", \"10.0.0.1/32\", \"::1/128\", \"0.0.0.0/0\"]\n";
    Config::parse(fine, Path::new("bgproxy.toml")).expect("no fault");
}

// === what the log and the pages are for ===

#[test]
fn a_word_that_is_no_level_is_a_fault() {
    assert_snapshot!(fault("[log]\nlevel = \"inf\"\n"), @r#"
    error: `log.level` is "inf", which is no level
     --> bgproxy.toml:2:1
      |
    2 | level = "inf"
      | ^^^^^
      |
      = help: write "error", "warn", "info", "debug", "trace", or a filter such as "info,h2=debug"
    "#);
    for level in ["off", "WARN", "info", "trace", "info,h2=debug", "bgproxy::control=debug", "3"] {
        Config::parse(&format!("log.level = \"{level}\"\n"), Path::new("bgproxy.toml")).expect("no fault");
    }
}

#[test]
fn a_page_that_nobody_would_see_is_a_fault() {
    assert_snapshot!(fault("[error_pages]\n502 = \"/a.html\"\n418 = \"/b.html\"\n"), @r#"
    error: the door never answers with 418 by itself
     --> bgproxy.toml:3:1
      |
    3 | 418 = "/b.html"
      | ^^^
      |
      = help: remove it: answers of backends pass as they are; known: 400, 403, 404, 405, 408, 413, 414, 417, 429, 431, 500, 501, 502, 503, 504
    "#);
    assert_eq!(fault("error_pages.499 = \"/a.html\"\n").message(), "the door never answers with 499 by itself");
    for status in ANSWERED {
        Config::parse(&format!("error_pages.{status} = \"/a.html\"\n"), Path::new("x")).expect("no fault");
    }
}
