//! Buckets by a clock of the test's own, and by many threads; badges.

use std::net::IpAddr;
use std::sync::Barrier;

use super::badges::Badge;
use super::buckets::{LINES, TIME, TOKEN};
use super::*;
use crate::serve::worker::SWEEP;

fn block(address: &str) -> Block {
    Block::from(address.parse::<IpAddr>().expect("an address"))
}

#[test]
fn a_bucket_gives_its_burst_at_once_and_then_its_rate_to_the_token() {
    const ASKS: u32 = 20_000;
    for (rate, burst) in [(1, 1), (3, 2), (7, 20), (100, 10), (1000, 1000), (33_333, 5), (100_000, 3)] {
        let buckets = Buckets::new(rate);
        let start = Instant::now() + Duration::from_secs(1);
        let at_once = |now| (0..burst + 100).filter(|_| buckets.take(Block::V4(1), burst, now)).count() as u32;
        assert_eq!(at_once(start), burst, "at once, with {rate} a second");
        // From an empty bucket on it is asked four times as often as it can give.
        let step = Duration::from_nanos(1_000_000_000 / (4 * u64::from(rate)));
        let got = (1..=ASKS).filter(|ask| buckets.take(Block::V4(1), burst, start + step * *ask)).count();
        let most = (step * ASKS).as_secs_f64() * f64::from(rate);
        assert!(
            (most - 1.0..=most).contains(&(got as f64)),
            "{got} of {most}, with {rate} a second and {burst} at once"
        );
        assert_eq!(at_once(start + Duration::from_secs(36_000)), burst, "after a pause, with {rate} a second");
    }
}

#[test]
fn a_token_is_there_when_it_was_promised_and_not_before() {
    let buckets = Buckets::new(4);
    let start = Instant::now() + Duration::from_secs(1);
    assert!((0..2).all(|_| buckets.take(Block::V4(1), 2, start)));
    assert!(!buckets.take(Block::V4(1), 2, start + Duration::from_millis(240)));
    assert!(buckets.take(Block::V4(1), 2, start + Duration::from_millis(251)));
    assert!(!buckets.take(Block::V4(1), 2, start + Duration::from_millis(252)));
}

#[test]
fn what_is_refused_costs_no_token() {
    let buckets = Buckets::new(10);
    let start = Instant::now() + Duration::from_secs(1);
    assert!(buckets.take(Block::V4(1), 1, start));
    // A flood does not push the next token away.
    let flood = (1..100).filter(|at| buckets.take(Block::V4(1), 1, start + Duration::from_millis(*at))).count();
    assert_eq!(flood, 0);
    assert!(buckets.take(Block::V4(1), 1, start + Duration::from_millis(101)));
}

#[test]
fn addresses_do_not_share_a_bucket_and_an_ipv6_network_does() {
    let buckets = Buckets::new(1);
    let now = Instant::now();
    for address in ["192.0.2.1", "192.0.2.2", "2001:db8:0:1::1", "2001:db8:0:2::1", "::1"] {
        assert!(buckets.take(block(address), 1, now), "{address}");
    }
    assert!(!buckets.take(block("::ffff:192.0.2.1"), 1, now), "the same address on an IPv6 socket");
    assert!(!buckets.take(block("2001:db8:0:1:ffff::2"), 1, now), "the same network");
}

#[test]
fn a_million_addresses_take_the_memory_of_one_and_are_nearly_all_remembered() {
    let buckets = Buckets::new(1);
    assert_eq!(buckets.bytes(), 8 << 20);
    let now = Instant::now();
    // Line and fingerprint are 41 bits: a million addresses have a quarter of a chance that two share a bucket.
    let refused = (0..1_000_000).filter(|address| !buckets.take(Block::V4(*address), 1, now)).count();
    assert!(refused <= 5, "{refused} refused for others");
    // Their buckets are all empty now: what is given once more was forgotten.
    let forgotten = (0..1_000_000).rev().filter(|address| buckets.take(Block::V4(*address), 1, now)).count();
    assert!(forgotten < 350_000, "{forgotten} of a million forgotten");
    assert_eq!(buckets.bytes(), 8 << 20);
}

#[test]
fn an_address_that_asks_without_pause_is_not_pushed_out_by_those_who_ask_once() {
    let buckets = Buckets::new(100);
    let start = Instant::now();
    // For a second: a flooder each millisecond, and five hundred others, each once.
    let mut got = 0;
    for at in 0..1000 {
        let now = start + Duration::from_millis(at);
        got += u64::from(buckets.take(Block::V6(7), 10, now));
        assert!((0..500).all(|other| buckets.take(Block::V4((at * 500 + other) as u32), 10, now)));
    }
    assert!((105..=115).contains(&got), "{got} instead of 110");
}

/// The highest rate that a configuration may have, and how long a table of that rate takes until its time comes round.
const HIGHEST: u32 = 100_000;
const ROUND: Duration = Duration::from_millis((TIME + 1) / (HIGHEST as u64 * TOKEN / 1000));

/// The time until a bucket is full has 40 bits. An address that had come back two days later, to the second, at a rate
/// of 100,000, was refused for a second: what was long past read as a time to come.
#[test]
fn whoever_comes_back_after_days_has_a_full_bucket() {
    let start = Instant::now() + Duration::from_secs(1);
    let back = start + ROUND - Duration::from_millis(500);
    let [tidy, untidy] = [true, false].map(|tidied| {
        let buckets = Buckets::new(HIGHEST);
        assert!((0..10).all(|_| buckets.take(Block::V4(1), 10, start)));
        let ever = if tidied { LINES } else { 0 };
        (0..ever).for_each(|_| buckets.tidy(10, start + ROUND / 2));
        (0..20).filter(|_| buckets.take(Block::V4(1), 10, back)).count()
    });
    assert_eq!((tidy, untidy), (10, 0), "tokens with and without tidying");
    // All of it is tidied while no past time, of whatever bucket, can read as one to come.
    let all = SWEEP * LINES as u32;
    let fullest = Duration::from_secs(u64::from(u32::MAX) / u64::from(HIGHEST) + 1);
    assert!(ROUND > 2 * (all + fullest), "{ROUND:?} {all:?} {fullest:?}");
}

#[test]
fn a_bucket_that_is_not_full_is_not_forgotten() {
    let buckets = Buckets::new(1);
    let start = Instant::now();
    assert!((0..1000).all(|address| buckets.take(Block::V4(address), 1, start)));
    (0..LINES).for_each(|_| buckets.tidy(1, start + Duration::from_millis(900)));
    let later = start + Duration::from_millis(950);
    assert_eq!((0..1000).filter(|address| buckets.take(Block::V4(*address), 1, later)).count(), 0);
}

/// The largest numbers that a configuration may have.
#[test]
fn a_burst_without_end_is_given_to_the_end() {
    let buckets = Buckets::new(HIGHEST);
    let now = Instant::now();
    assert!((0..1_000_000).all(|_| buckets.take(Block::V4(1), u32::MAX, now)));
    // As soon as it is lowered, what was taken before is forgiven: it cannot be waited for.
    assert_eq!((0..100).filter(|_| buckets.take(Block::V4(1), 10, now)).count(), 10);
}

/// A second is worth as many tokens whether one thread takes them or four.
#[test]
fn workers_that_take_at_once_do_not_take_a_token_twice() {
    for burst in [1, 10, 1000] {
        let (buckets, barrier) = (Buckets::new(1), Barrier::new(4));
        let now = Instant::now();
        let take = || {
            barrier.wait();
            (0..2000).filter(|_| buckets.take(Block::V4(1), burst, now)).count()
        };
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).sum()
        });
        assert_eq!(all, burst as usize);
    }
}

#[test]
fn buckets_are_shared_while_their_rate_is_the_same_and_gone_when_nobody_uses_them() {
    let limiter = Limiter::default();
    assert!(limiter.buckets(0).is_none());
    let first = limiter.buckets(5).expect("buckets");
    assert!(Arc::ptr_eq(&first, &limiter.buckets(5).expect("buckets")));
    let other = limiter.buckets(6).expect("buckets");
    assert!(!Arc::ptr_eq(&first, &other));
    let gone = Arc::downgrade(&other);
    drop(other);
    assert!(gone.upgrade().is_none());
}

/// A rate that was changed and changed back between two sweeps of one worker, and not of the other, left each with a
/// table of its own, and clients with twice their limit.
#[test]
fn workers_come_together_again_however_quickly_the_rate_changes() {
    let limiter = Limiter::default();
    let first = limiter.buckets(5);
    let other = limiter.buckets(5);
    // One of them sees the rate in between.
    assert!(limiter.buckets(6).is_some());
    drop(first);
    let first = limiter.buckets(5).expect("buckets");
    assert!(!Arc::ptr_eq(&first, &other.expect("buckets")), "the one that saw nothing has an old table");
    // So each asks whenever the table of services is another one, also where the rate is the same.
    assert!(Arc::ptr_eq(&first, &limiter.buckets(5).expect("buckets")));
}

#[test]
fn an_address_has_its_badges_and_gets_one_back_with_each_connection_that_ends() {
    let badges = Arc::new(Badges::default());
    let (one, two) = (block("192.0.2.1"), block("192.0.2.2"));
    let first = badges.take(one, 2).expect("a badge");
    let _second = badges.take(one, 2).expect("a badge");
    assert!(badges.take(one, 2).is_none());
    let other = badges.take(two, 2).expect("another one's badge");
    drop(first);
    let third = badges.take(one, 2).expect("a badge");
    drop((other, third));
    assert_eq!(badges.addresses(), 1);
}

#[test]
fn badges_are_counted_right_over_many_threads() {
    let (badges, most) = (Arc::new(Badges::default()), std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5000 {
                    let held: Vec<Badge> = (0..3).filter_map(|_| badges.take(Block::V4(1), 7)).collect();
                    most.fetch_max(held.len(), std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    assert!(most.into_inner() > 0);
    assert_eq!(badges.addresses(), 0, "nothing is left behind");
}

/// A flood of a second was told as the few refusals of its first tenth.
#[test]
fn everything_that_was_turned_away_is_told_also_when_it_has_stopped() {
    let limiter = Limiter::default();
    let start = Instant::now();
    let refused = |requests| Turned { requests, ..Turned::default() };
    let told =
        |turned, seconds| limiter.due(turned, start + Duration::from_secs(seconds)).map(|turned| turned.requests);
    assert_eq!(told(refused(0), 0), None, "nothing to tell");
    assert_eq!(told(refused(3), 0), Some(3), "at once");
    assert_eq!(told(refused(1000), 1), None);
    assert_eq!(told(refused(0), 9), None);
    assert_eq!(told(refused(0), 10), Some(1000), "nothing since, but what was not told");
    assert_eq!(told(refused(0), 30), None);
    assert_eq!(told(refused(7), 31), Some(7));
}

#[test]
fn what_was_refused_is_shown_for_a_minute_over_all_workers() {
    let limiter = Limiter::default();
    let start = Instant::now();
    let at = |millis| start + Duration::from_millis(millis);
    let address = |text: &str| Some(text.parse().expect("an address"));
    limiter.due(Turned { requests: 3, last: address("192.0.2.1"), ..Turned::default() }, at(0));
    limiter.due(Turned { connections: 2, last: address("192.0.2.2"), ..Turned::default() }, at(900));
    limiter.due(Turned { reclaimed: 1, ..Turned::default() }, at(30_000));
    let shown = |millis| {
        let Refused { rate_limited, too_many_connections, reclaimed, address } = limiter.lately(at(millis));
        (rate_limited, too_many_connections, reclaimed, address.unwrap_or_default())
    };
    assert_eq!(shown(30_000), (3, 2, 1, "192.0.2.2".to_owned()));
    assert_eq!(shown(59_900), (3, 2, 1, "192.0.2.2".to_owned()));
    assert_eq!(shown(60_000), (0, 0, 1, String::new()));
    assert_eq!(shown(90_000), (0, 0, 0, String::new()));
    // However long an attack lasts, there is one number for each second.
    for tick in 0..10_000 {
        limiter.due(Turned { requests: 1, ..Turned::default() }, at(100_000 + tick * 100));
    }
    assert!((590..=600).contains(&shown(100_000 + 999_900).0));
    assert!(limiter.told().lately.0.len() <= 61);
}
