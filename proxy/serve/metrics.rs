//! Which series does the serving wing show? Sums of all workers' meters and cells, made at scrape.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;

use super::access::Losses;
use super::error::Reason;
use super::meter::{BUCKETS, METHODS, Meters, Owner, Totals};
use crate::cell::StreamKind;
use crate::family::{Family, Show};
use crate::table::Table;

/// What requests without a service are counted under.
const NONE: &str = "none";

/// Sums at scrape.
#[derive(Debug)]
pub struct ServingMetrics {
    /// Every worker's numbers.
    pub meters: Arc<Meters>,
    /// Which services and colors there are.
    pub table: Arc<ArcSwap<Table>>,
    /// Lines that the access log lost, if there is one.
    pub losses: Option<Arc<Losses>>,
}

impl Show for ServingMetrics {
    fn families(&self) -> Vec<Family> {
        let table = self.table.load();
        // What is open is read before what has ended: a request that is not in flight any more has been counted.
        let mut families = self.clients();
        families.extend(claims(&table));
        let totals = self.meters.totals(|service, color| {
            table.service(service).is_some_and(|service| service.backends.iter().any(|b| b.color == *color))
        });
        families.extend(requests(&totals));
        families.extend(backends(&totals));
        families
    }
}

impl ServingMetrics {
    fn clients(&self) -> Vec<Family> {
        let (accepted, open) = self.meters.connections();
        let mut all = Family::counter("bgproxy_connections_total", "Client connections accepted.");
        all.add(&[], accepted as f64);
        let mut now = Family::gauge("bgproxy_connections_open", "Client connections open.");
        now.add(&[], open as f64);
        let mut parked = Family::gauge("bgproxy_connections_parked", "Client connections that hold no buffers.");
        parked.add(&[], self.meters.parked() as f64);
        let mut lost = Family::counter("bgproxy_access_log_lost_total", "Access log lines that were not written.");
        if let Some(losses) = &self.losses {
            lost.add(&[("reason", "queue_full")], losses.queue_full() as f64);
            lost.add(&[("reason", "write_failed")], losses.write_failed() as f64);
        }
        let mut handshakes = Family::counter("bgproxy_tls_handshakes_total", "TLS handshakes completed.");
        handshakes.add(&[], self.meters.handshakes() as f64);
        let mut failures = Family::counter(
            "bgproxy_connection_failures_total",
            "Client connections that failed before or beside their requests, by reason; docs/failures.md explains each.",
        );
        for (reason, count) in self.meters.connection_failures() {
            failures.add(&[("reason", reason)], count as f64);
        }
        vec![all, now, parked, handshakes, failures, lost]
    }
}

fn names(owner: &Owner) -> [(&'static str, &str); 2] {
    match owner {
        Some((service, color)) => [("service", service.as_str()), ("color", color.as_str())],
        None => [("service", NONE), ("color", NONE)],
    }
}

fn requests(totals: &BTreeMap<Owner, Totals>) -> Vec<Family> {
    let mut requests = Family::counter("bgproxy_requests_total", "Requests ended, by method and status.");
    let mut failures = Family::counter(
        "bgproxy_request_failures_total",
        "Requests that no backend answered to the end, by reason; docs/failures.md explains each.",
    );
    let mut duration = Family::histogram(
        "bgproxy_request_duration_seconds",
        "From a request's head to its answer's last byte with the kernel.",
    );
    let mut first_byte = Family::histogram(
        "bgproxy_request_first_byte_seconds",
        "From a request's head to the backend's answer's head.",
    );
    let mut received = Family::counter("bgproxy_request_bytes_total", "Bytes of request bodies.");
    let mut sent = Family::counter("bgproxy_response_bytes_total", "Bytes of answers' bodies.");
    let mut retries = Family::counter("bgproxy_retries_total", "Requests sent a second time.");
    for (owner, totals) in totals {
        let [service, color] = names(owner);
        for ((method, code), count) in &totals.requests {
            let code = code.to_string();
            requests.add(&[service, color, ("method", METHODS[*method]), ("code", &code)], *count as f64);
        }
        for (reason, count) in Reason::ALL.iter().zip(totals.failures.0).filter(|(_, count)| *count > 0) {
            failures.add(&[service, color, ("reason", reason.label())], count as f64);
        }
        let labels = [service, color];
        // Of ten thousand services' idle colors, empty histograms would be most of the page.
        if !totals.requests.is_empty() {
            duration.add_histogram(&labels, &BUCKETS, &totals.duration.buckets, totals.duration.sum);
            first_byte.add_histogram(&labels, &BUCKETS, &totals.first_byte.buckets, totals.first_byte.sum);
        }
        received.add(&labels, totals.bytes_in as f64);
        sent.add(&labels, totals.bytes_out as f64);
        retries.add(&labels, totals.retries as f64);
    }
    vec![requests, failures, duration, first_byte, received, sent, retries]
}

fn backends(totals: &BTreeMap<Owner, Totals>) -> Vec<Family> {
    let mut connects = Family::counter("bgproxy_connects_total", "Connections opened to a backend.");
    let mut failed = Family::counter(
        "bgproxy_connect_failures_total",
        "Connections to a backend that could not be opened, or had to be ended, by reason (each errno has its own).",
    );
    let mut probes = Family::counter("bgproxy_probes_total", "Questions whether a backend is ready, by outcome.");
    for (owner, totals) in totals.iter().filter(|(owner, _)| owner.is_some()) {
        let [service, color] = names(owner);
        connects.add(&[service, color], totals.connects as f64);
        for (reason, count) in Reason::ALL.iter().zip(totals.connect_failures.0).filter(|(_, count)| *count > 0) {
            failed.add(&[service, color, ("reason", reason.label())], count as f64);
        }
        probes.add(&[service, color, ("outcome", "ready")], totals.probes_passed as f64);
        probes.add(&[service, color, ("outcome", "unready")], totals.probes_failed as f64);
    }
    vec![connects, failed, probes]
}

/// The ledger: claimed = finished + failed + moved + in flight.
fn claims(table: &Table) -> Vec<Family> {
    let mut claims = Family::counter("bgproxy_claims_total", "Requests that were sent to a backend.");
    let mut ended = Family::counter("bgproxy_claims_ended_total", "Those of them that ended, by outcome.");
    let mut in_flight = Family::gauge("bgproxy_requests_in_flight", "Those of them that did not yet.");
    let mut streams = Family::gauge("bgproxy_streams_open", "Streams open, by kind.");
    let mut closed =
        Family::counter("bgproxy_streams_closed_total", "Streams that ended because they had been told to leave.");
    for backend in table.services.iter().flat_map(|service| &service.backends) {
        let sum = backend.sum();
        let [service, color] = [("service", backend.service.as_str()), ("color", backend.color.as_str())];
        claims.add(&[service, color], sum.claimed as f64);
        ended.add(&[service, color, ("outcome", "finished")], sum.finished as f64);
        ended.add(&[service, color, ("outcome", "failed")], sum.failed as f64);
        ended.add(&[service, color, ("outcome", "moved")], sum.moved as f64);
        in_flight.add(&[service, color], sum.in_flight() as f64);
        for kind in StreamKind::ALL {
            let open = sum.streams_by_kind[kind as usize];
            streams.add(&[service, color, ("kind", kind.label())], open as f64);
        }
        closed.add(&[service, color], sum.streams_ended as f64);
    }
    vec![claims, ended, in_flight, streams, closed]
}
