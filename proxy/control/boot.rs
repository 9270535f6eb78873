//! Where do requests go when the daemon starts? Where the state files say; never where a guess does.

use std::collections::BTreeMap;

use bgproxy_conf::{Color, Config, Service, ServiceName};

use super::live_file;
use super::state::{Loaded, Record, StateError, Store};
use super::switchboard::{Board, Entry};

/// Why the daemon refuses to start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A state file is of no use.
    #[error(transparent)]
    State(#[from] StateError),
    /// The live color has been taken out of the configuration.
    #[error(
        "service `{service}`: the state file says that `{live}` is live, but the configuration has no such color; \
         put it back into `service.{service}.backends`, or start once with `--assume-live COLOR`"
    )]
    LiveIsGone {
        /// The service.
        service: ServiceName,
        /// The color that is live.
        live: Color,
    },
    /// `--assume-live` names no color of any service.
    #[error("`--assume-live {0}`: no service has such a color")]
    UnknownColor(Color),
}

/// Reads every service's record; writes the first ones.
///
/// # Errors
/// [`BootError`]: says what to do.
pub fn boot(config: &Config, store: &Store, assume: Option<&Color>) -> Result<Board, BootError> {
    if let Some(color) = assume
        && !config.service.values().any(|service| service.backends.contains_key(color))
    {
        return Err(BootError::UnknownColor(color.clone()));
    }
    let (mut services, mut new) = (BTreeMap::new(), Vec::new());
    for (name, service) in &config.service {
        let assumed = assume.filter(|color| service.backends.contains_key(*color));
        let (entry, is_new) = entry(name, service, store, assumed)?;
        if is_new {
            new.push((name.clone(), entry.record.clone()));
        }
        services.insert(name.clone(), entry);
    }
    // Together: the disk takes as long for one as for all. After a crash in between, what is not there is found new
    // again.
    store.save_all(&new)?;
    Ok(Board { services })
}

/// What is in force for one service; true when its record is a new one, to be saved before it is in force.
///
/// # Errors
/// [`BootError`], as [`boot`].
pub fn entry(
    name: &ServiceName,
    service: &Service,
    store: &Store,
    assume: Option<&Color>,
) -> Result<(Entry, bool), BootError> {
    let colors: Vec<Color> = service.backends.keys().cloned().collect();
    let (mut record, mut is_new) = match assume {
        Some(color) => {
            tracing::warn!(service = %name, live = %color, "assuming what is live, as told");
            let mut record = store.assume(name, color.clone());
            // The operator's word is newer than the live file: what stands in there is no command given meanwhile.
            record.file_seen = service.live_file.as_deref().and_then(live_file::text);
            (record, true)
        }
        None => match store.load(name)? {
            Loaded::Current(record) => (record, false),
            Loaded::Previous { record, fault } => {
                tracing::error!(
                    service = %name, live = %record.live, generation = record.generation,
                    "the state file cannot be used, the one before it is: {fault}"
                );
                (record, false)
            }
            Loaded::Fresh => {
                tracing::info!(service = %name, live = %service.first, "no state file yet, the first color is live");
                (fresh(service), true)
            }
        },
    };
    if !colors.contains(&record.live) {
        return Err(BootError::LiveIsGone { service: name.clone(), live: record.live });
    }
    if !colors.contains(&record.preview) {
        // Testers go elsewhere than this generation said.
        record.preview = record.live.clone();
        record.generation += 1;
        is_new = true;
    }
    record.previous = record.previous.filter(|color| colors.contains(color));
    Ok((Entry::new(colors, record), is_new))
}

fn fresh(service: &Service) -> Record {
    let first = service.first.clone();
    Record { generation: 1, live: first.clone(), preview: first, previous: None, file_seen: None, history: Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::color;

    fn portal() -> ServiceName {
        "portal".parse().expect("a name")
    }

    fn config(colors: &[&str]) -> Config {
        let backend = |name: &&str| {
            let address = format!("/run/{name}.sock").parse().expect("an address");
            (color(name), bgproxy_conf::Backend::at(address))
        };
        let service = Service { backends: colors.iter().map(backend).collect(), ..Service::default() };
        Config { service: BTreeMap::from([(portal(), service)]), ..Config::default() }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::open(dir.path()).expect("a store");
        (dir, store)
    }

    #[test]
    fn the_first_record_is_saved_before_it_is_in_force() {
        let (_dir, store) = store();
        let board = boot(&config(&["blue", "green"]), &store, None).expect("a board");
        let record = &board.services[&portal()].record;
        assert_eq!((record.generation, &record.live), (1, &color("blue")));
        assert_eq!(store.load(&portal()).expect("a record"), Loaded::Current(record.clone()));
    }

    /// A crash, or a full disk, while the first ones were saved: some are there, the others are made again.
    #[test]
    fn first_records_that_are_missing_are_made_again() {
        let (_dir, store) = store();
        let mut config = config(&["blue", "green"]);
        let service = config.service[&portal()].clone();
        boot(&config, &store, None).expect("a board");
        config.service.extend((0..100).map(|n| (format!("s{n}").parse().expect("a name"), service.clone())));
        let board = boot(&config, &store, None).expect("a board");
        for (name, entry) in &board.services {
            assert_eq!(store.load(name).expect("a record"), Loaded::Current(entry.record.clone()));
        }
    }

    /// A reload that failed elsewhere left the state of a service behind that had never been.
    #[test]
    fn looking_at_a_new_service_saves_nothing() {
        let (_dir, store) = store();
        let config = config(&["blue", "green"]);
        let (_, is_new) = entry(&portal(), &config.service[&portal()], &store, None).expect("an entry");
        assert!(is_new);
        assert_eq!(store.load(&portal()).expect("no record"), Loaded::Fresh);
    }

    #[test]
    fn a_preview_color_that_is_gone_makes_a_new_generation() {
        let (_dir, store) = store();
        let preview = Record { generation: 7, preview: color("red"), ..fresh(&Service::default()) };
        store.save(&portal(), &preview).expect("saved");
        let board = boot(&config(&["blue", "green"]), &store, None).expect("a board");
        let record = &board.services[&portal()].record;
        assert_eq!((record.generation, &record.preview), (8, &color("blue")));
        assert_eq!(store.load(&portal()).expect("a record"), Loaded::Current(record.clone()));
    }

    /// The file still named the color that the operator had just told us not to take for live.
    #[test]
    fn an_assumed_color_wins_over_the_live_file() {
        let (dir, store) = store();
        let mut config = config(&["blue", "green"]);
        let path = dir.path().join("live");
        std::fs::write(&path, "green\n").expect("written");
        config.service.get_mut(&portal()).expect("the service").live_file = Some(path.clone());
        let board = boot(&config, &store, Some(&color("blue"))).expect("a board");
        let todo = live_file::Reader::default().begin(&board.services[&portal()], live_file::look(&path));
        assert_eq!(todo, live_file::Todo::Write);
    }

    #[test]
    fn a_live_color_that_is_gone_is_no_reason_to_guess() {
        let (_dir, store) = store();
        boot(&config(&["blue", "green"]), &store, None).expect("a board");
        let refused = boot(&config(&["green", "red"]), &store, None).expect_err("no guess");
        assert!(matches!(refused, BootError::LiveIsGone { .. }), "{refused}");
    }
}
