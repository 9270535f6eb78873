//! May a request that got no answer be sent again? Only if no backend can have acted on it.
//!
//! What a unix socket tells us (measured on Linux 6.18): EPIPE on the first write means the other end was gone before
//! a byte arrived; ECONNRESET means it closed with part of our request unread, so it never read the whole; a plain
//! end of file means it may have read everything. A reset by TCP says less: it may come from anywhere, after the
//! request was read, so it does not count as one.
//!
//! HTTP/2 tells more, and less: REFUSED_STREAM, or a GOAWAY that names an earlier stream as the last one, means nobody
//! acted (counted as not a byte written); but a connection's reset says nothing of one stream, so it does not count as
//! one.

use http::Method;

/// What is known of a request that got no answer.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'m> {
    /// Its method.
    pub method: &'m Method,
    /// What would have to be sent again.
    pub body: Body,
    /// Bytes of it that the socket took.
    pub written: u64,
    /// Bytes of an answer that came back.
    pub read: u64,
    /// Whether the backend closed the connection with part of this request unread.
    pub reset: bool,
}

/// What is left of a request's body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Body {
    /// There was none.
    None,
    /// All of it that was sent is still at hand.
    Kept,
    /// Some of it is gone.
    Gone,
}

impl Attempt<'_> {
    /// Whether it may be sent again, once.
    pub fn may_be_repeated(&self) -> bool {
        if self.read > 0 || self.body == Body::Gone {
            return false;
        }
        let unread = self.written == 0 || (self.reset && self.body == Body::None);
        unread || is_idempotent(self.method)
    }
}

/// RFC 9110, section 9.2.2.
fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::OPTIONS, Method::TRACE, Method::PUT, Method::DELETE].contains(method)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(method: Method, body: Body, written: u64, read: u64, reset: bool) -> bool {
        Attempt { method: &method, body, written, read, reset }.may_be_repeated()
    }

    #[test]
    fn nothing_is_repeated_once_an_answer_began() {
        assert!(!may(Method::GET, Body::None, 100, 1, false));
        assert!(!may(Method::GET, Body::None, 0, 1, true));
    }

    #[test]
    fn any_method_is_repeated_when_not_a_byte_arrived() {
        assert!(may(Method::POST, Body::None, 0, 0, true));
        assert!(may(Method::POST, Body::Kept, 0, 0, true));
        assert!(!may(Method::POST, Body::Gone, 0, 0, true));
    }

    #[test]
    fn after_a_reset_a_post_is_repeated_only_without_a_body() {
        assert!(may(Method::POST, Body::None, 100, 0, true));
        assert!(!may(Method::POST, Body::Kept, 100, 0, true));
        assert!(may(Method::PUT, Body::Kept, 100, 0, true));
    }

    #[test]
    fn after_an_orderly_end_only_idempotent_methods_are_repeated() {
        assert!(may(Method::GET, Body::None, 100, 0, false));
        assert!(may(Method::PUT, Body::Kept, 100, 0, false));
        assert!(!may(Method::PUT, Body::Gone, 100, 0, false));
        assert!(!may(Method::POST, Body::None, 100, 0, false));
        assert!(!may(Method::PATCH, Body::Kept, 100, 0, false));
    }
}
