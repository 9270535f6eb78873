//! Which series does the control wing show? What is live, what commands and drains became of.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use bgproxy_conf::wire::{Reload, What};
use bgproxy_conf::{Color, ServiceName};

use super::drain;
use crate::family::{Family, Show};
use crate::table::Table;

/// Upper bounds of the buckets of drains, in seconds.
const BUCKETS: [f64; 10] = [0.05, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0];

/// What the switchboard counts.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    services: BTreeMap<ServiceName, Service>,
    ready: BTreeMap<(ServiceName, Color), bool>,
    reloads: BTreeMap<&'static str, u64>,
    reload_ok: Option<bool>,
    reloaded_at: f64,
    certificates: BTreeMap<&'static str, u64>,
    acme: BTreeMap<&'static str, u64>,
    acme_failing: usize,
    /// By the path of the certificate.
    expiry: BTreeMap<String, u64>,
}

#[derive(Debug, Default)]
struct Service {
    /// Commands by outcome: `switched`, `previewed`, or why they were refused.
    commands: BTreeMap<String, u64>,
    drains: BTreeMap<&'static str, u64>,
    cut: u64,
    drain_buckets: [u64; BUCKETS.len() + 1],
    drain_seconds: f64,
    live_file_faults: u64,
    sockets: u64,
}

impl Tally {
    /// Counts what happened to a service.
    pub fn count(&self, name: &ServiceName, what: &What) {
        let mut counts = self.lock();
        if let What::Readiness { color, probe } = what {
            counts.ready.insert((name.clone(), color.clone()), probe.ready);
        }
        let service = counts.services.entry(name.clone()).or_default();
        let mut command = |outcome: &str| *service.commands.entry(outcome.to_owned()).or_default() += 1;
        match what {
            What::Switched { .. } => command("switched"),
            What::Previewed { .. } => command("previewed"),
            What::Refused { reason, .. } => command(reason),
            What::Drained(receipt) => {
                *service.drains.entry(drain::label(receipt.outcome)).or_default() += 1;
                service.cut += receipt.cut_total;
                service.drain_buckets[BUCKETS.partition_point(|bound| *bound < receipt.seconds)] += 1;
                service.drain_seconds += receipt.seconds;
            }
            What::LiveFile { .. } => service.live_file_faults += 1,
            What::Socket { .. } => service.sockets += 1,
            What::Probing { .. }
            | What::ClosingStreams { .. }
            | What::Readiness { .. }
            | What::Certificate { .. }
            | What::Reloaded { .. } => {}
        }
    }

    /// Counts a reload.
    pub fn reloaded(&self, reload: &Reload) {
        let mut counts = self.lock();
        *counts.reloads.entry(if reload.ok { "ok" } else { "failed" }).or_default() += 1;
        counts.reload_ok = Some(reload.ok);
        if reload.ok {
            counts.reloaded_at = now();
        }
    }

    /// Counts a certificate found changed on disk.
    pub fn certificate(&self, ok: bool) {
        *self.lock().certificates.entry(if ok { "ok" } else { "failed" }).or_default() += 1;
    }

    /// Counts a certificate that an authority was asked for.
    pub fn acme_tried(&self, ok: bool) {
        *self.lock().acme.entry(if ok { "issued" } else { "failed" }).or_default() += 1;
    }

    /// How many hosts' last try for a certificate failed.
    pub fn acme_failing(&self, hosts: usize) {
        self.lock().acme_failing = hosts;
    }

    /// The certificates in use, and when they expire.
    pub fn expiry(&self, expiry: impl Iterator<Item = (String, u64)>) {
        self.lock().expiry = expiry.collect();
    }

    /// The configuration in force was read now, at start.
    pub fn started(&self) {
        let mut counts = self.lock();
        counts.reload_ok = Some(true);
        counts.reloaded_at = now();
    }

    /// Counts are right whatever panicked while they were locked.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn now() -> f64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

/// Shows them at scrape.
#[derive(Debug)]
pub struct ControlMetrics {
    /// What the switchboard counts.
    pub tally: Arc<Tally>,
    /// What is live.
    pub table: Arc<ArcSwap<Table>>,
    /// Version and commit.
    pub version: String,
    /// Counts panics.
    pub panics: fn() -> u64,
}

impl Show for ControlMetrics {
    fn families(&self) -> Vec<Family> {
        let table = self.table.load();
        let mut counts = self.tally.lock();
        counts.services.retain(|name, _| table.service(name).is_some());
        counts.ready.retain(|(name, color), _| {
            table.service(name).is_some_and(|service| service.backends.iter().any(|backend| backend.color == *color))
        });
        let mut families = colors(&table, &counts);
        families.extend(commands(&counts));
        families.extend(drains(&counts));
        families.extend(certificates(&counts));
        families.extend(self.process(&counts));
        families
    }
}

impl ControlMetrics {
    fn process(&self, counts: &Counts) -> Vec<Family> {
        let mut reloads = Family::counter("bgproxy_config_reloads_total", "Times the configuration was read again.");
        for outcome in ["ok", "failed"] {
            reloads.add(&[("outcome", outcome)], counts.reloads.get(outcome).copied().unwrap_or(0) as f64);
        }
        let mut ok =
            Family::gauge("bgproxy_config_last_reload_successful", "Whether the newest configuration is in use.");
        ok.add(&[], f64::from(u8::from(counts.reload_ok == Some(true))));
        let mut at = Family::gauge(
            "bgproxy_config_last_reload_success_timestamp_seconds",
            "When the configuration in use was read.",
        );
        at.add(&[], counts.reloaded_at);
        let mut build = Family::gauge("bgproxy_build_info", "Always 1; the version is in the label.");
        build.add(&[("version", &self.version)], 1.0);
        let mut panics = Family::counter("bgproxy_panics_total", "Requests or tasks ended by a mistake of ours.");
        panics.add(&[], (self.panics)() as f64);
        vec![reloads, ok, at, build, panics]
    }
}

fn colors(table: &Table, counts: &Counts) -> Vec<Family> {
    let mut live = Family::gauge("bgproxy_color_live", "1 for the color that serves everybody, 0 for the others.");
    let mut preview = Family::gauge("bgproxy_color_preview", "1 for the color that testers reach, 0 for the others.");
    let mut ready = Family::gauge("bgproxy_color_ready", "Whether the newest probe was answered as it should be.");
    let mut generation =
        Family::gauge("bgproxy_service_generation", "Grows by one with every change of where requests go.");
    for service in &table.services {
        let name = ("service", service.name.as_str());
        generation.add(&[name], service.generation as f64);
        for backend in &service.backends {
            let labels = [name, ("color", backend.color.as_str())];
            live.add(&labels, f64::from(u8::from(backend.color == service.live.color)));
            preview.add(&labels, f64::from(u8::from(backend.color == service.preview.color)));
            if let Some(is_ready) = counts.ready.get(&(service.name.clone(), backend.color.clone())) {
                ready.add(&labels, f64::from(u8::from(*is_ready)));
            }
        }
    }
    vec![live, preview, ready, generation]
}

fn commands(counts: &Counts) -> Vec<Family> {
    let mut commands = Family::counter("bgproxy_commands_total", "Switches and previews, by outcome.");
    let mut faults = Family::counter("bgproxy_live_file_faults_total", "Live files found useless or not writable.");
    let mut sockets = Family::counter("bgproxy_socket_changes_total", "Backend sockets found to be other ones.");
    for (name, service) in &counts.services {
        let name = ("service", name.as_str());
        for (outcome, count) in &service.commands {
            commands.add(&[name, ("outcome", outcome)], *count as f64);
        }
        faults.add(&[name], service.live_file_faults as f64);
        sockets.add(&[name], service.sockets as f64);
    }
    vec![commands, faults, sockets]
}

fn certificates(counts: &Counts) -> Vec<Family> {
    let mut expiry =
        Family::gauge("bgproxy_certificate_expiry_timestamp_seconds", "When a certificate in use expires.");
    for (cert, at) in &counts.expiry {
        expiry.add(&[("cert", cert)], *at as f64);
    }
    let mut reloads = Family::counter("bgproxy_certificate_reloads_total", "Certificates found changed on disk.");
    for outcome in ["ok", "failed"] {
        reloads.add(&[("outcome", outcome)], counts.certificates.get(outcome).copied().unwrap_or(0) as f64);
    }
    let mut orders = Family::counter("bgproxy_acme_orders_total", "Certificates that an authority was asked for.");
    for outcome in ["issued", "failed"] {
        orders.add(&[("outcome", outcome)], counts.acme.get(outcome).copied().unwrap_or(0) as f64);
    }
    let mut failing = Family::gauge("bgproxy_acme_hosts_failing", "Hosts whose last try for a certificate failed.");
    failing.add(&[], counts.acme_failing as f64);
    vec![expiry, reloads, orders, failing]
}

fn drains(counts: &Counts) -> Vec<Family> {
    let mut drains = Family::counter("bgproxy_drains_total", "Drains ended, by outcome.");
    let mut cut = Family::counter("bgproxy_drain_cut_requests_total", "Requests cut at a drain's deadline.");
    let mut seconds = Family::histogram("bgproxy_drain_duration_seconds", "From the fence to the end of the drain.");
    for (name, service) in &counts.services {
        let name = ("service", name.as_str());
        for (outcome, count) in &service.drains {
            drains.add(&[name, ("outcome", outcome)], *count as f64);
        }
        cut.add(&[name], service.cut as f64);
        if !service.drains.is_empty() {
            seconds.add_histogram(&[name], &BUCKETS, &service.drain_buckets, service.drain_seconds);
        }
    }
    vec![drains, cut, seconds]
}
