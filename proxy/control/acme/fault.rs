//! Why is there no certificate, and what is to be done? What the authority said, or what kept us from asking it.

use std::error::Error as _;

use instant_acme::{Error, Problem};

use super::https::{NoTrust, Unreached};
use crate::certificates;
use crate::control::state::StateError;

/// What the names of an authority's faults begin with (RFC 8555, section 6.7).
const URN: &str = "urn:ietf:params:acme:error:";

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Nobody can be trusted.
    #[error(transparent)]
    NoTrust(#[from] NoTrust),
    /// The authority was not reached, or said no.
    #[error("{}", said(.0))]
    Authority(#[from] Error),
    /// It looked at the host, and did not find what it should.
    #[error("the authority looked at the host and did not find us: {0}")]
    NotFound(String),
    /// It wants to see something that we cannot show.
    #[error("the authority does not offer the challenge {0}")]
    NotOffered(&'static str),
    /// The order did not come to what it should.
    #[error("the order is {0}, which is no use")]
    Order(String),
    /// The disk.
    #[error(transparent)]
    State(#[from] StateError),
    /// A key or a request for a certificate could not be made.
    #[error("no key can be made")]
    Key(#[from] rcgen::Error),
    /// What the authority gave is no use.
    #[error("what the authority gave cannot be used: {0}")]
    Useless(#[from] certificates::Fault),
    /// It is for somebody else.
    #[error("the authority gave a certificate for {0:?}")]
    Misnamed(Vec<String>),
    /// It is due to be renewed already.
    #[error("the certificate that the authority gave is due to be renewed already")]
    Stale,
    /// It took too long altogether.
    #[error("it took more than {0} seconds")]
    Late(u64),
    /// A mistake of ours.
    #[error("bgproxy failed ({0}); please report it")]
    Panic(#[from] tokio::task::JoinError),
}

/// With the errors below it, which instant-acme keeps to itself.
fn said(error: &Error) -> String {
    match error {
        Error::Api(problem) => problem_said(problem),
        error => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(below) = source {
                let below_said = below.to_string();
                if !text.ends_with(&below_said) {
                    text = format!("{text}: {below_said}");
                }
                source = below.source();
            }
            text
        }
    }
}

/// What an authority says is wrong, in one line.
pub(super) fn problem_said(problem: &Problem) -> String {
    let name = problem.r#type.as_deref().map(|name| name.strip_prefix(URN).unwrap_or(name));
    let text = [problem.detail.as_deref().unwrap_or("no detail given"), " (", name.unwrap_or("no type"), ")"].concat();
    // Of somebody else's making: it shall not break out of its line.
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect()
}

impl Fault {
    /// The authority does not know the account that we have with it.
    pub(super) fn is_of_account(&self) -> bool {
        self.kind() == Some("accountDoesNotExist")
    }

    /// The name of what the authority says is wrong.
    fn kind(&self) -> Option<&str> {
        match self {
            Fault::Authority(Error::Api(problem)) => problem.r#type.as_deref()?.strip_prefix(URN),
            _ => None,
        }
    }

    fn unreached(&self) -> Option<&Unreached> {
        match self {
            Fault::Authority(Error::Other(other)) => other.downcast_ref(),
            _ => None,
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match (self, self.kind(), self.unreached()) {
            (Fault::NoTrust(NoTrust::System), ..) => "install `ca-certificates`, or name a file in `acme.ca`",
            (Fault::NoTrust(_), ..) => "correct `acme.ca`",
            (_, _, Some(Unreached::Tls { .. })) => {
                "if the directory is not a public one, name the authority that signed its certificate in `acme.ca`"
            }
            (_, _, Some(_)) => "see whether this host reaches `acme.directory`",
            (_, Some("invalidContact" | "unsupportedContact"), _) => "correct `acme.email`",
            (_, Some("rateLimited"), _) => "nothing but wait; the authority counts what was asked for before",
            (_, Some("rejectedIdentifier" | "caa"), _) => {
                "the authority gives no certificate for this host: see its policy, and the CAA records of the domain"
            }
            (_, Some("externalAccountRequired" | "userActionRequired"), _) => {
                "the authority wants something done that bgproxy cannot do: see its documentation"
            }
            (Fault::NotFound(_), ..)
            | (_, Some("connection" | "dns" | "unauthorized" | "incorrectResponse" | "tls"), _) => {
                "the host's DNS must lead here, and so must port 80 for `http-01` and port 443 for `tls-alpn-01`"
            }
            (Fault::NotOffered(_), ..) => "see `acme.challenge`",
            (Fault::State(_), ..) => "the user that bgproxy runs as must be able to write into `state.dir`",
            (Fault::Stale, ..) => "see whether this host's clock is right",
            _ => "see the authority's documentation; bgproxy tries again by itself",
        }
    }
}
