//! How is a number shown to Prometheus? Families of series, made when they are scraped: nothing is kept between
//! scrapes, so the series of a removed service is gone with it.

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::proto::{Bucket, Counter, Gauge, Histogram, LabelPair, Metric, MetricFamily, MetricType};

/// Whoever has numbers to show.
pub trait Show: Send + Sync {
    /// The numbers as they are now.
    fn families(&self) -> Vec<Family>;
}

/// The metrics page: everybody's numbers, and the process' own.
pub struct Page {
    parts: Vec<Box<dyn Show>>,
    process: ProcessCollector,
}

impl std::fmt::Debug for Page {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Page").field("parts", &self.parts.len()).finish_non_exhaustive()
    }
}

impl Page {
    /// A page of these numbers.
    pub fn new(parts: Vec<Box<dyn Show>>) -> Page {
        Page { parts, process: ProcessCollector::for_self() }
    }

    /// The page in Prometheus' text format, version 0.0.4.
    ///
    /// # Errors
    /// The encoder's, which would be a mistake of ours in a name.
    pub fn text(&self) -> prometheus::Result<String> {
        let mut families: Vec<_> =
            self.parts.iter().flat_map(|part| part.families()).filter_map(Family::done).collect();
        families.extend(self.process.collect());
        families.sort_by(|a, b| a.name().cmp(b.name()));
        prometheus::TextEncoder::new().encode_to_string(&families)
    }
}

/// One metric with all its series.
#[derive(Debug)]
pub struct Family(MetricFamily);

impl Family {
    /// A number that only grows; its name ends in `_total`.
    pub fn counter(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::COUNTER)
    }

    /// A number that goes up and down.
    pub fn gauge(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::GAUGE)
    }

    /// How often which value was seen.
    pub fn histogram(name: &str, help: &str) -> Family {
        Family::new(name, help, MetricType::HISTOGRAM)
    }

    fn new(name: &str, help: &str, kind: MetricType) -> Family {
        let mut family = MetricFamily::default();
        family.set_name(name.to_owned());
        family.set_help(help.to_owned());
        family.set_field_type(kind);
        Family(family)
    }

    /// Adds a series of a counter or gauge.
    pub fn add(&mut self, labels: &[(&str, &str)], value: f64) {
        let mut metric = labeled(labels);
        if self.0.get_field_type() == MetricType::COUNTER {
            let mut counter = Counter::default();
            counter.set_value(value);
            metric.set_counter(counter);
        } else {
            let mut gauge = Gauge::default();
            gauge.set_value(value);
            metric.set_gauge(gauge);
        }
        self.0.mut_metric().push(metric);
    }

    /// Adds a series of a histogram: upper bounds, and counts that are not cumulative, with one more count for what
    /// is above the last bound.
    pub fn add_histogram(&mut self, labels: &[(&str, &str)], bounds: &[f64], counts: &[u64], sum: f64) {
        let mut cumulative = 0;
        let buckets = bounds.iter().zip(counts).map(|(bound, count)| {
            cumulative += count;
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(*bound);
            bucket.set_cumulative_count(cumulative);
            bucket
        });
        let mut histogram = Histogram::default();
        histogram.set_bucket(buckets.collect());
        histogram.set_sample_count(counts.iter().sum());
        histogram.set_sample_sum(sum);
        let mut metric = labeled(labels);
        metric.set_histogram(histogram);
        self.0.mut_metric().push(metric);
    }

    /// Prometheus' own form; none without a series, which the encoder refuses.
    fn done(self) -> Option<MetricFamily> {
        (!self.0.get_metric().is_empty()).then_some(self.0)
    }
}

fn labeled(labels: &[(&str, &str)]) -> Metric {
    let pairs = labels.iter().map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name((*name).to_owned());
        pair.set_value((*value).to_owned());
        pair
    });
    Metric::from_label(pairs.collect())
}
