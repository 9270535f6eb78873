//! Which certificates does a configuration want, and how can an authority see that their hosts are ours?

use bgproxy_conf::{Acme, Challenge, Config, Host};
use instant_acme::ChallengeType;

/// What is wanted; another one after each reload.
#[derive(Debug, Clone, PartialEq)]
pub struct Wanted {
    pub(super) config: Acme,
    /// Where an authority can look.
    by_request: bool,
    by_handshake: bool,
}

impl Wanted {
    /// What this configuration wants.
    pub fn of(config: &Config) -> Wanted {
        let can = |challenge| config.listen.iter().any(|listen| listen.answers(challenge));
        Wanted {
            config: config.acme.clone(),
            by_request: can(Challenge::Http01),
            by_handshake: can(Challenge::TlsAlpn01),
        }
    }

    /// Whether another one wants a host's certificate in the same way.
    pub(super) fn agrees(&self, other: &Wanted, host: &Host) -> bool {
        let manner =
            |wanted: &Wanted| Wanted { config: Acme { hosts: Vec::new(), ..wanted.config.clone() }, ..*wanted };
        other.config.hosts.contains(host) && manner(self) == manner(other)
    }

    /// How the authority is to look, after so many failures: where both ways are open, by turns.
    pub(super) fn challenge(&self, failures: u32) -> ChallengeType {
        let by_handshake = match self.config.challenge {
            Challenge::Http01 => false,
            Challenge::TlsAlpn01 => true,
            Challenge::Auto => self.by_handshake && (!self.by_request || failures % 2 == 1),
        };
        if by_handshake { ChallengeType::TlsAlpn01 } else { ChallengeType::Http01 }
    }
}
