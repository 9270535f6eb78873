//! Can certificates be fetched? Terms, hosts that can be proven, an authority that can be asked, a listener where it
//! can look.

use std::collections::BTreeMap;

use super::{File, Step, absolute, key, listeners};
use crate::{Challenge, Config, ConfigError, Host, Listen};

/// The rules of `[acme]`.
pub(super) fn check(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let acme = &config.acme;
    if let Some(email) = &acme.email
        && !is_address(email)
    {
        let message = "`acme.email` is not an address";
        return file.fault([key("acme"), key("email")], message, "write \"hostmaster@example.com\", for example");
    }
    if !is_directory(&acme.directory) {
        let message = "`acme.directory` is not a URL over HTTPS";
        let hint = "write \"https://acme-v02.api.letsencrypt.org/directory\", or your own authority's";
        return file.fault([key("acme"), key("directory")], message, hint);
    }
    if let Some(path) = &acme.ca {
        absolute(file, [key("acme"), key("ca")], "acme.ca", path, "a path such as \"/etc/bgproxy/authority.pem\"")?;
    }
    hosts(file, &acme.hosts)?;
    if acme.hosts.is_empty() {
        return Ok(());
    }
    if !acme.terms_agreed {
        let hint = "read the authority's terms of service, and write `terms_agreed = true` below `[acme]` if you agree";
        return file.fault([key("acme"), key("terms_agreed")], "`acme.hosts` needs `acme.terms_agreed`", hint);
    }
    challenge(file, config)?;
    if !listeners::have_tls(config) {
        let hint = "add a `[[listen]]` with `tls = true`, such as at \"0.0.0.0:443\"";
        let message = "`acme.hosts` has no listener with `tls` to be used on";
        return file.fault([key("acme"), key("hosts")], message, hint);
    }
    Ok(())
}

fn hosts(file: &File<'_>, hosts: &[Host]) -> Result<(), ConfigError> {
    let mut seen = BTreeMap::new();
    for (index, host) in hosts.iter().enumerate() {
        let at = |index| [key("acme"), key("hosts"), Step::Index(index)];
        if host.is_wildcard() {
            let message = format!("`{host}` cannot be fetched: an authority wants to see it in DNS");
            let hint = "name the hosts one by one, or fetch it by another program and write it as `[[certificate]]`";
            return file.fault(at(index), message, hint);
        }
        if host.is_address() {
            let message = format!("`{host}` is an address, not a name");
            return file.fault(at(index), message, "write a name such as \"portal.example.com\"");
        }
        if let Some(first) = seen.insert(host, index) {
            return file.fault(at(index), format!("`{host}` is there twice"), file.remove_one(&at(first)));
        }
    }
    Ok(())
}

fn challenge(file: &File<'_>, config: &Config) -> Result<(), ConfigError> {
    let at = [key("acme"), key("challenge")];
    let can = |challenge| config.listen.iter().any(|listen| listen.answers(challenge));
    match config.acme.challenge {
        Challenge::Http01 if !can(Challenge::Http01) => {
            let hint = "add a `[[listen]]` without `tls`, which the host's port 80 leads to";
            file.fault(at, "`http-01` needs a listener in clear", hint)
        }
        Challenge::TlsAlpn01 if !can(Challenge::TlsAlpn01) => {
            let hint =
                "add a `[[listen]]` with `tls = true` and without `client_ca`, which the host's port 443 leads to";
            file.fault(at, "`tls-alpn-01` needs a listener with `tls` for everybody", hint)
        }
        Challenge::Auto if !can(Challenge::Auto) => {
            let hint = "add a `[[listen]]` without `tls`, which the hosts' port 80 leads to";
            file.fault([key("acme"), key("hosts")], "an authority could not look at any listener", hint)
        }
        _ => Ok(()),
    }
}

impl Listen {
    /// Whether an authority can look here in this way.
    pub fn answers(&self, challenge: Challenge) -> bool {
        let open_to_all = self.tls && self.client_ca.is_none();
        match challenge {
            Challenge::Http01 => !self.tls,
            Challenge::TlsAlpn01 => open_to_all,
            Challenge::Auto => !self.tls || open_to_all,
        }
    }
}

/// As far as anybody but its own server can tell.
fn is_address(email: &str) -> bool {
    let parts = email.split_once('@');
    parts.is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty() && !domain.contains('@'))
        && email.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b',' | b'<' | b'>'))
}

fn is_directory(url: &str) -> bool {
    let Some(rest) = url.strip_prefix("https://") else { return false };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    // What stands behind the last bracket of an IPv6 address, or behind a name.
    let after = authority.rfind(']').map_or(authority, |at| &authority[at + 1..]);
    let has_port = after.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0));
    let has_host = !authority.is_empty() && !authority.starts_with(':') && !authority.contains(['@', '#']);
    has_host && has_port && url.bytes().all(|b| b.is_ascii_graphic())
}
