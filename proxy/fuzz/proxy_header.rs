//! Is a PROXY header the same however it arrives, and does one of ours say what it shall?

use std::net::{IpAddr, SocketAddr};

use crate::serve::proxy_protocol::{LONGEST, Parsed, encode, local, parse};

/// Checks what is read from the first bytes of a connection, and what is written for addresses made of them.
pub fn proxy_header(bytes: &[u8]) {
    let whole = parse(bytes);
    let mut decided = None;
    for end in 0..=bytes.len().min(LONGEST) {
        let parsed = parse(&bytes[..end]);
        match (&decided, parsed) {
            (None, Parsed::Incomplete) => {}
            (None, Parsed::Header { length, .. }) => {
                assert_eq!(length, end, "more than the header was waited for");
                decided = Some(parsed);
            }
            (None, Parsed::Invalid(_)) => decided = Some(parsed),
            // With more of it there may be more that is wrong.
            (Some(Parsed::Invalid(_)), Parsed::Invalid(_)) => {}
            (Some(before), now) => assert_eq!(*before, now, "a byte more at {end} has changed its mind"),
        }
    }
    match (decided, whole) {
        (Some(Parsed::Invalid(_)), Parsed::Invalid(_)) | (None, Parsed::Incomplete) => {}
        (decided, whole) => assert_eq!(decided, Some(whole)),
    }
    assert!(whole != Parsed::Incomplete || bytes.len() < LONGEST, "it waits without end");
    round(bytes);
}

/// Two addresses of these bytes, there and back.
fn round(bytes: &[u8]) {
    let Some((client, rest)) = address(bytes) else { return };
    let Some((server, rest)) = address(rest) else { return };
    let header = encode(client, server);
    let source = Some(SocketAddr::new(client.ip().to_canonical(), client.port()));
    let expected = Parsed::Header { length: header.len(), source };
    assert_eq!(parse(&header), expected);
    assert_eq!(parse(&[&header, rest].concat()), expected, "what follows changes nothing");
    assert_eq!(parse(&local()), Parsed::Header { length: local().len(), source: None });
}

/// The first address of these bytes.
fn address(bytes: &[u8]) -> Option<(SocketAddr, &[u8])> {
    let (family, rest) = bytes.split_first()?;
    let (ip, rest) = if family % 2 == 0 {
        let (ip, rest) = rest.split_first_chunk::<4>()?;
        (IpAddr::from(*ip), rest)
    } else {
        let (ip, rest) = rest.split_first_chunk::<16>()?;
        (IpAddr::from(*ip), rest)
    };
    let (port, rest) = rest.split_first_chunk()?;
    Some((SocketAddr::new(ip, u16::from_be_bytes(*port)), rest))
}
