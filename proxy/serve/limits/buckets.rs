//! May this address ask once more? A bucket of tokens for each, in a table of fixed size that all workers share.
//!
//! A bucket is one number: when it will be full again (the generic cell rate algorithm, GCRA). An entry packs that and
//! a fingerprint of the address into a word, so a request is one compare-and-swap, and one that is refused only reads.
//!
//! Eight entries are a line of cache, and an address is looked for in one line alone; which, and its fingerprint,
//! depend on a secret of this process, so nobody can aim at another one's. In a full line the fullest bucket makes
//! room: forgetting it forgives the least. So a million addresses or a thousand millions take the same memory; what
//! many give each other is leniency. (In a full line one address in two million has the fingerprint of another, and its
//! bucket.)
//!
//! A time has 40 bits and comes round, after two days at the highest rate. What is past by then is to be forgotten, or
//! it would read as a time to come: [`Buckets::tidy`].

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use super::Block;

/// Lines of the table, 64 bytes each: 8 MiB.
pub(super) const LINES: usize = 1 << 17;
/// Entries of a line.
const WAYS: usize = 8;

/// Time is counted in parts of a token, so that every rate is exact.
pub(super) const TOKEN: u64 = 64;
/// An entry's lower bits are a time, the others the fingerprint.
const TIME_BITS: u32 = 40;
pub(super) const TIME: u64 = (1 << TIME_BITS) - 1;

/// Every address's bucket, for one rate.
#[derive(Debug)]
pub struct Buckets {
    rate: u32,
    born: Instant,
    secret: RandomState,
    lines: Box<[Line]>,
    /// The line to be tidied next.
    untidy: AtomicUsize,
}

/// A line of cache. An entry of 0 is empty.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Line([AtomicU64; WAYS]);

impl Buckets {
    /// Full buckets, which get `rate` tokens each second.
    pub fn new(rate: u32) -> Buckets {
        let lines = std::iter::repeat_with(Line::default).take(LINES).collect();
        Buckets { rate, born: Instant::now(), secret: RandomState::new(), lines, untidy: AtomicUsize::new(0) }
    }

    /// Tokens that a bucket gets each second.
    pub fn rate(&self) -> u32 {
        self.rate
    }

    /// How much memory the table takes.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        size_of_val(&*self.lines)
    }

    /// Takes a token from an address's bucket, which holds at most `burst`; false when there is none.
    pub fn take(&self, block: Block, burst: u32, now: Instant) -> bool {
        let hash = self.secret.hash_one(block);
        // Not 0, which would make an empty entry of it.
        let fingerprint = (hash >> TIME_BITS).max(1);
        let line = &self.lines[hash as usize % LINES].0;
        let (now, most) = (self.time(now), u64::from(burst) * TOKEN);
        loop {
            let (at, entry) = self.find(line, fingerprint, most, now);
            let owed = if entry >> TIME_BITS == fingerprint { self.owed(entry, most, now) } else { 0 };
            if owed + TOKEN > most {
                return false;
            }
            let full = now.wrapping_add(owed + TOKEN) & TIME;
            let taken = fingerprint << TIME_BITS | full;
            // Relaxed: an entry is all there is to know. Who loses looks again: somebody else's token was taken.
            if line[at].compare_exchange_weak(entry, taken, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return true;
            }
        }
    }

    /// Forgets the buckets of one line that are full, the next time those of the next line. With one line a sweep it
    /// has been everywhere after four hours, long before a time comes round.
    pub fn tidy(&self, burst: u32, now: Instant) {
        let (now, most) = (self.time(now), u64::from(burst) * TOKEN);
        let line = self.untidy.fetch_add(1, Ordering::Relaxed) % LINES;
        for place in &self.lines[line].0 {
            let entry = place.load(Ordering::Relaxed);
            if entry != 0 && self.owed(entry, most, now) == 0 {
                // Somebody may just have taken a token: then it is not full.
                let _taken = place.compare_exchange(entry, 0, Ordering::Relaxed, Ordering::Relaxed);
            }
        }
    }

    /// The address's own entry, or the one that makes room for it. (Two workers that put in one address at once may in
    /// rare cases each choose another place; the second one is never found again and makes room in its turn.)
    fn find(&self, line: &[AtomicU64; WAYS], fingerprint: u64, most: u64, now: u64) -> (usize, u64) {
        let (mut fullest, mut least) = ((0, 0), u64::MAX);
        for (at, entry) in line.iter().enumerate() {
            let entry = entry.load(Ordering::Relaxed);
            if entry >> TIME_BITS == fingerprint {
                return (at, entry);
            }
            let owed = self.owed(entry, most, now);
            if owed < least {
                (fullest, least) = ((at, entry), owed);
            }
        }
        fullest
    }

    /// What is missing in a bucket, in parts of a token.
    fn owed(&self, entry: u64, most: u64, now: u64) -> u64 {
        if entry == 0 {
            return 0;
        }
        let owed = entry.wrapping_sub(now) & TIME;
        // A time that is past looks far away, because it comes round. A second's worth more than there can be is taken
        // for true: another worker may have looked at the clock a moment later than we have, or the burst was lowered.
        if owed <= most + u64::from(self.rate) * TOKEN { owed } else { 0 }
    }

    /// Parts of a token that every bucket has got since the table was made.
    fn time(&self, now: Instant) -> u64 {
        let age = now.saturating_duration_since(self.born);
        let per_second = u64::from(self.rate) * TOKEN;
        let part = u64::from(age.subsec_nanos()) * per_second / 1_000_000_000;
        age.as_secs().wrapping_mul(per_second).wrapping_add(part)
    }
}
