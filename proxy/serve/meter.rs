//! What is counted? Each worker counts for itself, with plain loads and stores; a scrape sums.
//!
//! Every name of a metric stands here once. `docs/metrics.md` explains them.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use bgproxy_conf::{Color, ServiceName};
use http::{Method, StatusCode};

use super::error::Reason;

/// Methods that are told apart; every other one is `OTHER`, or clients could make series.
pub const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "CONNECT", "OTHER"];

/// The index of `OTHER`.
const OTHER: usize = METHODS.len() - 1;

/// Upper bounds of the buckets of durations, in seconds.
pub const BUCKETS: [f64; 16] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// Statuses by their hundreds.
const CLASSES: usize = 5;

/// One worker's numbers about one color. Most colors are only probed: what else is counted is made when first needed,
/// so that such a one has 128 bytes instead of 2 KiB.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Meter {
    requests: OnceLock<Box<Requests>>,
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
    connects: AtomicU64,
    retries: AtomicU64,
    probes_passed: AtomicU64,
    probes_failed: AtomicU64,
    failures: OnceLock<Box<Failures>>,
}

/// Of a color that requests were sent to.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Requests {
    codes: Codes,
    duration: Histogram,
    first_byte: Histogram,
}

/// Of a color that failed.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Failures {
    requests: ByReason<AtomicU64>,
    connects: ByReason<AtomicU64>,
}

/// One number per reason; a type of its own because the standard library makes no default of longer arrays than 32.
#[derive(Debug, Clone, PartialEq)]
pub struct ByReason<T>(pub [T; Reason::ALL.len()]);

impl<T: Default> Default for ByReason<T> {
    fn default() -> Self {
        ByReason(std::array::from_fn(|_| T::default()))
    }
}

/// Requests by method and status; a hundred of statuses is made when first needed: few of the 50 ever are.
#[derive(Debug)]
struct Codes([OnceLock<Box<[AtomicU64; 100]>>; METHODS.len() * CLASSES]);

impl Default for Codes {
    fn default() -> Self {
        Codes([const { OnceLock::new() }; METHODS.len() * CLASSES])
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Histogram {
    /// By bucket, the last one without an upper bound; not cumulative.
    buckets: [AtomicU64; BUCKETS.len() + 1],
    /// Nanoseconds.
    sum: AtomicU64,
}

/// The sums of several meters.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct Totals {
    /// Requests by method (see [`METHODS`]) and status.
    pub requests: BTreeMap<(usize, u16), u64>,
    /// How long requests took.
    pub duration: HistogramTotals,
    /// How long their answers' heads took.
    pub first_byte: HistogramTotals,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of answers' bodies.
    pub bytes_out: u64,
    /// Connections opened.
    pub connects: u64,
    /// Requests sent a second time.
    pub retries: u64,
    /// Probes answered as they should be.
    pub probes_passed: u64,
    /// Probes that were not.
    pub probes_failed: u64,
    /// Requests failed, by reason.
    pub failures: ByReason<u64>,
    /// Connections not opened, by reason.
    pub connect_failures: ByReason<u64>,
}

/// The sums of several histograms.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct HistogramTotals {
    /// By bucket, not cumulative.
    pub buckets: [u64; BUCKETS.len() + 1],
    /// Seconds.
    pub sum: f64,
}

impl Meter {
    /// A request ended.
    pub fn request(&self, method: &Method, status: StatusCode, seconds: f64, first_byte: Option<f64>) {
        self.ended(method_index(method), status, seconds, first_byte);
    }

    fn ended(&self, method: usize, status: StatusCode, seconds: f64, first_byte: Option<f64>) {
        let status = status.as_u16();
        let class = (usize::from(status) / 100).clamp(1, CLASSES) - 1;
        let requests = self.requests.get_or_init(Box::default);
        let codes =
            requests.codes.0[method * CLASSES + class].get_or_init(|| Box::new([const { AtomicU64::new(0) }; 100]));
        add(&codes[usize::from(status % 100)], 1);
        requests.duration.observe(seconds);
        if let Some(first_byte) = first_byte {
            requests.first_byte.observe(first_byte);
        }
    }

    /// Bytes of bodies passed.
    pub fn bytes(&self, received: u64, sent: u64) {
        add(&self.bytes_in, received);
        add(&self.bytes_out, sent);
    }

    /// A request failed.
    pub fn failed(&self, reason: Reason) {
        add(&self.failures.get_or_init(Box::default).requests.0[reason as usize], 1);
    }

    /// A head was refused that never became a request.
    pub fn refused(&self, reason: Reason) {
        self.failed(reason);
        // Its method was not read.
        self.ended(OTHER, reason.status(), 0.0, None);
    }

    /// A connection to the backend was opened.
    pub fn connected(&self) {
        add(&self.connects, 1);
    }

    /// A connection to the backend could not be opened.
    pub fn connect_failed(&self, reason: Reason) {
        add(&self.failures.get_or_init(Box::default).connects.0[reason as usize], 1);
    }

    /// A request was sent a second time.
    pub fn retried(&self) {
        add(&self.retries, 1);
    }

    /// A probe was answered.
    pub fn probed(&self, ready: bool) {
        add(if ready { &self.probes_passed } else { &self.probes_failed }, 1);
    }

    fn add_to(&self, totals: &mut Totals) {
        if let Some(requests) = self.requests.get() {
            requests.codes.add_to(&mut totals.requests);
            requests.duration.add_to(&mut totals.duration);
            requests.first_byte.add_to(&mut totals.first_byte);
        }
        totals.bytes_in += read(&self.bytes_in);
        totals.bytes_out += read(&self.bytes_out);
        totals.connects += read(&self.connects);
        totals.retries += read(&self.retries);
        totals.probes_passed += read(&self.probes_passed);
        totals.probes_failed += read(&self.probes_failed);
        if let Some(failures) = self.failures.get() {
            failures.requests.add_to(&mut totals.failures);
            failures.connects.add_to(&mut totals.connect_failures);
        }
    }
}

impl Codes {
    fn add_to(&self, totals: &mut BTreeMap<(usize, u16), u64>) {
        for (index, codes) in self.0.iter().enumerate() {
            let Some(codes) = codes.get() else { continue };
            let (method, class) = (index / CLASSES, index % CLASSES + 1);
            for (code, count) in codes.iter().enumerate() {
                let count = read(count);
                if count > 0 {
                    *totals.entry((method, (class * 100 + code) as u16)).or_default() += count;
                }
            }
        }
    }
}

impl ByReason<AtomicU64> {
    fn add_to(&self, totals: &mut ByReason<u64>) {
        for (total, count) in totals.0.iter_mut().zip(&self.0) {
            *total += read(count);
        }
    }
}

impl Histogram {
    fn observe(&self, seconds: f64) {
        let bucket = BUCKETS.partition_point(|bound| *bound < seconds);
        add(&self.buckets[bucket], 1);
        add(&self.sum, (seconds * 1e9) as u64);
    }

    fn add_to(&self, totals: &mut HistogramTotals) {
        for (total, count) in totals.buckets.iter_mut().zip(&self.buckets) {
            *total += read(count);
        }
        totals.sum += read(&self.sum) as f64 / 1e9;
    }
}

/// One writer: no locked instruction needed.
fn add(counter: &AtomicU64, more: u64) {
    counter.store(read(counter) + more, Ordering::Relaxed);
}

fn read(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn method_index(method: &Method) -> usize {
    METHODS[..OTHER].iter().position(|name| *name == method.as_str()).unwrap_or(OTHER)
}

/// One worker's numbers about its clients.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Clients {
    accepted: AtomicU64,
    open: AtomicU64,
    parked: AtomicU64,
    handshakes: AtomicU64,
    /// By reason. Locked when a connection fails and when somebody sums; never while a request is served.
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Clients {
    /// A client connected.
    pub fn connected(&self) {
        add(&self.accepted, 1);
        add(&self.open, 1);
    }

    /// A client connected and was turned away at once, for this reason.
    pub fn turned_away(&self, label: &'static str) {
        add(&self.accepted, 1);
        self.failed(label);
    }

    /// A client's connection is parked for as long as the guard is there.
    pub fn parks(&self) -> Parked<'_> {
        add(&self.parked, 1);
        Parked(self)
    }

    /// A client's connection ended.
    pub fn disconnected(&self) {
        // Release: whoever sees it gone sees what it was counted for.
        self.open.store(read(&self.open).saturating_sub(1), Ordering::Release);
    }

    /// A connection failed before or beside its requests, for this reason.
    pub fn failed(&self, label: &'static str) {
        *lock(&self.failures).entry(label).or_default() += 1;
    }

    /// A TLS handshake was completed.
    pub fn shook_hands(&self) {
        add(&self.handshakes, 1);
    }

    /// Connections ever accepted.
    pub fn accepted(&self) -> u64 {
        read(&self.accepted)
    }

    /// TLS handshakes completed.
    pub fn handshakes(&self) -> u64 {
        read(&self.handshakes)
    }

    /// Connections open now.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Acquire)
    }

    /// Connections parked now.
    pub fn parked(&self) -> u64 {
        read(&self.parked)
    }
}

/// A client's connection that is parked.
#[derive(Debug)]
pub struct Parked<'c>(&'c Clients);

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.parked.store(self.0.parked().saturating_sub(1), Ordering::Relaxed);
    }
}

/// Whose numbers: a service's color, or nobody's (refused before a route was found).
pub type Owner = Option<(ServiceName, Color)>;

/// Every worker's meters, for whoever wants sums. Locked when a worker meets a color for the first time and when
/// somebody sums; never while a request is served.
#[derive(Debug, Default)]
pub struct Meters {
    meters: Mutex<BTreeMap<Owner, BTreeMap<usize, Arc<Meter>>>>,
    clients: Mutex<Vec<Arc<Clients>>>,
}

impl Meters {
    /// This worker's meter of that owner: the same one every time, so that numbers outlive a change of address.
    pub fn of(&self, owner: &Owner, worker: usize) -> Arc<Meter> {
        let mut meters = lock(&self.meters);
        meters.entry(owner.clone()).or_default().entry(worker).or_default().clone()
    }

    /// A new worker's numbers about its clients.
    pub fn clients(&self) -> Arc<Clients> {
        let clients = Arc::new(Clients::default());
        lock(&self.clients).push(clients.clone());
        clients
    }

    /// Sums by owner, leaving out (and forgetting) owners that `exists` denies.
    pub fn totals(&self, exists: impl Fn(&ServiceName, &Color) -> bool) -> BTreeMap<Owner, Totals> {
        let mut meters = lock(&self.meters);
        meters.retain(|owner, _| owner.as_ref().is_none_or(|(service, color)| exists(service, color)));
        let sum = |meters: &BTreeMap<usize, Arc<Meter>>| {
            let mut totals = Totals::default();
            meters.values().for_each(|meter| meter.add_to(&mut totals));
            totals
        };
        meters.iter().map(|(owner, meters)| (owner.clone(), sum(meters))).collect()
    }

    /// TLS handshakes completed, over all workers.
    pub fn handshakes(&self) -> u64 {
        lock(&self.clients).iter().map(|clients| clients.handshakes()).sum()
    }

    /// Connections that failed, by reason, over all workers.
    pub fn connection_failures(&self) -> BTreeMap<&'static str, u64> {
        let mut sums = BTreeMap::new();
        for clients in lock(&self.clients).iter() {
            for (reason, count) in lock(&clients.failures).iter() {
                *sums.entry(*reason).or_default() += count;
            }
        }
        sums
    }

    /// Client connections accepted ever and open now, over all workers.
    pub fn connections(&self) -> (u64, u64) {
        let clients = lock(&self.clients);
        (clients.iter().map(|c| c.accepted()).sum(), clients.iter().map(|c| c.open()).sum())
    }

    /// Client connections parked now, over all workers.
    pub fn parked(&self) -> u64 {
        lock(&self.clients).iter().map(|clients| clients.parked()).sum()
    }
}

/// A panic elsewhere does not make counters wrong.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(color: &str) -> Owner {
        let color = Color::try_from(color.to_owned()).expect("a color");
        Some((ServiceName::try_from("portal".to_owned()).expect("a name"), color))
    }

    #[test]
    fn a_sum_adds_every_workers_requests_by_method_and_code() {
        let meters = Meters::default();
        for worker in 0..3 {
            let meter = meters.of(&owner("blue"), worker);
            meter.request(&Method::GET, StatusCode::OK, 0.002, Some(0.001));
            meter.request(&Method::from_bytes(b"PURGE").expect("a method"), StatusCode::NOT_FOUND, 100.0, None);
        }
        let totals = meters.totals(|_, _| true).remove(&owner("blue")).expect("blue's totals");
        let other = METHODS.len() - 1;
        assert_eq!(totals.requests, BTreeMap::from([((0, 200), 3), ((other, 404), 3)]));
        assert_eq!(totals.duration.buckets[2], 3);
        assert_eq!(totals.duration.buckets[BUCKETS.len()], 3);
        assert!((totals.duration.sum - 300.006).abs() < 1e-6);
        assert_eq!(totals.first_byte.buckets[1], 3);
    }

    #[test]
    fn a_removed_colors_series_disappear_and_a_kept_ones_go_on() {
        let meters = Meters::default();
        meters.of(&owner("blue"), 0).connected();
        meters.of(&owner("green"), 0).connected();
        let left = meters.totals(|_, color| color.as_str() == "green");
        assert_eq!(left.keys().collect::<Vec<_>>(), [&owner("green")]);
        meters.of(&owner("green"), 0).connected();
        assert_eq!(meters.totals(|_, _| true)[&owner("green")].connects, 2);
    }

    /// With ten thousand services there are forty thousand of them.
    #[test]
    fn a_meter_of_a_color_that_is_only_probed_is_small() {
        let meter = Meter::default();
        meter.probed(true);
        meter.connected();
        assert!(meter.requests.get().is_none() && meter.failures.get().is_none());
        assert_eq!(size_of::<Meter>(), 128);
    }

    #[test]
    fn the_largest_and_smallest_status_have_a_place() {
        let meter = Meter::default();
        for code in [100, 199, 599, 999] {
            meter.request(&Method::GET, StatusCode::from_u16(code).expect("a status"), 0.0, None);
        }
        let mut totals = Totals::default();
        meter.add_to(&mut totals);
        assert_eq!(totals.requests.values().sum::<u64>(), 4);
    }
}
