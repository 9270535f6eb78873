//! When is a certificate renewed? When its authority suggests (ARI, RFC 9773), else when two thirds of its time are
//! over; after a failure, later each time. Pure: who calls has looked at the clock, and rolled the dice.

use std::time::Duration;

/// Between the first failure and the next try; doubled after each further one. Let's Encrypt lets five fail in an hour.
const FIRST_PAUSE: Duration = Duration::from_secs(5 * 60);

/// The longest pause. A certificate for ninety days has thirty left when it is to be renewed: a hundred tries.
const LONGEST_PAUSE: Duration = Duration::from_secs(6 * 60 * 60);

/// An authority that does not say when it wants to be asked again for its suggestion is asked after this.
const USUAL_ASKING: Duration = Duration::from_secs(6 * 60 * 60);

/// It is asked no more often than this, and no more seldom than the next one, whatever it says (RFC 9773, section 4.3).
const SHORTEST_ASKING: Duration = Duration::from_secs(60);
const LONGEST_ASKING: Duration = Duration::from_secs(24 * 60 * 60);

/// The longest that an authority can put us off with `Retry-After`: beyond that, asking once more harms nobody.
pub(super) const LONGEST_PUTTING_OFF: Duration = Duration::from_secs(24 * 60 * 60);

/// When an authority wants a certificate to be renewed: from the first second to the last one, since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Its beginning.
    pub(super) start: u64,
    /// Its end.
    pub(super) end: u64,
}

impl Window {
    /// A moment in it, by chance (from 0 to 1), so that not everybody comes at once.
    pub(super) fn pick(self, chance: f64) -> u64 {
        between(self.start, self.end, chance)
    }
}

/// When a certificate is renewed whose authority suggests nothing: when about two thirds of its time are over.
pub(super) fn two_thirds(not_before: u64, not_after: u64, chance: f64) -> u64 {
    between(after(64, not_before, not_after), after(67, not_before, not_after), chance)
}

/// When a certificate is renewed whatever its authority suggests: a suggestion can be wrong, an expiry is certain.
pub(super) fn latest(not_before: u64, not_after: u64) -> u64 {
    after(90, not_before, not_after)
}

/// When so many hundredths of its time are over.
fn after(hundredths: u64, not_before: u64, not_after: u64) -> u64 {
    let time = not_after.saturating_sub(not_before);
    not_before.saturating_add(time / 100 * hundredths)
}

fn between(start: u64, end: u64, chance: f64) -> u64 {
    start.saturating_add((end.saturating_sub(start) as f64 * chance) as u64)
}

/// How long to wait after so many failures in a row; at least as long as the authority wants.
pub(super) fn pause(failures: u32, authority: Option<Duration>, chance: f64) -> Duration {
    let doubled = FIRST_PAUSE.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let pause = doubled.min(LONGEST_PAUSE).mul_f64(0.8 + 0.4 * chance);
    pause.max(authority.unwrap_or_default().min(LONGEST_PUTTING_OFF))
}

/// What is left of a pause from one second to another, since 1970: where the clock was set back meanwhile, no more than
/// it was in all, nor than any pause is.
pub(super) fn left(since: u64, until: u64, now: u64) -> Duration {
    let seconds = until.saturating_sub(now.max(since));
    Duration::from_secs(seconds).min(LONGEST_PUTTING_OFF)
}

/// How long until an authority is asked again for its suggestion.
pub(super) fn asking(authority: Option<Duration>) -> Duration {
    authority.unwrap_or(USUAL_ASKING).clamp(SHORTEST_ASKING, LONGEST_ASKING)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(60 * 60);

    #[test]
    fn a_renewal_is_somewhere_in_the_window() {
        let window = Window { start: 1000, end: 2000 };
        assert_eq!([window.pick(0.0), window.pick(0.5), window.pick(1.0)], [1000, 1500, 2000]);
        let turned = Window { start: 2000, end: 1000 };
        assert_eq!(turned.pick(0.5), 2000);
    }

    #[test]
    fn without_a_suggestion_a_third_of_the_time_is_left() {
        assert_eq!([two_thirds(0, 9000, 0.0), two_thirds(0, 9000, 1.0)], [5760, 6030]);
        assert_eq!(latest(1000, 10_000), 9100);
        // Valid from its end on: nothing is left of it, nor does anything overflow.
        assert_eq!(two_thirds(9000, 0, 1.0), 9000);
        assert_eq!(two_thirds(0, u64::MAX, 0.0), u64::MAX / 100 * 64);
    }

    #[test]
    fn tries_become_rarer_up_to_a_limit() {
        let minutes: Vec<u64> = (1..=8).map(|failures| pause(failures, None, 0.5).as_secs() / 60).collect();
        assert_eq!(minutes, [5, 10, 20, 40, 80, 160, 320, 360]);
        assert_eq!(pause(u32::MAX, None, 0.5), LONGEST_PAUSE);
        assert!(pause(1, None, 0.0) < pause(1, None, 1.0));
    }

    #[test]
    fn a_pause_outlives_us_and_a_clock_that_is_set() {
        let left = |since, until, now| super::left(since, until, now).as_secs();
        assert_eq!([left(1000, 1300, 1000), left(1000, 1300, 1100), left(1000, 1300, 1300)], [300, 200, 0]);
        assert_eq!(left(1000, 1300, 9_000_000), 0, "set forward");
        assert_eq!(left(1_000_000, 1_000_300, 10), 300, "set back");
        assert_eq!([left(1300, 1000, 900), left(0, u64::MAX, 0)], [0, 86_400], "nonsense");
    }

    #[test]
    fn an_authority_that_wants_more_time_gets_it_within_reason() {
        assert_eq!(pause(1, Some(2 * HOUR), 0.5), 2 * HOUR);
        assert_eq!(pause(1, Some(Duration::from_secs(1)), 0.5), FIRST_PAUSE);
        assert_eq!(pause(1, Some(Duration::MAX), 0.5), 24 * HOUR);
        assert_eq!(asking(None), 6 * HOUR);
        assert_eq!([asking(Some(Duration::ZERO)), asking(Some(Duration::MAX))], [HOUR / 60, 24 * HOUR]);
    }
}
