//! Which backends are there? Gives every color of every service its slot and its cells, for as long as it exists.

use std::collections::HashMap;
use std::sync::Arc;

use bgproxy_conf::{Address, Color, ServiceName};

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

    /// The backend of this color at this address: the same one as before, or one that has taken over its slot and
    /// its cells when the address is another.
    pub fn backend(&mut self, service: &ServiceName, color: &Color, address: &Address) -> Arc<Backend> {
        let key = (service.clone(), color.clone());
        let (slot, cells) = match self.known.get(&key) {
            Some(known) if known.address == *address => return known.clone(),
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
            address: address.clone(),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::tests::color;

    #[test]
    fn a_new_address_is_a_new_backend_that_counts_on() {
        let mut registry = Registry::new(2);
        let portal = ServiceName::try_from("portal".to_owned()).expect("a name");
        let old = registry.backend(&portal, &color("blue"), &Address::Unix("/a".into()));
        old.cells[1].claim();
        let same = registry.backend(&portal, &color("blue"), &Address::Unix("/a".into()));
        assert!(Arc::ptr_eq(&old, &same));
        let new = registry.backend(&portal, &color("blue"), &Address::Unix("/b".into()));
        assert_ne!(old.id, new.id);
        assert_eq!(old.slot, new.slot);
        assert_eq!(new.sum().in_flight(), 1);
        let green = registry.backend(&portal, &color("green"), &Address::Unix("/a".into()));
        assert_ne!(green.slot, new.slot);
    }
}
