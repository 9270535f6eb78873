//! What does a request cost by TLS, by HTTP/2, or with a handshake of its own?

use std::time::Duration;

use crate::load::h2load::{CONNECTIONS, STREAMS};
use crate::load::handshakes::NEWCOMERS;
use crate::load::wrk::Wrk;
use crate::load::{charged, h2load, handshakes};
use crate::metric::Turn;
use crate::participants::{Participant, Who};
use crate::row::{About, Row, Target};
use crate::site::Site;

pub(super) fn all() -> Vec<Box<dyn Row>> {
    vec![Box::new(Secure::TlsH1), Box::new(Secure::TlsH2), Box::new(Secure::Handshake), Box::new(Secure::H2c)]
}

const WRK: Wrk = Wrk { connections: 64, path: "/", script: None };

#[derive(Clone, Copy, PartialEq, Eq)]
enum Secure {
    TlsH1,
    TlsH2,
    Handshake,
    H2c,
}

impl Row for Secure {
    fn about(&self) -> About {
        let shared = format!("h2load, {CONNECTIONS} connections x {STREAMS} streams");
        let (id, title, what) = match self {
            Secure::TlsH1 => {
                ("tls-h1", "TLS, HTTP/1.1", "GET of 612 bytes, keep-alive (wrk, 64 connections)".to_owned())
            }
            Secure::TlsH2 => ("tls-h2", "TLS, HTTP/2", format!("GET of 612 bytes ({shared})")),
            Secure::Handshake => (
                "tls-handshake",
                "full TLS 1.3 handshakes",
                format!("ECDSA P-256, X25519, nothing resumed, one GET of 612 bytes each ({NEWCOMERS} at once)"),
            ),
            Secure::H2c => ("h2c", "HTTP/2 in clear", format!("GET of 612 bytes, prior knowledge ({shared})")),
        };
        let handshake = *self == Secure::Handshake;
        About {
            id,
            title: title.to_owned(),
            what,
            unit: if handshake { "handshake" } else { "request" },
            targets: if handshake { Target::cpu_and_rate(0.9, 0.7) } else { Target::cpu_and_rate(1.0, 0.8) },
            quick: matches!(self, Secure::TlsH2 | Secure::Handshake),
        }
    }

    fn takes(&self, who: &Who) -> bool {
        who.is_usual() && who.kind.is_whole()
    }

    fn turn(&self, site: &Site, participant: &Participant, seconds: u32) -> anyhow::Result<Turn> {
        let secure = participant.secure()?;
        charged(participant, || match self {
            // wrk says in its hello what its URL says, and Caddy has no certificate for an address.
            Secure::TlsH1 => WRK.run(&format!("https://localhost:{}", secure.port()), seconds),
            Secure::TlsH2 => h2load::run(secure, true, seconds),
            Secure::H2c => h2load::run(participant.h2c()?, false, seconds),
            Secure::Handshake => {
                let time = Duration::from_secs(seconds.into());
                handshakes::run(secure, site.certificate.authority()?, time)
            }
        })
    }
}
