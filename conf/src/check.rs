//! The rules between keys: what each value alone cannot know.
//!
//! The configuration structs are plain, so a fault finds its place by looking its key up in the spanned tree of the
//! same text.

mod acme;
mod limits;
mod listeners;
mod services;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::{Component, Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::{AccessLog, Config, ConfigError, Host, PathPrefix, Seconds, ServiceName};

/// The kernel keeps a socket's path in 108 bytes, the closing NUL included.
const SOCKET_PATH_MAX: usize = 107;

/// The statuses that the door itself answers with; every other one comes from a backend.
pub const ANSWERED: [u16; 15] = [400, 403, 404, 405, 408, 413, 414, 417, 429, 431, 500, 501, 502, 503, 504];

/// Checks every rule and reports the first one broken, at the key that breaks it.
///
/// # Errors
/// [`ConfigError`], which points at the key in `text`; `path` is only for the message.
pub fn check(config: &Config, text: &str, path: &Path) -> Result<(), ConfigError> {
    // Only a text that did not make this configuration fails to parse here; its faults are then shown without a place.
    let tree = DeTable::parse(text).map(|tree| tree.into_inner()).unwrap_or_default();
    let file = File { path, text, tree };
    listeners::check(&file, config)?;
    acme::check(&file, config)?;
    limits::check(&file, config)?;
    process(&file, config)?;
    error_pages(&file, config)?;
    for (name, service) in &config.service {
        services::check(&file, config, name, service)?;
    }
    routes(&file, config)?;
    live_files(&file, config)
}

/// A fault that shows only when what a key names is looked at, such as a file; the configuration is read again to show
/// where that stands.
pub fn fault(path: &Path, keys: &[&str], message: impl Into<String>, hint: &str) -> ConfigError {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let tree = DeTable::parse(&text).map(|tree| tree.into_inner()).unwrap_or_default();
    let at: Vec<Step> = keys.iter().copied().map(key).collect();
    let span = File { path, text: &text, tree }.find(&at);
    ConfigError::at(path, &text, span, message, Some(hint.to_owned()))
}

/// Whether a log's level is one word, but none of the levels: a filter would take it for the name of something.
pub fn is_no_level(text: &str) -> bool {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let is_word = !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic());
    is_word && !LEVELS.iter().any(|level| level.eq_ignore_ascii_case(text))
}

// === the rules ===

fn process(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let socket = &config.control.socket;
    absolute(file, [key("control"), key("socket")], "control.socket", socket, "\"/run/bgproxy/control.sock\"")?;
    short(file, &[key("control"), key("socket")], socket)?;
    absolute(file, [key("state"), key("dir")], "state.dir", &config.state.dir, "\"/var/lib/bgproxy\"")?;
    if let AccessLog::File(path) = &config.log.access {
        let instead = "\"off\", \"stdout\" or a path such as \"/var/log/bgproxy/access.log\"";
        absolute(file, [key("log"), key("access")], "log.access", path, instead)?;
    }
    if is_no_level(&config.log.level) {
        let message = format!("`log.level` is \"{}\", which is no level", config.log.level);
        let hint = "write \"error\", \"warn\", \"info\", \"debug\", \"trace\", or a filter such as \"info,h2=debug\"";
        return file.fault([key("log"), key("level")], message, hint);
    }
    positive(file, [key("shutdown"), key("deadline")], "shutdown.deadline", config.shutdown.deadline)
}

fn error_pages(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    for (status, path) in &config.error_pages {
        let at = [key("error_pages"), key(&status.to_string())];
        if !ANSWERED.contains(&status.get()) {
            let message = format!("the door never answers with {status} by itself");
            let known = ANSWERED.map(|status| status.to_string()).join(", ");
            return file.fault(at, message, format!("remove it: answers of backends pass as they are; known: {known}"));
        }
        absolute(file, at.clone(), &format!("error_pages.{status}"), path, "a path such as \"/etc/bgproxy/502.html\"")?;
        if !path.extension().is_some_and(|kind| ["html", "json", "txt"].iter().any(|known| kind == *known)) {
            let message = format!("`{}` does not say what kind of text it is", path.display());
            return file.fault(at, message, "give it a name that ends in `.html`, `.json` or `.txt`");
        }
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

    /// What to do about two of something, the first of which is here.
    fn remove_one(&self, first: &[Step]) -> String {
        match self.line(first) {
            Some(line) => format!("remove one of them; the other is on line {line}"),
            None => "remove one of them".to_owned(),
        }
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
