//! What must hold of the configuration and of the control socket's words, whatever bytes come? `make fuzz` looks for
//! bytes for which it does not, `cargo test` replays those that are kept in `fuzz/corpus`; no other build has this.

use std::fmt::Debug;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::wire::{
    CloseStreamsReply, CloseStreamsRequest, Event, History, IdleReply, PreviewRequest, ProbeReport, ProbeRequest,
    Problem, Receipt, Reload, RollbackRequest, ServiceStatus, Status, SwitchReply, SwitchRequest,
};
use crate::{Config, ConfigError};

/// A configuration that is understood says the same when it is written and read again; one that is not is faulty at a
/// place that it has.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text, Path::new("fuzz.toml")) {
        Ok(config) => {
            let written = toml::to_string(&config).expect("a configuration can be written");
            let again = Config::parse(&written, Path::new("written.toml"));
            let again = again.unwrap_or_else(|fault| panic!("what was written is not understood:\n{fault}\n{written}"));
            assert_eq!(again, config, "{written}");
        }
        Err(fault) => check(&fault, text),
    }
}

fn check(fault: &ConfigError, text: &str) {
    assert!(!fault.message().is_empty());
    if let Some(line) = fault.line() {
        let line = text.split('\n').nth(line - 1).expect("a line of the file");
        let column = fault.column().expect("a place has both");
        assert!((1..=line.chars().count() + 1).contains(&column), "column {column} of {line:?}");
    }
    let (plain, colored) = (fault.to_string(), fault.colored());
    assert!(plain.contains("fuzz.toml") && colored.len() >= plain.len(), "{plain}");
}

/// What is understood says the same when it is written and read again.
pub fn wire(bytes: &[u8]) {
    same::<SwitchRequest>(bytes);
    same::<RollbackRequest>(bytes);
    same::<PreviewRequest>(bytes);
    same::<ProbeRequest>(bytes);
    same::<CloseStreamsRequest>(bytes);
    same::<SwitchReply>(bytes);
    same::<CloseStreamsReply>(bytes);
    same::<IdleReply>(bytes);
    same::<ProbeReport>(bytes);
    same::<Receipt>(bytes);
    same::<History>(bytes);
    same::<Reload>(bytes);
    same::<ServiceStatus>(bytes);
    same::<Status>(bytes);
    same::<Event>(bytes);
    same::<Problem>(bytes);
}

fn same<T: Serialize + DeserializeOwned + Debug>(bytes: &[u8]) {
    let Ok(value) = serde_json::from_slice::<T>(bytes) else { return };
    let text = serde_json::to_string(&value).expect("what was read can be written");
    let again: T = serde_json::from_str(&text).unwrap_or_else(|fault| panic!("{fault} in {text}"));
    let tree = |value: &T| serde_json::to_value(value).expect("what was read can be written");
    assert!(are_same(&tree(&value), &tree(&again)), "{value:?} became {again:?}");
    // Whoever reads with another parser must not find a field twice.
    let read: Value = serde_json::from_str(&text).expect("JSON");
    assert!(are_same(&read, &tree(&value)), "{text}");
}

/// Numbers may differ in their last digit: JSON's are read quickly rather than exactly.
fn are_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one != other => {
            let (Some(one), Some(other)) = (one.as_f64(), other.as_f64()) else { return false };
            (one - other).abs() <= one.abs() * 4.0 * f64::EPSILON
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| are_same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().zip(other).all(|((key, one), (name, other))| key == name && are_same(one, other))
        }
        (one, other) => one == other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_so_far_holds() {
        type Target = (&'static str, fn(&[u8]));
        const TARGETS: [Target; 2] = [("config", config), ("wire", wire)];
        for (name, target) in TARGETS {
            let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
            let mut replayed = 0;
            for entry in std::fs::read_dir(corpus).expect("a corpus").flatten() {
                let path = entry.path();
                let bytes = std::fs::read(&path).expect("a file of the corpus");
                if let Err(panic) = std::panic::catch_unwind(|| target(&bytes)) {
                    eprintln!("this was {}", path.display());
                    std::panic::resume_unwind(panic);
                }
                replayed += 1;
            }
            assert!(replayed > 0, "nothing to replay for {name}");
        }
    }
}
