//! How many connections has this address? Exactly, over all workers; asked when one begins and told when it ends.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::Block;

/// Parts, each with a lock of its own, so that workers seldom meet.
const SHARDS: usize = 64;

/// Open connections by address. There are no more entries than connections.
#[derive(Debug)]
pub struct Badges {
    secret: RandomState,
    shards: [Mutex<HashMap<Block, usize>>; SHARDS],
}

/// One connection in its address's count, until it is dropped.
#[derive(Debug)]
pub struct Badge {
    badges: Arc<Badges>,
    block: Block,
}

impl Default for Badges {
    fn default() -> Self {
        Badges { secret: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl Badges {
    /// One more connection of this address, unless it has `most` already.
    pub fn take(self: &Arc<Self>, block: Block, most: usize) -> Option<Badge> {
        let mut shard = self.shard(block);
        let taken = shard.entry(block).or_default();
        if *taken >= most {
            return None;
        }
        *taken += 1;
        Some(Badge { badges: self.clone(), block })
    }

    fn shard(&self, block: Block) -> MutexGuard<'_, HashMap<Block, usize>> {
        let shard = self.secret.hash_one(block) as usize % SHARDS;
        // A panic elsewhere does not make a count wrong.
        self.shards[shard].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Addresses that have a connection.
    #[cfg(test)]
    pub(super) fn addresses(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().expect("no panic").len()).sum()
    }
}

impl Drop for Badge {
    fn drop(&mut self) {
        let mut shard = self.badges.shard(self.block);
        if let Some(taken) = shard.get_mut(&self.block) {
            *taken -= 1;
            if *taken == 0 {
                shard.remove(&self.block);
            }
        }
    }
}
