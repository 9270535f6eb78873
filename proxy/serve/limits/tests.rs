//! Buckets by a clock of the test's own, and by many threads; seats.

use std::net::IpAddr;
use std::sync::Barrier;

use super::seats::Seat;
use super::*;

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
    assert!((0..1_000_000).all(|address| buckets.take(Block::V4(address), 1, now)), "none is refused for others");
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

#[test]
fn an_address_has_its_seats_and_gets_one_back_with_each_connection_that_ends() {
    let seats = Arc::new(Seats::default());
    let (one, two) = (block("192.0.2.1"), block("192.0.2.2"));
    let first = seats.take(one, 2).expect("a seat");
    let _second = seats.take(one, 2).expect("a seat");
    assert!(seats.take(one, 2).is_none());
    let other = seats.take(two, 2).expect("another one's seat");
    drop(first);
    let third = seats.take(one, 2).expect("a seat");
    drop((other, third));
    assert_eq!(seats.addresses(), 1);
}

#[test]
fn seats_are_counted_right_over_many_threads() {
    let (seats, most) = (Arc::new(Seats::default()), std::sync::atomic::AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..5000 {
                    let held: Vec<Seat> = (0..3).filter_map(|_| seats.take(Block::V4(1), 7)).collect();
                    most.fetch_max(held.len(), std::sync::atomic::Ordering::Relaxed);
                }
            });
        }
    });
    assert!(most.into_inner() > 0);
    assert_eq!(seats.addresses(), 0, "nothing is left behind");
}
