//! What does an authority find that looks whether a host is ours? The answer to its challenge, as long as there is one.
//!
//! Control puts an answer here before it tells the authority to look, and takes it away when the authority has looked.
//! Workers look here without a lock, and only where a client asks as authorities do.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use rustls::sign::CertifiedKey;

/// What an authority says that it speaks inside of TLS when it looks (RFC 8737, section 6.2).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The answers to the challenges that are pending.
#[derive(Default)]
pub struct Challenges(ArcSwap<Answers>);

#[derive(Default, Clone)]
struct Answers {
    requests: HashMap<String, Bytes>,
    handshakes: HashMap<String, Arc<CertifiedKey>>,
}

/// An answer in its place; it is taken away when this is dropped.
#[derive(Debug)]
#[must_use = "the answer is there only as long as this"]
pub struct Posted {
    challenges: Arc<Challenges>,
    place: Place,
}

/// Where an authority looks.
#[derive(Debug)]
enum Place {
    /// By a request for this token.
    Request(String),
    /// By a handshake with this host.
    Handshake(String),
}

impl Challenges {
    /// The answer to a request for this token.
    pub fn to_request(&self, token: &str) -> Option<Bytes> {
        self.0.load().requests.get(token).cloned()
    }

    /// The certificate that answers an authority's handshake with this host.
    pub fn to_handshake(&self, host: &str) -> Option<Arc<CertifiedKey>> {
        self.0.load().handshakes.get(host).cloned()
    }

    /// From now on, a request for this token is answered so (RFC 8555, section 8.3).
    pub fn answer_request(self: &Arc<Self>, token: &str, answer: Bytes) -> Posted {
        self.change(|answers| {
            answers.requests.insert(token.to_owned(), answer.clone());
        });
        Posted { challenges: self.clone(), place: Place::Request(token.to_owned()) }
    }

    /// From now on, an authority's handshake with this host is answered with this certificate.
    pub fn answer_handshake(self: &Arc<Self>, host: &str, key: &Arc<CertifiedKey>) -> Posted {
        self.change(|answers| {
            answers.handshakes.insert(host.to_owned(), key.clone());
        });
        Posted { challenges: self.clone(), place: Place::Handshake(host.to_owned()) }
    }

    fn change(&self, change: impl Fn(&mut Answers)) {
        self.0.rcu(|answers| {
            let mut answers = Answers::clone(answers);
            change(&mut answers);
            answers
        });
    }
}

impl Drop for Posted {
    fn drop(&mut self) {
        self.challenges.change(|answers| match &self.place {
            Place::Request(token) => drop(answers.requests.remove(token)),
            Place::Handshake(host) => drop(answers.handshakes.remove(host)),
        });
    }
}

impl fmt::Debug for Challenges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let answers = self.0.load();
        f.debug_struct("Challenges")
            .field("requests", &answers.requests.keys())
            .field("handshakes", &answers.handshakes.keys())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_there_until_it_is_taken_away() {
        let challenges = Arc::new(Challenges::default());
        let first = challenges.answer_request("a", Bytes::from_static(b"a.thumb"));
        let second = challenges.answer_request("b", Bytes::from_static(b"b.thumb"));
        assert_eq!(challenges.to_request("a").as_deref(), Some(b"a.thumb".as_slice()));
        drop(first);
        assert_eq!(challenges.to_request("a"), None);
        assert_eq!(challenges.to_request("b").as_deref(), Some(b"b.thumb".as_slice()));
        drop(second);
        assert_eq!(challenges.to_request("b"), None);
    }
}
