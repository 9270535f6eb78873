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
    /// How often somebody asked for a reload, and did not only change a file.
    asked: u64,
}

impl Wanted {
    /// What this configuration wants.
    pub fn of(config: &Config) -> Wanted {
        let can = |challenge| config.listen.iter().any(|listen| listen.answers(challenge));
        Wanted {
            config: config.acme.clone(),
            by_request: can(Challenge::Http01),
            by_handshake: can(Challenge::TlsAlpn01),
            asked: 0,
        }
    }

    /// What is wanted after what was wanted before; whether somebody asked for the reload between them.
    pub fn after(self, before: &Wanted, is_asked: bool) -> Wanted {
        Wanted { asked: before.asked + u64::from(is_asked), ..self }
    }

    /// Whether this is worth a try at once of what failed before: somebody asks for it, or wants something else.
    pub(super) fn hurries(&self, before: &Wanted) -> bool {
        self != before
    }

    /// Whether another one wants a host's certificate in the same way.
    pub(super) fn agrees(&self, other: &Wanted, host: &Host) -> bool {
        let manner = |wanted: &Wanted| Wanted {
            config: Acme { hosts: Vec::new(), ..wanted.config.clone() },
            asked: 0,
            ..*wanted
        };
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
