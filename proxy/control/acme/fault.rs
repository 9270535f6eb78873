//! Why is there no certificate, and what is to be done? What the authority said, or what kept us from asking it.

use std::time::Duration;

use instant_acme::{Error, Problem};

use super::https::{NoTrust, Unreached};
use crate::certificates;
use crate::control::state::StateError;

/// What the names of an authority's faults begin with (RFC 8555, section 6.7).
const URN: &str = "urn:ietf:params:acme:error:";

/// Characters that are told of a fault.
const LONGEST: usize = 500;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// Nobody can be trusted.
    #[error(transparent)]
    NoTrust(#[from] NoTrust),
    /// The authority was not reached, or said no.
    #[error("{}", said(.0))]
    Authority(#[from] Error),
    /// It knows who we are, and wants nothing to do with us.
    #[error("the authority refuses our account: {0}")]
    Account(String),
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
    /// It is not of this time.
    #[error("the authority gave a certificate that is valid from {not_before} to {not_after}, which is not now")]
    Untimely {
        /// Its first second.
        not_before: String,
        /// Its last one.
        not_after: String,
    },
    /// It could not be put on disk.
    #[error("there is a new certificate, and it is in use, but only until a restart: {}", .0.told())]
    Unkept(Box<Fault>),
    /// It is due to be renewed already.
    #[error("the certificate that the authority gave is due to be renewed already")]
    Stale,
    /// It took too long altogether.
    #[error("it took more than {0} seconds")]
    Late(u64),
    /// The disk takes too long.
    #[error("the disk does not answer")]
    Disk,
    /// We were ended meanwhile.
    #[error("bgproxy ended while it was asking")]
    BrokenOff,
    /// A mistake of ours.
    #[error("bgproxy failed, as its log tells; please report it")]
    Panic,
}

/// Why a try failed.
pub(super) struct Failed {
    /// What it failed of.
    pub(super) fault: Fault,
    /// Whether the authority was asked anything. Where that is not known, it was.
    pub(super) asked: bool,
    /// How long the authority wants to be left alone.
    pub(super) put_off: Option<Duration>,
}

impl From<Fault> for Failed {
    fn from(fault: Fault) -> Failed {
        Failed { fault, asked: true, put_off: None }
    }
}

impl Failed {
    /// All of it, and what to do, for people.
    pub(super) fn told(&self) -> String {
        format!("{}; {}", self.fault.told(), self.hint())
    }

    /// What kept us from asking anybody.
    pub(super) fn before_asking(fault: Fault) -> Failed {
        Failed { asked: false, ..Failed::from(fault) }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> String {
        let hint = self.fault.hint();
        // Where nothing is tried before its time, or should not be, it would be no help.
        let waits = self.put_off.is_some() || self.fault.is_of_rate();
        if waits { hint.to_owned() } else { format!("{hint}; `bgctl reload` tries at once") }
    }
}

/// With the errors below it, which instant-acme keeps to itself.
fn said(error: &Error) -> String {
    match error {
        Error::Api(problem) => problem_said(problem),
        // Whatever else it is, it came with a status that says yes.
        Error::Json(error) => format!("its answer is not what ACME prescribes: {error}"),
        error => with_sources(error),
    }
}

fn with_sources(error: &dyn std::error::Error) -> String {
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

/// What an authority says is wrong.
pub(super) fn problem_said(problem: &Problem) -> String {
    let name = problem.r#type.as_deref().map(|name| name.strip_prefix(URN).unwrap_or(name));
    [problem.detail.as_deref().unwrap_or("no detail given"), " (", name.unwrap_or("no type"), ")"].concat()
}

fn kind(problem: &Problem) -> Option<&str> {
    problem.r#type.as_deref()?.strip_prefix(URN)
}

impl Fault {
    /// An authority that was not reached.
    pub(super) fn unreached(unreached: Unreached) -> Fault {
        Fault::Authority(Error::Other(Box::new(unreached)))
    }

    /// An order that was refused. Nobody has looked at the host yet, so what is not authorized is the account: it was
    /// deactivated (RFC 8555, section 7.3.6).
    pub(super) fn of_order(error: Error) -> Fault {
        match Fault::Authority(error) {
            Fault::Authority(Error::Api(problem)) if kind(&problem) == Some("unauthorized") => {
                Fault::Account(problem_said(&problem))
            }
            fault => fault,
        }
    }

    /// All of it in one line, for people.
    pub(super) fn told(&self) -> String {
        let text = match self {
            // What the kernel said is below.
            Fault::State(error) => with_sources(error),
            fault => fault.to_string(),
        };
        // Much of it is of somebody else's making: it shall neither break out of its line nor fill the screen.
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(LONGEST).collect()
    }

    /// The authority refuses this order, and might not refuse another one.
    pub(super) fn is_of_order(&self) -> bool {
        match self {
            Fault::Authority(Error::Api(_)) => !self.is_of_account() && !self.is_of_rate(),
            Fault::Authority(Error::Unsupported(_)) => true,
            // It does not repeat what the order is to replace.
            Fault::Authority(Error::Other(_)) => self.unreached_by().is_none(),
            _ => false,
        }
    }

    /// There is a certificate all the same.
    pub(super) fn is_afterwards(&self) -> bool {
        matches!(self, Fault::Unkept(_) | Fault::Stale)
    }

    /// The authority does not know the account that we have with it.
    pub(super) fn is_of_account(&self) -> bool {
        self.kind() == Some("accountDoesNotExist")
    }

    /// The authority counts what it is asked for, and that was too much.
    pub(super) fn is_of_rate(&self) -> bool {
        self.kind() == Some("rateLimited")
    }

    /// The name of what the authority says is wrong.
    fn kind(&self) -> Option<&str> {
        match self {
            Fault::Authority(Error::Api(problem)) => kind(problem),
            _ => None,
        }
    }

    fn unreached_by(&self) -> Option<&Unreached> {
        match self {
            Fault::Authority(Error::Other(other)) => other.downcast_ref(),
            _ => None,
        }
    }

    /// What to do about it.
    pub(super) fn hint(&self) -> &'static str {
        match (self, self.kind(), self.unreached_by()) {
            (Fault::NoTrust(NoTrust::System), ..) => "install `ca-certificates`, or name a file in `acme.ca`",
            (Fault::NoTrust(_), ..) => "correct `acme.ca`",
            (_, _, Some(Unreached::Tls { .. })) => {
                "if the directory is not a public one, name the authority that signed its certificate in `acme.ca`"
            }
            (_, _, Some(Unreached::NoUrl(_) | Unreached::Moved { .. })) | (Fault::Authority(Error::Json(_)), ..) => {
                "see whether `acme.directory` is the URL of the authority's directory"
            }
            (_, _, Some(Unreached::Failing(_))) => {
                "see whether `acme.directory` is right, and the authority well; bgproxy tries again by itself"
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
            (Fault::Account(_), ..) => "if it was deactivated, remove `state.dir/acme/account.json` to get a new one",
            (Fault::NotFound(_), ..)
            | (_, Some("connection" | "dns" | "unauthorized" | "incorrectResponse" | "tls"), _) => {
                "the host's DNS must lead here, and so must port 80 for `http-01` and port 443 for `tls-alpn-01`"
            }
            (Fault::NotOffered(_), ..) => "see `acme.challenge`",
            (Fault::State(_), ..) => {
                "the user that bgproxy runs as must be able to write into `state.dir`, and its disk must have room"
            }
            (Fault::Unkept(below), ..) => below.hint(),
            (Fault::Panic, ..) => "bgproxy tries again by itself",
            (Fault::BrokenOff, ..) => "nothing, if it was a restart",
            (Fault::Disk, ..) => "see whether the disk that `state.dir` is on is well",
            (Fault::Stale | Fault::Untimely { .. }, ..) => "see whether this host's clock is right",
            _ => "see the authority's documentation; bgproxy tries again by itself",
        }
    }
}
