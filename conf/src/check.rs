//! The rules between keys: what each value alone cannot know.
//!
//! The configuration structs are plain, so a fault finds its place by looking its key up in the spanned tree of the
//! same text.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::error::{listed, nearest};
use crate::{AccessLog, Address, Bytes, Config, ConfigError, Host, PathPrefix, Seconds, Service, ServiceName};

/// The kernel keeps a socket's path in 108 bytes, the closing NUL included.
const SOCKET_PATH_MAX: usize = 107;

/// Checks every rule and reports the first one broken, at the key that breaks it.
///
/// # Errors
/// [`ConfigError`], which points at the key in `text`; `path` is only for the message.
pub fn check(config: &Config, text: &str, path: &Path) -> Result<(), ConfigError> {
    // Only a text that did not make this configuration fails to parse here; its faults are then shown without a place.
    let tree = DeTable::parse(text).map(|tree| tree.into_inner()).unwrap_or_default();
    let file = File { path, text, tree };
    listeners(&file, config)?;
    process(&file, config)?;
    for (name, service) in &config.service {
        backends(&file, name, service)?;
        readiness(&file, name, service)?;
        durations(&file, name, service)?;
    }
    routes(&file, config)?;
    live_files(&file, config)
}

// === the rules ===

fn listeners(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    if config.listen.is_empty() {
        let hint = "write `[[listen]]` and below it `address = \"0.0.0.0:80\"`";
        return file.fault([key("listen")], "`listen` has no address", hint);
    }
    let mut seen: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for (index, listen) in config.listen.iter().enumerate() {
        let address = listen.address;
        // Every port 0 takes another free one.
        if address.port() == 0 {
            continue;
        }
        let at = [key("listen"), Step::Index(index), key("address")];
        if let Some(first) = seen.insert(address, index) {
            let message = format!("`{address}` is listened on twice");
            let hint = match file.line(&[key("listen"), Step::Index(first), key("address")]) {
                Some(line) => format!("remove one of them; the other is on line {line}"),
                None => "remove one of them".to_owned(),
            };
            return file.fault(at, message, hint);
        }
    }
    let admin = config.admin.address;
    if let Some(listen) = config.listen.iter().find(|listen| overlap(admin, listen.address)) {
        let at = match file.find(&[key("admin"), key("address")]) {
            Some(_) => vec![key("admin"), key("address")],
            None => vec![key("listen")],
        };
        let message = format!("`admin.address` {admin} is taken by the listener {}", listen.address);
        return file.fault(at, message, "give `admin.address` a port of its own, such as \"127.0.0.1:9180\"");
    }
    Ok(())
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip =
        a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    same_ip && a.port() == b.port() && a.port() != 0
}

fn process(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let socket = &config.control.socket;
    absolute(file, [key("control"), key("socket")], "control.socket", socket, "\"/run/bgproxy/control.sock\"")?;
    short(file, &[key("control"), key("socket")], socket)?;
    absolute(file, [key("state"), key("dir")], "state.dir", &config.state.dir, "\"/var/lib/bgproxy\"")?;
    if let AccessLog::File(path) = &config.log.access {
        let instead = "\"off\", \"stdout\" or a path such as \"/var/log/bgproxy/access.log\"";
        absolute(file, [key("log"), key("access")], "log.access", path, instead)?;
    }
    let limits = &config.limits;
    if limits.connections == 0 {
        let message = "`limits.connections` is 0, so nobody could connect";
        return file.fault([key("limits"), key("connections")], message, "write 1 or more, such as 20000");
    }
    if limits.header_size < Bytes::kib(8) || limits.header_size > Bytes::mib(1) {
        let message = format!("`limits.header_size` is {}, outside of 8KiB to 1MiB", limits.header_size);
        return file.fault([key("limits"), key("header_size")], message, "write \"32KiB\", for example");
    }
    positive(file, [key("limits"), key("header_time")], "limits.header_time", limits.header_time)?;
    positive(file, [key("limits"), key("idle_time")], "limits.idle_time", limits.idle_time)?;
    positive(file, [key("shutdown"), key("deadline")], "shutdown.deadline", config.shutdown.deadline)
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
    let Service { drain, timeouts, pool, .. } = service;
    for (section, label, duration) in [
        ("drain", "deadline", drain.deadline),
        ("timeouts", "connect", timeouts.connect),
        ("timeouts", "response", timeouts.response),
        ("timeouts", "idle", timeouts.idle),
        ("pool", "idle", pool.idle),
    ] {
        positive(file, service_key(name, &[section, label]), &format!("{section}.{label}"), duration)?;
    }
    Ok(())
}

fn routes(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let mut taken: BTreeMap<(Option<&Host>, &PathPrefix), &ServiceName> = BTreeMap::new();
    let mut live: BTreeMap<&Host, &ServiceName> = BTreeMap::new();
    for (name, service) in &config.service {
        if service.paths.is_empty() {
            let hint = "write \"/\" for every path, or leave the key out";
            return file.fault(service_key(name, &["paths"]), format!("service `{name}` has no path"), hint);
        }
        let hosts: Vec<Option<&Host>> =
            if service.hosts.is_empty() { vec![None] } else { service.hosts.iter().map(Some).collect() };
        for (host_index, host) in hosts.into_iter().enumerate() {
            if let Some(host) = host {
                live.entry(host).or_insert(name);
            }
            for path in &service.paths {
                let Some(other) = taken.insert((host, path), name).filter(|other| *other != name) else { continue };
                let route = host.map_or(format!("every host with `{path}`"), |host| format!("`{host}{path}`"));
                let mut at = service_key(name, &["hosts"]);
                at.push(Step::Index(host_index));
                let hint = "give one of them other `hosts` or `paths`";
                return file.fault(at, format!("services `{other}` and `{name}` both serve {route}"), hint);
            }
        }
    }
    let mut previews: BTreeMap<&Host, &ServiceName> = BTreeMap::new();
    for (name, service) in &config.service {
        for (index, host) in service.preview.hosts.iter().enumerate() {
            let mut at = service_key(name, &["preview", "hosts"]);
            at.push(Step::Index(index));
            let hint = "testers need a host of their own, such as \"preview.portal.example.com\"";
            if let Some(other) = live.get(host) {
                return file.fault(at, format!("preview host `{host}` is also a live host of service `{other}`"), hint);
            }
            if let Some(other) = previews.insert(host, name).filter(|other| *other != name) {
                return file.fault(at, format!("`{host}` is the preview host of both `{other}` and `{name}`"), hint);
            }
        }
    }
    Ok(())
}

fn live_files(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let mut seen: BTreeMap<PathBuf, &ServiceName> = BTreeMap::new();
    let state = plain(&config.state.dir);
    for (name, service) in &config.service {
        let Some(path) = &service.live_file else { continue };
        let at = service_key(name, &["live_file"]);
        absolute(file, at.clone(), "live_file", path, "a path such as \"/etc/portal/live\"")?;
        let path = plain(path);
        if path == state || path.parent() == Some(&state) {
            let message = format!("the live file of service `{name}` is among the state files ({})", state.display());
            return file.fault(
                at,
                message,
                format!("give live files a directory, such as {}", state.join("live").display()),
            );
        }
        if let Some(other) = seen.insert(path, name) {
            let message = format!("services `{other}` and `{name}` have the same live file");
            return file.fault(at, message, "give each service a file of its own");
        }
    }
    Ok(())
}

fn positive(file: &File<'_>, at: impl Into<Vec<Step>>, label: &str, duration: Seconds) -> Result<(), ConfigError> {
    if duration.is_zero() {
        return file.fault(at, format!("`{label}` is no time at all"), "write a duration above zero, such as \"30s\"");
    }
    Ok(())
}

fn absolute(
    file: &File<'_>,
    at: impl Into<Vec<Step>>,
    label: &str,
    path: &Path,
    instead: &str,
) -> Result<(), ConfigError> {
    if path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0) {
        return Ok(());
    }
    // Where the daemon was started from must not decide which file is meant.
    file.fault(at, format!("`{label}` is not an absolute path"), format!("write {instead}"))
}

fn short(file: &File<'_>, at: &[Step], path: &Path) -> Result<(), ConfigError> {
    let length = path.as_os_str().len();
    if length <= SOCKET_PATH_MAX {
        return Ok(());
    }
    let message = format!("the socket's path has {length} bytes, the kernel takes at most {SOCKET_PATH_MAX}");
    file.fault(at, message, "use a shorter directory, or a symbolic link to it")
}

/// Host with an optional port, as in a Host header.
fn is_authority(text: &str) -> bool {
    let is_host = |text: &str| text.parse::<Host>().is_ok_and(|host| !host.is_wildcard());
    is_host(text) || text.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && port.parse::<u16>().is_ok())
}

/// The path without the parts that lead nowhere, so that two ways to write one path compare equal.
fn plain(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => {
                plain.pop();
            }
            Component::CurDir => {}
            part => plain.push(part),
        }
    }
    plain
}

// === where a key is in the text ===

struct File<'a> {
    path: &'a Path,
    text: &'a str,
    tree: DeTable<'a>,
}

#[derive(Debug, Clone)]
enum Step {
    Key(String),
    Index(usize),
}

fn key(name: &str) -> Step {
    Step::Key(name.to_owned())
}

/// The way to a key of a service.
fn service_key(service: &ServiceName, keys: &[&str]) -> Vec<Step> {
    ["service", service.as_str()].iter().chain(keys).map(|name| key(name)).collect()
}

impl File<'_> {
    fn fault(
        &self,
        at: impl Into<Vec<Step>>,
        message: impl Into<String>,
        hint: impl Into<String>,
    ) -> Result<(), ConfigError> {
        let at = at.into();
        // A key that is not written has its default; then what surrounds it is the nearest thing to show.
        let span = (1..=at.len()).rev().find_map(|depth| self.find(&at[..depth]));
        Err(ConfigError::at(self.path, self.text, span, message, Some(hint.into())))
    }

    /// The first of these keys that is written, or the first one if none is.
    fn first_of<const N: usize>(&self, keys: [Vec<Step>; N]) -> Vec<Step> {
        let written = keys.iter().find(|keys| self.find(keys).is_some());
        written.or(keys.first()).cloned().unwrap_or_default()
    }

    /// The line that a key stands on, counted from 1.
    fn line(&self, at: &[Step]) -> Option<usize> {
        let span = self.find(at)?;
        Some(self.text.get(..span.start)?.matches('\n').count() + 1)
    }

    /// Where a key stands; for an element of an array, the element.
    fn find(&self, at: &[Step]) -> Option<Range<usize>> {
        let (last, path) = at.split_last()?;
        let mut table = Some(&self.tree);
        let mut array = None;
        for step in path {
            let value = match step {
                Step::Key(name) => table?.get(name.as_str())?.get_ref(),
                Step::Index(index) => value_at(array?, *index)?,
            };
            table = value.as_table();
            array = value.as_array();
        }
        match last {
            Step::Key(name) => table?.get_key_value(name.as_str()).map(|(key, _)| key.span()),
            Step::Index(index) => array?.get(*index).map(|value| value.span()),
        }
    }
}

fn value_at<'a, 'i>(array: &'a toml::de::DeArray<'i>, index: usize) -> Option<&'a DeValue<'i>> {
    array.get(index).map(|value| value.get_ref())
}

#[cfg(test)]
mod tests;
