//! Can a service serve? Its backends, the question whether they are ready, its durations, what it tells clients.

use std::collections::{BTreeMap, BTreeSet};

use super::{File, Step, listeners, positive, service_key, short};
use crate::error::{listed, nearest};
use crate::{Address, Config, ConfigError, Host, Service, ServiceName, UpgradeToken};

/// The rules of one service.
pub(super) fn check(
    file: &File<'_>,
    config: &Config,
    name: &ServiceName,
    service: &Service,
) -> Result<(), ConfigError> {
    backends(file, name, service)?;
    readiness(file, name, service)?;
    durations(file, name, service)?;
    clients(file, config, name, service)
}

fn backends(file: &File<'_>, name: &ServiceName, service: &Service) -> Result<(), ConfigError> {
    let of = |keys: &[&'static str]| service_key(name, keys);
    let colors: Vec<&str> = service.backends.keys().map(|color| color.as_str()).collect();
    if colors.is_empty() {
        let hint = "write where at least one color is, such as `blue = \"/var/run/nginx/blue/nginx.sock\"`";
        return file.fault(of(&["backends"]), format!("service `{name}` has no backend"), hint);
    }
    let first = service.first.as_str();
    if !colors.contains(&first) {
        if file.find(&of(&["first"])).is_none() {
            let message = format!("service `{name}` has no color `blue`, so `first` must say which color starts live");
            return file.fault(of(&["backends"]), message, format!("add `first = \"{}\"`", colors[0]));
        }
        let hint = match nearest(first, colors.iter().copied()) {
            Some(color) => format!("did you mean \"{color}\"?"),
            None => format!("write one of {}", listed(&colors)),
        };
        let message = format!("`first` is \"{first}\", which is not a color of service `{name}`");
        return file.fault(of(&["first"]), message, hint);
    }
    let mut seen: BTreeMap<&Address, &str> = BTreeMap::new();
    for (color, backend) in &service.backends {
        let address = &backend.address;
        let mut at = of(&["backends"]);
        at.push(Step::Key(color.as_str().to_owned()));
        if let Some(path) = address.socket() {
            short(file, &at, path)?;
        }
        if let Some(other) = seen.insert(address, color.as_str()) {
            let message = format!("`{other}` and `{color}` of service `{name}` have the same backend");
            let hint = "give each color a place of its own, or a switch between them changes nothing";
            return file.fault(at, message, hint);
        }
    }
    Ok(())
}

fn readiness(file: &File<'_>, name: &ServiceName, service: &Service) -> Result<(), ConfigError> {
    let of = |keys: &[&'static str]| service_key(name, keys);
    let ready = &service.ready;
    if !ready.path.starts_with('/') {
        let message = "`ready.path` does not start with `/`";
        return file.fault(of(&["ready", "path"]), message, "write a path such as \"/health\"");
    }
    if !ready.path.bytes().all(|b| b.is_ascii_graphic()) || ready.path.contains('#') {
        let message = "`ready.path` has a character that no request target may have";
        return file.fault(of(&["ready", "path"]), message, "percent-encode it, such as `%20` for a space");
    }
    if let Some(host) = &ready.host
        && !is_authority(host)
    {
        let message = "`ready.host` is not a host";
        return file.fault(of(&["ready", "host"]), message, "write \"portal.example.com\" or \"localhost:8080\"");
    }
    if !(1..=100).contains(&ready.passes) {
        let message = format!("`ready.passes` is {}, outside of 1 to 100", ready.passes);
        return file.fault(of(&["ready", "passes"]), message, "write 3, for example");
    }
    for (label, duration) in [("interval", ready.interval), ("timeout", ready.timeout), ("within", ready.within)] {
        positive(file, of(&["ready", label]), &format!("ready.{label}"), duration)?;
    }
    if ready.timeout > ready.within {
        let message = format!("`ready.timeout` ({}) is longer than `ready.within` ({})", ready.timeout, ready.within);
        let at = file.first_of([of(&["ready", "timeout"]), of(&["ready", "within"])]);
        return file.fault(at, message, "one answer must fit into the time that all of them have");
    }
    let needed = ready.interval.get().saturating_mul(ready.passes - 1);
    if needed >= ready.within.get() {
        let message = format!(
            "{} passes, {} apart, do not fit into `ready.within` ({})",
            ready.passes, ready.interval, ready.within
        );
        let at = file.first_of([of(&["ready", "within"]), of(&["ready", "interval"]), of(&["ready", "passes"])]);
        return file.fault(
            at,
            message,
            "no color could ever become ready: raise `within`, or lower `interval` or `passes`",
        );
    }
    Ok(())
}

fn durations(file: &File<'_>, name: &ServiceName, service: &Service) -> Result<(), ConfigError> {
    let Service { drain, timeouts, pool, streams, .. } = service;
    for (section, label, duration) in [
        ("drain", "deadline", drain.deadline),
        ("timeouts", "connect", timeouts.connect),
        ("timeouts", "response", timeouts.response),
        ("timeouts", "idle", timeouts.idle),
        ("pool", "idle", pool.idle),
        ("streams", "idle", streams.idle),
    ] {
        positive(file, service_key(name, &[section, label]), &format!("{section}.{label}"), duration)?;
    }
    if streams.per_second == 0 {
        let message = "`streams.per_second` is 0, so no stream would ever be ended";
        let hint = "write 1 or more, such as 200; a long `streams.keep` lets them live";
        return file.fault(service_key(name, &["streams", "per_second"]), message, hint);
    }
    Ok(())
}

/// What clients are told and allowed.
fn clients(file: &File<'_>, config: &Config, name: &ServiceName, service: &Service) -> Result<(), ConfigError> {
    let of = |keys: &[&'static str]| service_key(name, keys);
    let mut seen: BTreeSet<&UpgradeToken> = BTreeSet::new();
    for (index, token) in service.upgrades.iter().enumerate() {
        if !seen.insert(token) {
            let mut at = of(&["upgrades"]);
            at.push(Step::Index(index));
            return file.fault(at, format!("`{token}` is there twice"), "remove one of them");
        }
    }
    if let Some(hsts) = service.hsts {
        if hsts.get().as_secs() == 0 {
            let message = format!("`hsts` is {hsts}, less than a second");
            return file.fault(of(&["hsts"]), message, "write \"180d\", for example, or leave it out");
        }
        if !listeners::have_tls(config) {
            let hint = "add a `[[listen]]` with `tls = true`: browsers believe `hsts` over TLS only";
            return file.fault(of(&["hsts"]), "`hsts` has no listener with `tls` to be said on", hint);
        }
    }
    let Some(host) = &service.canonical_host else { return Ok(()) };
    let at = of(&["canonical_host"]);
    if host.is_wildcard() {
        let message = format!("`canonical_host` is `{host}`, which is no single host");
        return file.fault(at, message, "write one host, such as \"portal.example.com\"");
    }
    if !service.hosts.is_empty() && !service.hosts.iter().any(|served| covers(served, host)) {
        let message = format!("`canonical_host` is `{host}`, which is not among the `hosts` of service `{name}`");
        return file.fault(at, message, "add it to `hosts`, or clients would be sent to where nobody serves them");
    }
    if service.preview.hosts.contains(host) {
        let message = format!("`canonical_host` is `{host}`, which is a preview host of service `{name}`");
        return file.fault(at, message, "write the host that everybody shall use");
    }
    Ok(())
}

/// Whether requests for `host` are among those for `served`.
fn covers(served: &Host, host: &Host) -> bool {
    match host.name().strip_suffix(served.name()) {
        Some(rest) if served.is_wildcard() => rest.len() > 1 && rest.ends_with('.'),
        Some(rest) => rest.is_empty(),
        None => false,
    }
}

/// Host with an optional port, as in a Host header.
fn is_authority(text: &str) -> bool {
    let is_host = |text: &str| text.parse::<Host>().is_ok_and(|host| !host.is_wildcard());
    is_host(text) || text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok())
}
