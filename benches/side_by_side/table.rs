//! What is printed? Per load a table: medians of all turns, and the least and the most.

use std::fmt::Write as _;

/// One measurement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Turn {
    /// CPU microseconds per request.
    pub(super) cpu: f64,
    /// Requests per second.
    pub(super) rate: f64,
    /// Latency in milliseconds.
    pub(super) p50: f64,
    pub(super) p99: f64,
    /// Memory in MiB when it ended, all processes.
    pub(super) memory: f64,
}

/// All measurements of one proxy with one load.
pub(super) struct Row<'p> {
    name: &'p str,
    pub(super) turns: Vec<Turn>,
}

impl<'p> Row<'p> {
    pub(super) fn new(name: &'p str) -> Row<'p> {
        Row { name, turns: Vec::new() }
    }
}

/// What the rows say, per `unit`; ratios are to nginx.
pub(super) fn show(unit: &str, proxies: &[Row<'_>]) -> String {
    let cpu = |proxy: &Row<'_>| Spread::of(proxy, |turn| turn.cpu);
    let nginx = proxies.iter().find(|proxy| proxy.name.starts_with("nginx")).map(|proxy| cpu(proxy).median);
    let (each, rate) = (format!("CPU us/{unit}"), format!("{unit}s/s"));
    let mut rows = vec![["", &each, "to nginx", &rate, "p50 ms", "p99 ms", "memory MiB"].map(str::to_owned).to_vec()];
    for proxy in proxies {
        let ratio = nginx.map_or(String::new(), |nginx| format!("{:.2}", cpu(proxy).median / nginx));
        rows.push(vec![
            proxy.name.to_owned(),
            cpu(proxy).show(1),
            ratio,
            Spread::of(proxy, |turn| turn.rate).show(0),
            Spread::of(proxy, |turn| turn.p50).show(2),
            Spread::of(proxy, |turn| turn.p99).show(2),
            Spread::of(proxy, |turn| turn.memory).show(1),
        ]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text
}

struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(proxy: &Row<'_>, value: impl Fn(&Turn) -> f64) -> Spread {
        let mut values: Vec<f64> = proxy.turns.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Spread { median, least: values[0], most: values[values.len() - 1] }
    }

    fn show(&self, digits: usize) -> String {
        format!("{:.digits$} ({:.digits$}-{:.digits$})", self.median, self.least, self.most)
    }
}
