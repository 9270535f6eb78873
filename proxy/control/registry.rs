//! Which backends are there? Gives every color of every service its slot and its cells, for as long as it exists.

use std::collections::HashMap;
use std::sync::Arc;

use bgproxy_conf::{Color, ServiceName};

use crate::cell::Cell;
use crate::table::Backend;

/// Every backend that a table may name.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    known: HashMap<(ServiceName, Color), Arc<Backend>>,
    next_slot: usize,
    next_id: u64,
}

impl Registry {
    /// No backend yet, for this many workers.
    pub fn new(workers: usize) -> Registry {
        Registry { workers, known: HashMap::new(), next_slot: 0, next_id: 0 }
    }

    /// The backend of this color, configured so: the same one as before, or one that has taken over its slot and its
    /// cells when it is configured otherwise.
    pub fn backend(&mut self, service: &ServiceName, color: &Color, config: &bgproxy_conf::Backend) -> Arc<Backend> {
        let key = (service.clone(), color.clone());
        let (slot, cells) = match self.known.get(&key) {
            Some(known) if is_configured_so(known, config) => return known.clone(),
            Some(known) => (known.slot, known.cells.clone()),
            None => {
                self.next_slot += 1;
                (self.next_slot - 1, (0..self.workers).map(|_| Cell::default()).collect())
            }
        };
        self.next_id += 1;
        let backend = Arc::new(Backend {
            slot,
            id: self.next_id,
            service: service.clone(),
            color: color.clone(),
            address: config.address.clone(),
            protocol: config.protocol,
            send_proxy: config.send_proxy,
            cells,
        });
        self.known.insert(key, backend.clone());
        backend
    }

    /// The backend of this color, if there is one.
    pub fn find(&self, service: &ServiceName, color: &Color) -> Option<&Arc<Backend>> {
        self.known.get(&(service.clone(), color.clone()))
    }

    /// Forgets backends that `exists` denies. Their slots are not used again: a worker may still have requests there.
    pub fn retain(&mut self, exists: impl Fn(&ServiceName, &Color) -> bool) {
        self.known.retain(|(service, color), _| exists(service, color));
    }
}

fn is_configured_so(backend: &Backend, config: &bgproxy_conf::Backend) -> bool {
    let bgproxy_conf::Backend { address, protocol, send_proxy } = config;
    (&backend.address, &backend.protocol, &backend.send_proxy) == (address, protocol, send_proxy)
}

#[cfg(test)]
mod tests {
    use bgproxy_conf::Address;

    use super::*;
    use crate::table::tests::color;

    #[test]
    fn a_new_address_is_a_new_backend_that_counts_on() {
        let at = |path: &str| bgproxy_conf::Backend::at(Address::Unix(path.into()));
        let mut registry = Registry::new(2);
        let portal = ServiceName::try_from("portal".to_owned()).expect("a name");
        let old = registry.backend(&portal, &color("blue"), &at("/a"));
        old.cells[1].claim();
        let same = registry.backend(&portal, &color("blue"), &at("/a"));
        assert!(Arc::ptr_eq(&old, &same));
        let new = registry.backend(&portal, &color("blue"), &at("/b"));
        assert_ne!(old.id, new.id);
        assert_eq!(old.slot, new.slot);
        assert_eq!(new.sum().in_flight(), 1);
        let green = registry.backend(&portal, &color("green"), &at("/a"));
        assert_ne!(green.slot, new.slot);
    }
}
