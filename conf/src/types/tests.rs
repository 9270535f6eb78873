//! Each value as it is written and read.

use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;

use super::*;

fn fault<T: FromStr<Err = Invalid> + fmt::Debug>(text: &str) -> String {
    text.parse::<T>().expect_err(text).to_string()
}

/// Reads, writes and reads again, as text and as JSON.
fn round<T>(text: &str) -> String
where
    T: FromStr<Err = Invalid> + fmt::Display + fmt::Debug + PartialEq + Serialize + serde::de::DeserializeOwned,
{
    let value: T = text.parse().expect(text);
    let written = value.to_string();
    assert_eq!(written.parse::<T>().as_ref(), Ok(&value), "{text}");
    let json = serde_json::to_string(&value).expect("serializes");
    assert_eq!(serde_json::from_str::<T>(&json).expect("deserializes"), value, "{json}");
    written
}

#[test]
fn a_host_is_lower_case_and_without_the_dot_of_the_root() {
    assert_eq!(round::<Host>("Portal.Example.COM."), "portal.example.com");
    assert_eq!(round::<Host>("*.Example.com"), "*.example.com");
    assert_eq!(round::<Host>("192.0.2.1"), "192.0.2.1");
    assert_eq!(round::<Host>("[2001:DB8:0::1]"), "[2001:db8::1]");
    let wildcard: Host = "*.example.com".parse().expect("a host");
    assert!(wildcard.is_wildcard());
    assert_eq!(wildcard.name(), "example.com");
}

#[test]
fn what_is_more_than_a_host_is_refused_with_the_reason() {
    for (text, reason) in [
        ("", "it is empty"),
        ("*", "for every host, leave the list empty"),
        ("*.", "it is empty"),
        ("a.*.example.com", "`*` may only be the whole first label"),
        ("http://example.com", "a scheme has no place here"),
        ("example.com/shop", "a path has no place here"),
        ("example.com:80", "a port has no place here"),
        ("[::1]:80", "a port has no place here"),
        ("::1", "an IPv6 address stands in brackets"),
        ("[::1", "closed by `]`"),
        ("*.[::1]", "has nothing below it"),
        ("*.192.0.2.1", "has nothing below it"),
        ("a..b", "between the dots"),
        ("bücher.example", "`xn--` form"),
        ("a b", "letters, digits"),
        ("a\0b", "letters, digits"),
    ] {
        let said = fault::<Host>(text);
        assert!(said.contains(reason), "{text:?}: {said}");
    }
    assert!(fault::<Host>(&"a".repeat(64)).contains("1 to 63"));
    assert!(fault::<Host>(&"a.".repeat(130)).contains("longer than 253"));
}

#[test]
fn a_path_prefix_covers_whole_segments() {
    assert_eq!(round::<PathPrefix>("/"), "/");
    assert_eq!(round::<PathPrefix>("/shop/"), "/shop");
    let shop: PathPrefix = "/shop".parse().expect("a prefix");
    assert!(shop.covers("/shop") && shop.covers("/shop/") && shop.covers("/shop/cart"));
    assert!(!shop.covers("/shops") && !shop.covers("/"));
    assert!(PathPrefix::root().covers("/shop") && PathPrefix::root().covers("*"));
    for text in ["", "shop", "/a?b", "/a#b", "/a b", "/a\n", "/ä", "//", "/a//b", "/a/../b", "/./", "/a/*"] {
        assert!(text.parse::<PathPrefix>().is_err(), "{text:?}");
    }
}

#[test]
fn an_address_is_a_socket_or_host_and_port() {
    assert_eq!(round::<Address>("/run/app.sock"), "/run/app.sock");
    assert_eq!(round::<Address>("LocalHost:8080"), "localhost:8080");
    assert_eq!(round::<Address>("[::1]:8080"), "[::1]:8080");
    let ipv6 = "[::1]:8080".parse();
    assert_eq!(ipv6, Ok(Address::Tcp { host: "::1".to_owned(), port: 8080 }));
    assert!(fault::<Address>("unix:/run/app.sock").ends_with("write \"/run/app.sock\""));
    for text in [
        "",
        "run/app.sock",
        "localhost",
        "localhost:",
        "localhost:0",
        "localhost:65536",
        "http://a:80",
        ":80",
        "::1:80",
        "/a\0",
    ] {
        assert!(text.parse::<Address>().is_err(), "{text:?}");
    }
}

#[test]
fn colors_and_service_names_are_safe_as_file_names() {
    assert_eq!(round::<Color>("blue"), "blue");
    assert_eq!(round::<ServiceName>("portal-2_b"), "portal-2_b");
    for text in ["", "Blue", "2blue", "-blue", "..", "a/b", "a.b", "a b", "blüe", &"a".repeat(33)] {
        assert!(text.parse::<Color>().is_err(), "{text:?}");
        assert!(text.parse::<ServiceName>().is_err(), "{text:?}");
    }
    let colors = std::collections::BTreeMap::from([(Color::blue(), 1), (Color::green(), 2)]);
    assert_eq!(colors.get("green"), Some(&2));
}

#[test]
fn a_duration_has_a_unit_and_is_at_most_a_year() {
    assert_eq!(round::<Seconds>("30s"), "30s");
    assert_eq!(round::<Seconds>("90s"), "1m 30s");
    assert_eq!(round::<Seconds>(" 500 ms "), "500ms");
    assert_eq!(round::<Seconds>("0"), "0s");
    assert_eq!("2m".parse::<Seconds>().map(Seconds::get), Ok(Duration::from_secs(120)));
    assert_eq!(fault::<Seconds>("30"), "`30` has no unit; write \"30s\"");
    assert_eq!(fault::<Seconds>("soon"), "`soon` is not a duration; write \"30s\", \"500ms\" or \"2m\"");
    for text in ["", "-1s", "2years", "99999999999999999999s", "18446744073709551615s", "1e3s"] {
        assert!(text.parse::<Seconds>().is_err(), "{text:?}");
    }
    assert!(std::time::Instant::now().checked_add(Seconds::new(u64::MAX).get()).is_some());
    assert_eq!(Seconds::millis(u64::MAX), Seconds::new(u64::MAX));
}

#[test]
fn a_size_is_written_in_its_largest_exact_unit() {
    assert_eq!(round::<Bytes>("64KiB"), "64KiB");
    assert_eq!(round::<Bytes>("1024 kib"), "1MiB");
    assert_eq!(round::<Bytes>("10MB"), "10MB");
    assert_eq!(round::<Bytes>("512B"), "512B");
    assert_eq!(round::<Bytes>("1GiB"), "1GiB");
    assert_eq!(round::<Bytes>("0"), "0");
    assert_eq!(round::<Bytes>("0KiB"), "0");
    assert_eq!(Bytes::new(u64::MAX).to_string(), "18446744073709551615B");
    assert_eq!(Bytes::mib(10).get(), 10 * 1024 * 1024);
    assert_eq!(fault::<Bytes>("512"), "`512` has no unit; write \"512B\" or \"64KiB\"");
    for text in ["", "KiB", "1.5MiB", "-1B", "10 minutes", "16777216TiB", "99999999999999999999B", "10µB"] {
        assert!(text.parse::<Bytes>().is_err(), "{text:?}");
    }
}

#[test]
fn workers_are_auto_or_a_number() {
    let read = serde_json::from_str::<Workers>;
    assert_eq!(read("\"auto\"").expect("workers"), Workers::Auto);
    assert_eq!(read("4").expect("workers").count(), 4);
    assert_eq!(serde_json::to_string(&read("4").expect("workers")).expect("serializes"), "4");
    assert!(Workers::Auto.count() >= 1);
    for text in ["0", "1025", "-1", "18446744073709551615", "\"4\"", "\"all\"", "null", "1.5"] {
        assert!(read(text).is_err(), "{text}");
    }
}

#[test]
fn a_principal_is_a_user_a_group_or_everybody() {
    assert_eq!("deploy".parse(), Ok(Principal::User("deploy".to_owned())));
    assert_eq!("@deploy".parse(), Ok(Principal::Group("deploy".to_owned())));
    assert_eq!("*".parse(), Ok(Principal::Everybody));
    for text in ["deploy", "@deploy", "*", "1000", "jane.doe@example.com"] {
        assert_eq!(round::<Principal>(text), text);
    }
    for text in ["", "@", "@@a", "-a", "a b", "a:b", "a,b", "@*"] {
        assert!(text.parse::<Principal>().is_err(), "{text:?}");
    }
}

#[test]
fn an_upgrade_is_to_a_protocol_that_is_not_http_again() {
    assert_eq!(round::<UpgradeToken>("WebSocket"), "websocket");
    assert_eq!(round::<UpgradeToken>("SPDY/3.1"), "spdy/3.1");
    assert!(fault::<UpgradeToken>("h2c").contains("would pass unseen"));
    for text in ["H2C", "h2", "HTTP/2.0", "TLS/1.3", "", "a/", "/1", "a/b/c", "web socket", "a,b", "ä", &"x".repeat(65)]
    {
        assert!(text.parse::<UpgradeToken>().is_err(), "{text:?}");
    }
}

#[test]
fn statuses_are_ranges_and_numbers_from_100_to_599() {
    let statuses: StatusRanges = "200, 204,300-399".parse().expect("statuses");
    assert_eq!(statuses.to_string(), "200,204,300-399");
    assert_eq!(
        [200, 201, 204, 299, 300, 399, 400].map(|status| statuses.contains(status)),
        [true, false, true, false, true, true, false]
    );
    assert_eq!(round::<StatusRanges>("200-399"), StatusRanges::default().to_string());
    for text in ["", "200,", "99", "600", "0200", "399-200", "200-300-400", "2xx", "+20", "-200"] {
        assert!(text.parse::<StatusRanges>().is_err(), "{text:?}");
    }
}

#[test]
fn the_status_of_a_failure_is_from_400_to_599() {
    assert_eq!(round::<ErrorStatus>("502"), "502");
    for text in ["", "40", "399", "600", "0502", "+50", "5xx", " 502"] {
        assert!(text.parse::<ErrorStatus>().is_err(), "{text:?}");
    }
}

#[test]
fn every_example_of_the_schema_is_such_a_value() {
    fn examples<T: FromStr<Err = Invalid> + JsonSchema>() {
        let schema = schemars::schema_for!(T);
        let examples = schema.get("examples").and_then(|list| list.as_array()).expect("examples");
        assert!(examples.iter().all(|text| text.as_str().is_some_and(|text| text.parse::<T>().is_ok())), "{schema:?}");
    }
    examples::<Host>();
    examples::<PathPrefix>();
    examples::<Address>();
    examples::<ErrorStatus>();
    examples::<Color>();
    examples::<ServiceName>();
    examples::<Seconds>();
    examples::<Bytes>();
    examples::<Principal>();
    examples::<StatusRanges>();
    examples::<UpgradeToken>();
}

/// A refused value is somebody's input: it must not break the line, the terminal or the log.
#[test]
fn a_refused_value_is_shown_on_one_short_line() {
    let said = fault::<Color>(&format!("\u{1b}[31m\n{}", "x".repeat(1000)));
    assert!(said.len() < 250 && !said.contains(char::is_control), "{said:?}");
}
