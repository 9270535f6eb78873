//! Where does this request go? The immutable answer, and a request's hold on what it was sent to.
//!
//! This is the hall between the two wings: the control wing makes tables, the serving wing reads them, and neither
//! knows the other. Nothing here does I/O.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use bgproxy_conf::{Address, Color, Host, Limits, PathPrefix, Protocol, ServiceName, Trusted};

use crate::cell::{Cell, Sum};
use crate::pages::Pages;

/// Everything a worker needs to know to serve a request. Made by the switchboard, never changed.
#[derive(Debug)]
pub struct Table {
    /// The services that routes lead to.
    pub services: Vec<Arc<Service>>,
    /// What one client may cost.
    pub limits: Limits,
    /// Whose forwarding headers are believed.
    pub trusted: Trusted,
    /// What clients read when a request fails.
    pub pages: Arc<Pages>,
    routes: Routes,
    /// Where in `services` a name is.
    names: HashMap<ServiceName, usize>,
    /// Which service a slot's backend belongs to.
    slots: HashMap<usize, usize>,
}

/// One service, as it is in one generation.
#[derive(Debug)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// Grows by one with every change of where its requests go.
    pub generation: u64,
    /// Serves everybody.
    pub live: Arc<Backend>,
    /// Serves testers.
    pub preview: Arc<Backend>,
    /// Every color's backend, live and preview among them.
    pub backends: Vec<Arc<Backend>>,
    /// Its part of the configuration.
    pub config: bgproxy_conf::Service,
}

/// The process behind one color's socket.
#[derive(Debug)]
pub struct Backend {
    /// Where workers keep what they know of it: a small number, the same as long as service and color exist.
    pub slot: usize,
    /// A number that no other backend ever had; a new address or a new socket is a new backend.
    pub id: u64,
    /// The service it belongs to.
    pub service: ServiceName,
    /// Its color.
    pub color: Color,
    /// Where it listens.
    pub address: Address,
    /// What it speaks.
    pub protocol: Protocol,
    /// Whether its connections say who the client is, in a PROXY protocol header.
    pub send_proxy: bool,
    /// One cell per worker; they outlive a change of address, because requests do.
    pub cells: Arc<[Cell]>,
}

impl Service {
    /// Whether it is for this client: `deny` wins, and `allow` is everybody while it is empty.
    pub fn admits(&self, client: IpAddr) -> bool {
        let bgproxy_conf::Service { allow, deny, .. } = &self.config;
        if allow.is_empty() && deny.is_empty() {
            return true;
        }
        !is_among(client, deny) && (allow.is_empty() || is_among(client, allow))
    }
}

impl Backend {
    /// The sum of all workers' cells.
    pub fn sum(&self) -> Sum {
        let mut sum = Sum::default();
        for cell in self.cells.iter() {
            cell.add_to(&mut sum);
        }
        sum
    }
}

/// A table's answer to one request.
#[derive(Debug, Clone, Copy)]
pub struct Destination<'t> {
    /// The service.
    pub service: &'t Service,
    /// The backend of the color chosen.
    pub backend: &'t Arc<Backend>,
    /// Whether the request came by a preview host.
    pub preview: bool,
}

impl Table {
    /// Builds the table of these services.
    pub fn new(services: Vec<Arc<Service>>, limits: Limits, trusted: Trusted) -> Table {
        let routes = Routes::new(&services);
        let slots = services.iter().enumerate();
        let slots =
            slots.flat_map(|(index, service)| service.backends.iter().map(move |backend| (backend.slot, index)));
        let slots = slots.collect();
        let names = services.iter().enumerate().map(|(index, service)| (service.name.clone(), index)).collect();
        Table { services, limits, trusted, pages: Arc::default(), routes, names, slots }
    }

    /// The same with these pages.
    pub fn with_pages(self, pages: Arc<Pages>) -> Table {
        Table { pages, ..self }
    }

    /// Where a request for this host (as sent: any case, perhaps with a port) and path goes.
    ///
    /// The most specific host with a matching path wins: exact, then the longest wildcard, then services without
    /// hosts; among its paths the longest prefix.
    pub fn destination(&self, host: &str, path: &str) -> Option<Destination<'_>> {
        let route = self.routes.find(host, path)?;
        let service = &self.services[route.service];
        let backend = if route.preview { &service.preview } else { &service.live };
        Some(Destination { service, backend, preview: route.preview })
    }

    /// Whether this address's word on who the client is counts.
    pub fn trusts(&self, address: IpAddr) -> bool {
        is_among(address, &self.trusted.proxies)
    }

    /// Whether limits by address do not count this client.
    pub fn exempts(&self, client: IpAddr) -> bool {
        is_among(client, &self.limits.exempt)
    }

    /// The service this backend belongs to, unless another backend has its slot by now.
    pub fn owner(&self, backend: &Backend) -> Option<&Service> {
        let service = &self.services[*self.slots.get(&backend.slot)?];
        service.backends.iter().any(|b| b.id == backend.id).then_some(service)
    }

    /// The service of this name.
    pub fn service(&self, name: &ServiceName) -> Option<&Arc<Service>> {
        self.services.get(*self.names.get(name)?)
    }
}

fn is_among(address: IpAddr, ranges: &[ipnet::IpNet]) -> bool {
    // A socket that speaks IPv6 shows IPv4 addresses in a form of its own.
    let address = address.to_canonical();
    ranges.iter().any(|range| range.contains(&address))
}

/// Hosts and path prefixes, indexed.
#[derive(Debug, Default)]
struct Routes {
    exact: HashMap<String, Vec<Route>>,
    below: HashMap<String, Vec<Route>>,
    any: Vec<Route>,
}

#[derive(Debug)]
struct Route {
    prefix: PathPrefix,
    service: usize,
    preview: bool,
}

/// No valid host name is longer (RFC 1035, section 2.3.4); a longer one matches nothing but "every host".
const LONGEST_HOST: usize = 255;

impl Routes {
    fn new(services: &[Arc<Service>]) -> Routes {
        let mut routes = Routes::default();
        for (index, service) in services.iter().enumerate() {
            let config = &service.config;
            for prefix in &config.paths {
                let route = |preview| Route { prefix: prefix.clone(), service: index, preview };
                if config.hosts.is_empty() {
                    routes.any.push(route(false));
                }
                for host in &config.hosts {
                    routes.of(host).push(route(false));
                }
                for host in &config.preview.hosts {
                    routes.of(host).push(route(true));
                }
            }
        }
        let lists = routes.exact.values_mut().chain(routes.below.values_mut());
        for list in lists.chain([&mut routes.any]) {
            list.sort_by_key(|route| std::cmp::Reverse(route.prefix.as_str().len()));
        }
        routes
    }

    fn of(&mut self, host: &Host) -> &mut Vec<Route> {
        let map = if host.is_wildcard() { &mut self.below } else { &mut self.exact };
        map.entry(host.name().to_owned()).or_default()
    }

    fn find(&self, host: &str, path: &str) -> Option<&Route> {
        if self.exact.is_empty() && self.below.is_empty() {
            return longest(&self.any, path);
        }
        let name = without_root(split_port(host).0);
        if name.len() <= LONGEST_HOST {
            // Lower case on the stack: no allocation per request.
            let mut buffer = [0; LONGEST_HOST];
            let lower = &mut buffer[..name.len()];
            lower.copy_from_slice(name.as_bytes());
            lower.make_ascii_lowercase();
            if let Ok(name) = std::str::from_utf8(lower)
                && let Some(route) = self.find_host(name, path)
            {
                return Some(route);
            }
        }
        longest(&self.any, path)
    }

    fn find_host(&self, name: &str, path: &str) -> Option<&Route> {
        if let Some(route) = self.exact.get(name).and_then(|list| longest(list, path)) {
            return Some(route);
        }
        if self.below.is_empty() {
            return None;
        }
        let mut rest = name;
        while let Some((_, parent)) = rest.split_once('.') {
            if let Some(route) = self.below.get(parent).and_then(|list| longest(list, path)) {
                return Some(route);
            }
            rest = parent;
        }
        None
    }
}

/// The first match is the longest one: lists are sorted.
fn longest<'r>(list: &'r [Route], path: &str) -> Option<&'r Route> {
    list.iter().find(|route| route.prefix.covers(path))
}

/// Name and port of a host as it was sent; without a port, that is empty. An IPv6 address keeps its brackets.
pub fn split_port(host: &str) -> (&str, &str) {
    match host.rsplit_once(':') {
        // A colon inside brackets belongs to an IPv6 address.
        Some((name, port)) if !port.contains(']') => (name, port),
        _ => (host, ""),
    }
}

/// A host's name without the root's dot.
pub fn without_root(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn color(name: &str) -> Color {
        Color::try_from(name.to_owned()).expect("a color")
    }

    /// A color's backend in this slot, with a cell for each worker.
    pub(crate) fn backend(slot: usize, name: &str, workers: usize) -> Arc<Backend> {
        Arc::new(Backend {
            slot,
            id: 1,
            service: "portal".parse().expect("a name"),
            color: color(name),
            address: Address::Unix("/x".into()),
            protocol: Protocol::Http1,
            send_proxy: false,
            cells: (0..workers).map(|_| Cell::default()).collect(),
        })
    }

    /// A table of services given as (name, hosts, paths, preview hosts), blue live and green preview.
    type Given<'a> = (&'a str, &'a [&'a str], &'a [&'a str], &'a [&'a str]);

    fn table(services: &[Given<'_>]) -> Table {
        let hosts = |list: &[&str]| list.iter().map(|h| Host::try_from((*h).to_owned()).expect("a host")).collect();
        let mut id = 0;
        let services = services.iter().map(|(name, names, paths, preview)| {
            let name = ServiceName::try_from((*name).to_owned()).expect("a name");
            let backends: Vec<_> = ["blue", "green"]
                .map(|c| {
                    id += 1;
                    Arc::new(Backend {
                        slot: id as usize,
                        id,
                        service: name.clone(),
                        color: color(c),
                        address: Address::Unix("/x".into()),
                        protocol: Protocol::Http1,
                        send_proxy: false,
                        cells: Arc::from([Cell::default(), Cell::default()]),
                    })
                })
                .into();
            let config = bgproxy_conf::Service {
                hosts: hosts(names),
                paths: paths.iter().map(|p| PathPrefix::try_from((*p).to_owned()).expect("a prefix")).collect(),
                preview: bgproxy_conf::Preview { hosts: hosts(preview) },
                ..Default::default()
            };
            let (live, preview) = (backends[0].clone(), backends[1].clone());
            Arc::new(Service { name, generation: 1, live, preview, backends, config })
        });
        let trusted = Trusted { proxies: vec!["127.0.0.0/8".parse().expect("a range")], forwarded: false };
        Table::new(services.collect(), Limits::default(), trusted)
    }

    fn found(table: &Table, host: &str, path: &str) -> Option<(String, String)> {
        let to = table.destination(host, path)?;
        Some((to.service.name.to_string(), to.backend.color.to_string()))
    }

    fn is(name: &str, color: &str) -> Option<(String, String)> {
        Some((name.to_owned(), color.to_owned()))
    }

    #[test]
    fn the_most_specific_host_wins_then_the_longest_path() {
        let t = table(&[
            ("all", &[], &["/"], &[]),
            ("wild", &["*.example.com"], &["/"], &[]),
            ("deep", &["*.eu.example.com"], &["/"], &[]),
            ("shop", &["shop.example.com"], &["/"], &["test.example.com"]),
            ("cart", &["shop.example.com"], &["/cart"], &[]),
        ]);
        assert_eq!(found(&t, "shop.example.com", "/"), is("shop", "blue"));
        assert_eq!(found(&t, "SHOP.Example.com:8080", "/cart"), is("cart", "blue"));
        assert_eq!(found(&t, "shop.example.com.", "/cart/1"), is("cart", "blue"));
        assert_eq!(found(&t, "shop.example.com", "/cartoon"), is("shop", "blue"));
        assert_eq!(found(&t, "a.b.example.com", "/"), is("wild", "blue"));
        assert_eq!(found(&t, "a.eu.example.com", "/"), is("deep", "blue"));
        assert_eq!(found(&t, "example.com", "/"), is("all", "blue"));
        assert_eq!(found(&t, "test.example.com", "/"), is("shop", "green"));
        assert_eq!(found(&t, "[::1]:80", "/"), is("all", "blue"));
        assert_eq!(found(&t, &"a".repeat(300), "/"), is("all", "blue"));
        assert_eq!(found(&t, "", "/"), is("all", "blue"));
    }

    #[test]
    fn a_host_without_a_matching_path_falls_back_to_a_less_specific_one() {
        let t = table(&[("all", &["*.example.com"], &["/"], &[]), ("api", &["api.example.com"], &["/v1"], &[])]);
        assert_eq!(found(&t, "api.example.com", "/v1/x"), is("api", "blue"));
        assert_eq!(found(&t, "api.example.com", "/v2"), is("all", "blue"));
        assert_eq!(found(&t, "example.org", "/"), None);
    }

    #[test]
    fn a_service_is_found_by_its_name_and_a_backend_by_its_slot() {
        let t = table(&[("b", &["b.example.com"], &["/"], &[]), ("a", &["a.example.com"], &["/"], &[])]);
        for service in &t.services {
            assert_eq!(t.service(&service.name).map(|found| &found.name), Some(&service.name));
            for backend in &service.backends {
                assert_eq!(t.owner(backend).map(|found| &found.name), Some(&service.name));
            }
        }
        assert!(t.service(&"c".parse().expect("a name")).is_none());
        assert!(t.owner(&backend(99, "blue", 1)).is_none());
    }

    #[test]
    fn a_service_is_for_those_allowed_and_not_for_those_denied() {
        let admits = |allow: &[&str], deny: &[&str], client: &str| {
            let ranges = |list: &[&str]| list.iter().map(|range| range.parse().expect("a range")).collect();
            let config =
                bgproxy_conf::Service { allow: ranges(allow), deny: ranges(deny), ..bgproxy_conf::Service::default() };
            let live = backend(0, "blue", 1);
            let name = "portal".parse().expect("a name");
            let backends = vec![live.clone()];
            let service = Service { name, generation: 1, preview: live.clone(), live, backends, config };
            service.admits(client.parse().expect("an address"))
        };
        assert!(admits(&[], &[], "192.0.2.1"));
        assert!(admits(&["192.0.2.0/24"], &[], "192.0.2.1"));
        assert!(admits(&["192.0.2.0/24"], &[], "::ffff:192.0.2.1"), "the same address on an IPv6 socket");
        assert!(!admits(&["192.0.2.0/24"], &[], "192.0.3.1"));
        assert!(!admits(&["192.0.2.0/24"], &[], "2001:db8::1"));
        assert!(!admits(&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.1"), "deny wins");
        assert!(admits(&["192.0.2.0/24"], &["192.0.2.1/32"], "192.0.2.2"));
        assert!(!admits(&[], &["2001:db8::/32"], "2001:db8::1"));
        assert!(admits(&[], &["2001:db8::/32"], "2001:db9::1"));
    }

    #[test]
    fn an_address_is_trusted_by_range() {
        let t = table(&[]);
        assert!(t.trusts("127.9.9.9".parse().expect("an address")));
        assert!(t.trusts("::ffff:127.9.9.9".parse().expect("an address")), "the same address on an IPv6 socket");
        assert!(!t.trusts("10.0.0.1".parse().expect("an address")));
    }
}
