//! Where do requests go while the fuzzer sends them? By a table with every kind of route.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use bgproxy_conf::Config;

use crate::control::registry::Registry;
use crate::table::{Service, Table};

const CONFIG: &str = r#"
[service.all]
backends.blue = "/b"
[service.exact]
hosts = ["a", "a.example.com"]
paths = ["/", "/x"]
preview.hosts = ["preview.example.com"]
backends.blue = "/b"
backends.green = "/g"
[service.deep]
hosts = ["a.example.com"]
paths = ["/x/y"]
backends.blue = "/b"
[service.below]
hosts = ["*.example.com"]
backends.blue = "/b"
"#;

/// The table.
pub(super) static TABLE: LazyLock<Table> = LazyLock::new(|| {
    let config = Config::parse(CONFIG, Path::new("fuzz.toml")).expect("a configuration");
    let mut registry = Registry::new(1);
    let services = config.service.into_iter().map(|(name, config)| {
        let of = |(color, backend): (_, _)| registry.backend(&name, color, backend);
        let backends: Vec<_> = config.backends.iter().map(of).collect();
        let (live, preview) = (backends[0].clone(), backends[backends.len() - 1].clone());
        Arc::new(Service { name, generation: 1, live, preview, backends, config })
    });
    Table::new(services.collect(), config.limits, config.trusted)
});

/// The service that a request for this host and path goes to, and whether as a preview.
pub(super) fn place(host: &str, path: &str) -> Option<(String, bool)> {
    let found = TABLE.destination(host, path)?;
    Some((found.service.name.to_string(), found.preview))
}
