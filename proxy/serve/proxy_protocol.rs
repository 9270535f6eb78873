//! What does a PROXY protocol header say? Versions 1 and 2, read and written. Pure: no I/O.
//!
//! The words of the specification (haproxy.org, `proxy-protocol.txt`) are quoted where we follow it against the reflex.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// A line of version 1, end and all: two addresses of 39 characters, two ports of five, and the words between them.
const LONGEST_LINE: usize = 107;
/// A header of version 2. Addresses are 232 bytes at most; the rest is for what a load balancer adds, of which a
/// client's certificate is the longest. nginx takes as much.
pub const LONGEST: usize = 4096;
/// What version 2 begins with: no text protocol does.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const HEAD: usize = 16;
/// The connection is the sender's own, such as a probe.
const LOCAL: u8 = 0x20;
/// The connection is somebody else's.
const PROXY: u8 = 0x21;
const UNSPEC: u8 = 0x00;
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;
/// The kind of the extension that holds a CRC-32C of the header.
const CHECKSUM: u8 = 0x03;

/// What stands at the beginning of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// A header so far; more bytes decide.
    Incomplete,
    /// A whole header.
    Header {
        /// How many bytes it takes; what follows is the client's.
        length: usize,
        /// Who the client is. `None`: whoever the connection comes from.
        source: Option<SocketAddr>,
    },
    /// No header, whatever follows.
    Invalid(&'static str),
}

/// Reads a header from the first bytes of a connection; at most [`LONGEST`] of them matter.
pub fn parse(bytes: &[u8]) -> Parsed {
    // The two versions differ from the first byte on.
    let parsed = match bytes.first() {
        None => Err(Parsed::Incomplete),
        Some(b'\r') => parse_binary(bytes),
        Some(_) => parse_line(bytes),
    };
    match parsed {
        Ok((length, source)) => Parsed::Header { length, source },
        Err(other) => other,
    }
}

/// How many bytes the header takes, and who the client is.
type Header = (usize, Option<SocketAddr>);

fn invalid<T>(reason: &'static str) -> Result<T, Parsed> {
    Err(Parsed::Invalid(reason))
}

/// What follows `word`, which must come next.
fn after<'a>(bytes: &'a [u8], word: &[u8], reason: &'static str) -> Result<&'a [u8], Parsed> {
    match bytes.strip_prefix(word) {
        Some(rest) => Ok(rest),
        None if word.starts_with(bytes) => Err(Parsed::Incomplete),
        None => invalid(reason),
    }
}

/// Version 1: `PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n`.
fn parse_line(bytes: &[u8]) -> Result<Header, Parsed> {
    let rest = after(bytes, b"PROXY ", "no PROXY protocol header")?;
    if rest.first() == Some(&b'U') {
        // "The receiver must ignore anything presented before the CRLF is found."
        return match after(rest, b"UNKNOWN", "unknown protocol in a PROXY line")?.first() {
            None | Some(b' ' | b'\r') => Ok((line_length(bytes)?, None)),
            Some(_) => invalid("unknown protocol in a PROXY line"),
        };
    }
    let rest = after(rest, b"TCP", "unknown protocol in a PROXY line")?;
    let Some((family, rest)) = rest.split_first() else { return Err(Parsed::Incomplete) };
    let is_family = match family {
        b'4' => IpAddr::is_ipv4,
        b'6' => IpAddr::is_ipv6,
        _ => return invalid("unknown protocol in a PROXY line"),
    };
    let rest = after(rest, b" ", "unknown protocol in a PROXY line")?;
    let fields = rest.split(|byte| *byte == b'\r').next().unwrap_or_default();
    if !fields.iter().all(|byte| byte.is_ascii_hexdigit() || b".: ".contains(byte)) {
        return invalid("neither address nor port in a PROXY line");
    }
    let length = line_length(bytes)?;
    let Some((source, server)) = parse_fields(fields) else {
        return invalid("neither address nor port in a PROXY line");
    };
    if !is_family(&source.ip()) || !is_family(&server.ip()) {
        return invalid("addresses of another family in a PROXY line");
    }
    Ok((length, Some(canonical(source))))
}

/// Two addresses, two ports, one space between each.
fn parse_fields(fields: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let mut fields = std::str::from_utf8(fields).ok()?.split(' ');
    let mut next = || fields.next();
    let (source, server): (IpAddr, IpAddr) = (next()?.parse().ok()?, next()?.parse().ok()?);
    let (source_port, server_port) = (parse_port(next()?)?, parse_port(next()?)?);
    match next() {
        None => Some((SocketAddr::new(source, source_port), SocketAddr::new(server, server_port))),
        Some(_) => None,
    }
}

/// "Heading zeroes are not permitted."
fn parse_port(text: &str) -> Option<u16> {
    if text.len() > 1 && text.starts_with('0') { None } else { text.parse().ok() }
}

/// The length of a line of version 1 with its end, which must come in time.
fn line_length(bytes: &[u8]) -> Result<usize, Parsed> {
    let line = bytes.split_at(bytes.len().min(LONGEST_LINE)).0;
    let end = line.iter().position(|byte| *byte == b'\r');
    match end.map(|at| (at, line.get(at + 1))) {
        Some((at, Some(b'\n'))) => Ok(at + 2),
        Some((_, Some(_))) => invalid("a PROXY line that does not end with CR LF"),
        _ if line.len() == LONGEST_LINE => invalid("a PROXY line longer than 107 bytes"),
        _ => Err(Parsed::Incomplete),
    }
}

/// Version 2: signature, command, family, length, addresses, extensions.
fn parse_binary(bytes: &[u8]) -> Result<Header, Parsed> {
    let rest = after(bytes, &SIGNATURE, "no PROXY protocol header")?;
    let Some((command, rest)) = rest.split_first() else { return Err(Parsed::Incomplete) };
    if ![LOCAL, PROXY].contains(command) {
        return invalid("unknown version or command in a PROXY header");
    }
    let Some((family, rest)) = rest.split_first() else { return Err(Parsed::Incomplete) };
    let addresses = match (*command, *family) {
        // "The receiver must [...] discard the protocol block including the family which is ignored."
        (LOCAL, _) => 0,
        (_, TCP4) => 12,
        (_, TCP6) => 36,
        // Datagrams and unix sockets: receivers "fall back to the UNSPEC mode".
        (_, UNSPEC | 0x12 | 0x22 | 0x31 | 0x32) => 0,
        _ => return invalid("unknown family in a PROXY header"),
    };
    let Some((length, rest)) = rest.split_first_chunk() else { return Err(Parsed::Incomplete) };
    let length = usize::from(u16::from_be_bytes(*length));
    if length < addresses {
        return invalid("a PROXY header too short for its addresses");
    }
    let total = HEAD + length;
    if total > LONGEST {
        return invalid("a PROXY header longer than 4096 bytes");
    }
    let (Some((block, _)), Some((header, _))) = (rest.split_at_checked(length), bytes.split_at_checked(total)) else {
        return Err(Parsed::Incomplete);
    };
    let found = match (*command, *family) {
        (PROXY, TCP4) => parse_addresses::<4>(block),
        (PROXY, TCP6) => parse_addresses::<16>(block),
        // Nothing is taken from the others, so nothing in them is checked.
        _ => return Ok((total, None)),
    };
    let Some((source, extensions)) = found else { return invalid("a PROXY header too short for its addresses") };
    check(header, extensions)?;
    Ok((total, Some(source)))
}

/// Who the client is, and what follows the addresses.
fn parse_addresses<const N: usize>(block: &[u8]) -> Option<(SocketAddr, &[u8])>
where
    IpAddr: From<[u8; N]>,
{
    let (source, rest) = block.split_first_chunk::<N>()?;
    let (_server, rest) = rest.split_first_chunk::<N>()?;
    let (source_port, rest) = rest.split_first_chunk()?;
    let (_server_port, extensions) = rest.split_first_chunk::<2>()?;
    let source = SocketAddr::new(IpAddr::from(*source), u16::from_be_bytes(*source_port));
    Some((canonical(source), extensions))
}

/// Extensions must fill the header to its end, and its checksum must be right if it has one.
///
/// A receiver need not know checksums. But a client's address decides on trust and limits, and a sender that adds one
/// has a reason to doubt the line.
fn check(header: &[u8], extensions: &[u8]) -> Result<(), Parsed> {
    let mut rest = extensions;
    while let Some((kind, after)) = rest.split_first() {
        let Some((value, after)) = after
            .split_first_chunk()
            .and_then(|(length, after)| after.split_at_checked(usize::from(u16::from_be_bytes(*length))))
        else {
            return invalid("an extension that exceeds its PROXY header");
        };
        rest = after;
        if *kind == CHECKSUM {
            // It is taken over the header with zeroes in its own place.
            let (before, _) = header.split_at(header.len() - after.len() - value.len());
            let mut sum = Crc::default();
            for part in [before, &[0; 4], after] {
                sum.add(part);
            }
            if value != sum.finish().to_be_bytes() {
                return invalid("a PROXY header with a wrong checksum");
            }
        }
    }
    Ok(())
}

/// CRC-32C (RFC 9260, appendix A), a bit at a time: few senders add one, and it is taken once a connection.
struct Crc(u32);

impl Default for Crc {
    fn default() -> Crc {
        Crc(u32::MAX)
    }
}

impl Crc {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 ^= u32::from(*byte);
            for _ in 0..8 {
                let carry = if self.0 & 1 == 1 { 0x82f6_3b78 } else { 0 };
                self.0 = self.0 >> 1 ^ carry;
            }
        }
    }

    fn finish(self) -> u32 {
        !self.0
    }
}

/// IPv4 is IPv4, even where a sender with a socket for both wrote `::ffff:192.0.2.1`: one client has one address.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The header that tells a backend who the `client` is, and which address of ours (`server`) it came to.
pub fn encode(client: SocketAddr, server: SocketAddr) -> Vec<u8> {
    let (client, server) = (canonical(client), canonical(server));
    let mut header = Vec::with_capacity(HEAD + 36);
    header.extend(SIGNATURE);
    match (client.ip(), server.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            header.extend([PROXY, TCP4, 0, 12]);
            header.extend(from.octets());
            header.extend(to.octets());
        }
        (from, to) => {
            header.extend([PROXY, TCP6, 0, 36]);
            header.extend(mapped(from).octets());
            header.extend(mapped(to).octets());
        }
    }
    header.extend(client.port().to_be_bytes());
    header.extend(server.port().to_be_bytes());
    header
}

/// There is no header with one address of each family.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// The header of a connection that is our own: a probe.
pub fn local() -> [u8; HEAD] {
    let mut header = [0; HEAD];
    for (place, byte) in header.iter_mut().zip(SIGNATURE.into_iter().chain([LOCAL, UNSPEC])) {
        *place = byte;
    }
    header
}

#[cfg(test)]
mod tests;
