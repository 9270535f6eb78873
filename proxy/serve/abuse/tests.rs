//! Is every flood noticed, and no honest client taken for one?

use proptest::prelude::*;

use super::*;

fn begins(kind: Kind, flags: u8, stream: u32, length: u32) -> Frame {
    Frame::Begins { kind, flags, stream, length }
}

fn headers(stream: u32) -> Frame {
    begins(Kind::Headers, 0x5, stream, 30)
}

fn reset(stream: u32) -> Frame {
    begins(Kind::Reset, 0, stream, 4)
}

/// How many of a frame are taken at once.
fn burst(frame: Frame) -> (usize, Flood) {
    let mut abuse = Abuse::default();
    for count in 0..1_000_000 {
        if let Some(flood) = abuse.note(frame, 5000) {
            return (count, flood);
        }
    }
    panic!("no end of {frame:?}");
}

/// Whether so many a second are taken for a minute.
fn lasts(frame: Frame, per_second: u64) -> bool {
    let mut abuse = Abuse::default();
    (0..60_000u64).all(|now| {
        let due = (now + 1) * per_second / 1000 - now * per_second / 1000;
        (0..due).all(|_| abuse.note(frame, now).is_none())
    })
}

#[test]
fn every_cheap_frame_has_an_end() {
    for (frame, count, flood, per_second) in [
        (begins(Kind::Settings, 0, 0, 6), 60, Flood::Settings, 1),
        (begins(Kind::Settings, ACK, 0, 0), 6000, Flood::Settings, 100),
        (begins(Kind::Ping, 0, 0, 8), 10_000, Flood::Pings, 5000),
        (begins(Kind::Ping, ACK, 0, 8), 10_000, Flood::Pings, 5000),
        (begins(Kind::Data, 0, 1, 0), 100, Flood::EmptyFrames, 10),
        (begins(Kind::Data, 0x8, 1, 1), 100, Flood::EmptyFrames, 10),
        (begins(Kind::WindowUpdate, 0, 0, 4), 100_000, Flood::WindowUpdates, 50_000),
        (begins(Kind::Priority, 0, 1, 5), 1000, Flood::Priorities, 100),
        (begins(Kind::PriorityUpdate, 0, 0, 9), 1000, Flood::Priorities, 100),
        (begins(Kind::GoAway, 0, 0, 8), 1000, Flood::Priorities, 100),
        (begins(Kind::Unknown(0x77), 0, 0, 0), 1000, Flood::Priorities, 100),
        // Of a stream that never began, and so never paid.
        (reset(1), 300, Flood::Resets, 50),
    ] {
        assert_eq!(burst(frame), (count, flood), "{frame:?}");
        assert!(lasts(frame, per_second), "{frame:?}");
        assert!(!lasts(frame, 2 * per_second + 1), "{frame:?}");
    }
}

#[test]
fn what_carries_something_is_no_flood() {
    let mut abuse = Abuse::default();
    for stream in 0..200_000 {
        for frame in [
            headers(2 * stream + 1),
            begins(Kind::Data, 0, 2 * stream + 1, 1),
            begins(Kind::Data, END_STREAM, 2 * stream + 1, 0),
            begins(Kind::Data, 0x8, 2 * stream + 1, 2),
        ] {
            assert_eq!(abuse.note(frame, 0), None, "{frame:?}");
        }
    }
}

#[test]
fn the_end_of_a_frame_is_not_counted_again() {
    let mut abuse = Abuse::default();
    for _ in 0..100_000 {
        assert_eq!(abuse.note(Frame::Ended { kind: Kind::Reset, flags: 0, stream: 1 }, 0), None);
    }
}

#[test]
fn a_block_of_headers_has_so_many_parts() {
    let more = begins(Kind::Continuation, 0, 1, 100);
    let mut abuse = Abuse::default();
    for block in 0..100 {
        abuse.note(begins(Kind::Headers, 0, 2 * block + 1, 100), 0);
        assert!((0..CONTINUATIONS).all(|_| abuse.note(more, 0).is_none()));
    }
    assert_eq!(abuse.note(more, 0), Some(Flood::Continuations));
    // Time does not help.
    assert_eq!(abuse.note(more, 1_000_000), Some(Flood::Continuations));
}

#[test]
fn a_browser_may_leave_five_pages_of_a_hundred_images_at_once() {
    let mut abuse = Abuse::default();
    for page in 0..5 {
        for image in 0..100 {
            assert_eq!(abuse.note(headers(2 * (page * 100 + image) + 1), 10), None);
        }
        for image in 0..100 {
            assert_eq!(abuse.note(reset(2 * (page * 100 + image) + 1), 20), None, "page {page}");
        }
    }
}

#[test]
fn a_rapid_reset_ends_after_some_hundred_streams() {
    let mut abuse = Abuse::default();
    let taken = (0..10_000u32)
        .find(|count| {
            abuse.note(headers(2 * count + 1), u64::from(count / 100));
            abuse.note(reset(2 * count + 1), u64::from(count / 100)) == Some(Flood::Resets)
        })
        .expect("a flood");
    assert!((500..700).contains(&taken), "{taken}");
}

#[test]
fn who_cancels_half_of_what_it_asks_for_is_never_hurt() {
    let mut abuse = Abuse::default();
    for round in 0..200_000u32 {
        let now = u64::from(round / 10);
        assert_eq!(abuse.note(headers(4 * round + 1), now), None);
        assert_eq!(abuse.note(headers(4 * round + 3), now), None);
        assert_eq!(abuse.note(reset(4 * round + 1), now), None, "round {round}");
    }
}

// 128 calls at a time, a second's deadline, and a backend that answers none.
#[test]
fn deadlines_that_pass_are_no_flood() {
    let mut abuse = Abuse::default();
    for round in 0..300u32 {
        let now = u64::from(round) * 1000;
        for call in 0..128 {
            if round > 0 {
                assert_eq!(abuse.note(reset(2 * ((round - 1) * 128 + call) + 1), now), None, "round {round}");
            }
        }
        for call in 0..128 {
            assert_eq!(abuse.note(headers(2 * (round * 128 + call) + 1), now), None);
        }
    }
}

#[test]
fn one_old_stream_cannot_be_reset_for_ever() {
    let mut abuse = Abuse::default();
    abuse.note(headers(1), 0);
    let taken = (0..100_000).find(|_| abuse.note(reset(1), 60_000).is_some());
    assert_eq!(taken, Some(3000));
}

#[test]
fn a_stream_is_old_after_a_second_and_not_before() {
    let mut ages = Ages::default();
    for now in 0..10_000u64 {
        // One each millisecond: stream 2n+1 began at n.
        assert!(ages.opens(2 * now as u32 + 1, now));
        for age in 0..=now.min(3000) {
            let stream = 2 * (now - age) as u32 + 1;
            if age < OLD {
                assert!(!ages.old(stream, now), "stream of {age} ms at {now}");
            }
            if age >= 2 * OLD {
                assert!(ages.old(stream, now), "stream of {age} ms at {now}");
            }
        }
    }
    assert!(!ages.opens(1, 10_000), "trailers");
    assert!(!ages.old(99_999, 60_000), "one that never began");
}

#[test]
fn refused_streams_are_counted_apart() {
    let mut abuse = Abuse::default();
    let taken = (0..1000).find(|_| abuse.refused(7).is_some());
    assert_eq!(taken, Some(200));
    assert_eq!(abuse.refused(7), Some(Flood::RefusedStreams));
    // Ten a second, and what was refused is not owed.
    assert_eq!(abuse.refused(107), None);
    assert_eq!(abuse.refused(107), Some(Flood::RefusedStreams));
    assert_eq!(abuse.note(reset(1), 107), None);
}

#[test]
fn answers_that_are_not_taken_are_borne_by_the_dozen_and_forgotten() {
    let mut abuse = Abuse::default();
    assert_eq!((0..1000).find(|_| abuse.stalled(7).is_some()), Some(32));
    assert_eq!(abuse.stalled(10_007), None);
    assert_eq!(abuse.stalled(10_007), Some(Flood::Stalls));
}

#[test]
fn every_flood_has_a_name_of_its_own() {
    let mut labels: Vec<_> = Flood::ALL.iter().map(|flood| flood.label()).collect();
    assert!(labels.iter().all(|label| label.starts_with("h2_") && label.ends_with("_flood")));
    labels.sort_unstable();
    labels.dedup();
    assert_eq!(labels.len(), Flood::ALL.len());
}

#[test]
fn it_is_small() {
    assert!(size_of::<Abuse>() <= 104, "{}", size_of::<Abuse>());
}

proptest! {
    // Clocks that stand still, jump or run backwards are no reason to fall over.
    #[test]
    fn no_order_of_frames_falls_over(
        frames in proptest::collection::vec((any::<u8>(), any::<u8>(), any::<u32>(), 0..3u32, any::<u64>()), 0..200)
    ) {
        let mut abuse = Abuse::default();
        for (kind, flags, stream, length, now) in frames {
            abuse.note(begins(Kind::from(kind), flags, stream, length), now);
            abuse.refused(now);
        }
    }

    // Whoever keeps below a rate on average over a second is taken, however the frames are bunched.
    #[test]
    fn what_fits_the_rate_is_taken(gaps in proptest::collection::vec(0..2u64, 1..500)) {
        let mut abuse = Abuse::default();
        for (second, gap) in gaps.iter().enumerate() {
            let now = second as u64 * 1000 + gap * 900;
            for _ in 0..50 {
                prop_assert_eq!(abuse.note(reset(1), now), None);
            }
        }
    }
}

#[test]
fn the_failures_page_names_every_flood() {
    let page = include_str!("../../../docs/failures.md");
    for flood in Flood::ALL {
        let name = format!("`{}`", flood.label());
        assert!(page.contains(&name), "docs/failures.md lacks {name}");
    }
}
