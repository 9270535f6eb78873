//! Can clients connect? Addresses, TLS and its certificates, the PROXY protocol.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::{File, Step, absolute, key, plain};
use crate::{Config, ConfigError, Listen, ProxyProtocol};

/// The rules of the listeners.
pub(super) fn check(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    addresses(file, config)?;
    certificates(file, config)?;
    for (index, listen) in config.listen.iter().enumerate() {
        tls(file, config, index, listen)?;
        proxy_protocol(file, config, index, listen)?;
    }
    Ok(())
}

/// Whether anybody can connect by TLS.
pub(super) fn have_tls(config: &Config) -> bool {
    config.listen.iter().any(|listen| listen.tls)
}

fn addresses(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    if config.listen.is_empty() {
        let hint = "write `[[listen]]` and below it `address = \"0.0.0.0:80\"`";
        return file.fault([key("listen")], "`listen` has no address", hint);
    }
    let mut seen: BTreeMap<SocketAddr, usize> = BTreeMap::new();
    for (index, listen) in config.listen.iter().enumerate() {
        let address = listen.address;
        // Every port 0 takes another free one.
        if address.port() == 0 {
            continue;
        }
        let at = [key("listen"), Step::Index(index), key("address")];
        if let Some(first) = seen.insert(address, index) {
            let message = format!("`{address}` is listened on twice");
            let hint = file.remove_one(&[key("listen"), Step::Index(first), key("address")]);
            return file.fault(at, message, hint);
        }
    }
    let admin = config.admin.address;
    if let Some(listen) = config.listen.iter().find(|listen| overlap(admin, listen.address)) {
        let at = match file.find(&[key("admin"), key("address")]) {
            Some(_) => vec![key("admin"), key("address")],
            None => vec![key("listen")],
        };
        let message = format!("`admin.address` {admin} is taken by the listener {}", listen.address);
        return file.fault(at, message, "give `admin.address` a port of its own, such as \"127.0.0.1:9180\"");
    }
    Ok(())
}

fn overlap(a: SocketAddr, b: SocketAddr) -> bool {
    let same_ip =
        a.ip() == b.ip() || (a.is_ipv4() == b.is_ipv4() && (a.ip().is_unspecified() || b.ip().is_unspecified()));
    same_ip && a.port() == b.port() && a.port() != 0
}

fn certificates(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let mut seen: BTreeMap<PathBuf, usize> = BTreeMap::new();
    for (index, certificate) in config.certificate.iter().enumerate() {
        let at = |name: &str| [key("certificate"), Step::Index(index), key(name)];
        let example = "a path such as \"/etc/bgproxy/portal.pem\"";
        absolute(file, at("cert"), "cert", &certificate.cert, example)?;
        absolute(file, at("key"), "key", &certificate.key, "a path such as \"/etc/bgproxy/portal.key\"")?;
        if let Some(first) = seen.insert(plain(&certificate.cert), index) {
            let message = format!("the certificate {} is there twice", certificate.cert.display());
            let first = [key("certificate"), Step::Index(first), key("cert")];
            return file.fault(at("cert"), message, file.remove_one(&first));
        }
    }
    Ok(())
}

fn tls(file: &File<'_>, config: &Config, index: usize, listen: &Listen) -> Result<(), ConfigError> {
    let at = |name: &str| [key("listen"), Step::Index(index), key(name)];
    if listen.tls && config.certificate.is_empty() && config.acme.hosts.is_empty() {
        let hint = "write `[[certificate]]` and below it `cert = \"...\"` and `key = \"...\"`, or fill in `[acme]`";
        return file.fault(at("tls"), "`tls` needs a certificate", hint);
    }
    if let Some(path) = &listen.client_ca {
        if !listen.tls {
            let hint = "add `tls = true`, or remove it: without TLS clients show no certificates";
            return file.fault(at("client_ca"), "`client_ca` is for listeners with `tls` only", hint);
        }
        absolute(file, at("client_ca"), "client_ca", path, "a path such as \"/etc/bgproxy/clients.pem\"")?;
    }
    if listen.redirect_https && listen.tls {
        let hint = "remove it here: it is for the listener in clear, such as \"0.0.0.0:80\"";
        return file.fault(at("redirect_https"), "`redirect_https` on a listener with `tls` would go in circles", hint);
    }
    let leads_there = |other: &Listen| other.tls && other.client_ca.is_none();
    if listen.redirect_https && !config.listen.iter().any(leads_there) {
        let hint =
            "add a `[[listen]]` with `tls = true`; if something in front of bgproxy speaks TLS, let that redirect";
        return file.fault(at("redirect_https"), "`redirect_https` has no listener with `tls` to lead to", hint);
    }
    Ok(())
}

fn proxy_protocol(file: &File<'_>, config: &Config, index: usize, listen: &Listen) -> Result<(), ConfigError> {
    if listen.proxy_protocol == ProxyProtocol::Required && config.trusted.proxies.is_empty() {
        let at = [key("listen"), Step::Index(index), key("proxy_protocol")];
        let message = "`proxy_protocol` is required, but `trusted.proxies` is empty, so nobody could connect";
        return file.fault(at, message, "write whose word counts into `trusted.proxies`, such as [\"10.0.0.0/24\"]");
    }
    Ok(())
}
