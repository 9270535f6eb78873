//! Where do requests go when the daemon starts? Where the state files say; never where a guess does.

use std::collections::BTreeMap;

use bgproxy_conf::{Color, Config, Service, ServiceName};

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
    let mut services = BTreeMap::new();
    for (name, service) in &config.service {
        let assumed = assume.filter(|color| service.backends.contains_key(*color));
        services.insert(name.clone(), entry(name, service, store, assumed)?);
    }
    Ok(Board { services })
}

/// What is in force for one service.
///
/// # Errors
/// [`BootError`], as [`boot`].
pub fn entry(name: &ServiceName, service: &Service, store: &Store, assume: Option<&Color>) -> Result<Entry, BootError> {
    let colors: Vec<Color> = service.backends.keys().cloned().collect();
    let mut record = match assume {
        Some(color) => {
            tracing::warn!(service = %name, live = %color, "assuming what is live, as told");
            save(store, name, store.assume(name, color.clone()))?
        }
        None => match store.load(name)? {
            Loaded::Current(record) => record,
            Loaded::Previous { record, fault } => {
                tracing::error!(
                    service = %name, live = %record.live, generation = record.generation,
                    "the state file cannot be used, the one before it is: {fault}"
                );
                record
            }
            Loaded::Fresh => {
                tracing::info!(service = %name, live = %service.first, "no state file yet, the first color is live");
                save(store, name, fresh(service))?
            }
        },
    };
    if !colors.contains(&record.live) {
        return Err(BootError::LiveIsGone { service: name.clone(), live: record.live });
    }
    if !colors.contains(&record.preview) {
        record.preview = record.live.clone();
    }
    record.previous = record.previous.filter(|color| colors.contains(color));
    Ok(Entry::new(colors, record))
}

fn fresh(service: &Service) -> Record {
    let first = service.first.clone();
    Record { generation: 1, live: first.clone(), preview: first, previous: None, file_seen: None, history: Vec::new() }
}

fn save(store: &Store, name: &ServiceName, record: Record) -> Result<Record, StateError> {
    store.save(name, &record)?;
    Ok(record)
}
