//! Does a PROXY protocol header say what its sender meant, and nothing else pass for one?

use std::net::Ipv4Addr;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

fn header(length: usize, source: &str) -> Parsed {
    Parsed::Header { length, source: Some(source.parse().expect("an address")) }
}

fn nobody(length: usize) -> Parsed {
    Parsed::Header { length, source: None }
}

fn refused(bytes: &[u8]) -> bool {
    matches!(parse(bytes), Parsed::Invalid(_))
}

/// A header of version 2.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let mut bytes = SIGNATURE.to_vec();
    bytes.extend([command, family]);
    bytes.extend((block.len() as u16).to_be_bytes());
    bytes.extend(block);
    bytes
}

/// From 192.0.2.1:56324 to 198.51.100.1:443.
const FOUR: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 0x04, 1, 0xbb];

fn with_extensions(extensions: &[u8]) -> Vec<u8> {
    binary(PROXY, TCP4, &[&FOUR, extensions].concat())
}

fn with_checksum() -> Vec<u8> {
    let mut bytes = with_extensions(&[CHECKSUM, 0, 4, 0, 0, 0, 0, 0x01, 0, 2, b'h', b'2']);
    let mut sum = Crc::default();
    sum.add(&bytes);
    let at = HEAD + FOUR.len() + 3;
    bytes[at..at + 4].copy_from_slice(&sum.finish().to_be_bytes());
    bytes
}

#[test]
fn a_line_says_who_the_client_is() {
    for (line, source) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n", "192.0.2.1:56324"),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535"),
        ("PROXY TCP4 1.2.3.4 5.6.7.8 0 0\r\n", "1.2.3.4:0"),
        ("PROXY TCP6 2001:db8::1 2001:DB8::2 1 2\r\n", "[2001:db8::1]:1"),
        ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", "192.0.2.1:1"),
        (
            "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535",
        ),
    ] {
        assert_eq!(parse(line.as_bytes()), header(line.len(), source), "{line}");
        let more = format!("{line}GET / HTTP/1.1\r\n\r\n");
        assert_eq!(parse(more.as_bytes()), header(line.len(), source), "{more}");
    }
}

#[test]
fn an_unknown_client_is_whoever_connects() {
    let longest = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LONGEST_LINE - 16));
    assert_eq!(longest.len(), LONGEST_LINE);
    for line in ["PROXY UNKNOWN\r\n", "PROXY UNKNOWN ffff::1 ffff::2 65535 1\r\n", "PROXY UNKNOWN \n\0é\r\n", &longest]
    {
        assert_eq!(parse(line.as_bytes()), nobody(line.len()), "{line:?}");
    }
}

#[test]
fn what_is_not_a_line_is_refused() {
    for line in [
        "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXYxTCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "proxy TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP5 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4x1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY UNKNOWN\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rx",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n",
        "PROXY TCP4 1.2.3.4  5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
        "PROXY TCP4 1.2.3.4\r\n",
        "PROXY TCP4 \r\n",
        "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.256 5.6.7.8 1 2\r\n",
        "PROXY TCP4 01.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 1 02\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 65536 2\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 a 2\r\n",
        "PROXY TCP4 ::1 ::1 1 2\r\n",
        "PROXY TCP4 1.2.3.4 ::1 1 2\r\n",
        "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY TCP6 ::1 5.6.7.8 1 2\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
        "PROXY TCP6 [::1] ::1 1 2\r\n",
    ] {
        assert!(refused(line.as_bytes()), "{line:?}");
    }
}

#[test]
fn a_line_must_end_in_time() {
    let line = format!("PROXY UNKNOWN {}", "x".repeat(LONGEST_LINE - 15));
    assert_eq!(parse(line.as_bytes()), Parsed::Incomplete);
    assert!(refused(format!("{line}x").as_bytes()));
    // A CR as the last byte comes too late: its LF would be one too many.
    assert!(refused(format!("{line}\r").as_bytes()));
    assert!(refused(format!("{line}\r\n").as_bytes()));
}

// Nobody shall wait for a deadline who spoke to the wrong listener.
#[test]
fn what_is_no_header_is_refused_at_its_first_wrong_byte() {
    for (bytes, wrong) in [
        (&b"GET / HTTP/1.1\r\n"[..], 1),
        (b"POST / HTTP/1.1\r\n", 2),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 3),
        (b"PROXY UDP4 ", 8),
        (b"PROXY TCP7 ", 10),
        (b"PROXY TCP4 1.2.3.4 host", 20),
        (b"\x16\x03\x01\x02\x00\x01", 1),
        (b"\r\nGET / HTTP/1.1\r\n", 3),
        (b"\r\n\r\n\0\r\nQUIT\n\x11", 13),
        (b"\r\n\r\n\0\r\nQUIT\n\x22", 13),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x13", 14),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0b", 16),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x23", 16),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff", 16),
    ] {
        for length in 0..=bytes.len() {
            let seen = parse(&bytes[..length]);
            if length < wrong {
                assert_eq!(seen, Parsed::Incomplete, "{:?}", &bytes[..length]);
            } else {
                assert!(matches!(seen, Parsed::Invalid(_)), "{:?}", &bytes[..length]);
            }
        }
    }
}

#[test]
fn a_binary_header_says_who_the_client_is() {
    assert_eq!(parse(&binary(PROXY, TCP4, &FOUR)), header(28, "192.0.2.1:56324"));
    let mut six = [0; 36];
    (six[0], six[1], six[15], six[33]) = (0x20, 0x01, 0x01, 80);
    assert_eq!(parse(&binary(PROXY, TCP6, &six)), header(52, "[2001::1]:80"));
    let more = [binary(PROXY, TCP4, &FOUR), b"GET / HTTP/1.1\r\n\r\n".to_vec()].concat();
    assert_eq!(parse(&more), header(28, "192.0.2.1:56324"));
}

#[test]
fn a_client_has_one_address_in_either_family() {
    let mut six = [0; 36];
    six[10..16].copy_from_slice(&[0xff, 0xff, 192, 0, 2, 1]);
    assert_eq!(parse(&binary(PROXY, TCP6, &six)), header(52, "192.0.2.1:0"));
}

#[test]
fn what_has_no_address_of_use_is_whoever_connects() {
    for family in [UNSPEC, 0x12, 0x22, 0x31, 0x32] {
        for length in [0, 1, 12, 36, 216, 300] {
            assert_eq!(parse(&binary(PROXY, family, &vec![0xff; length])), nobody(HEAD + length));
        }
    }
    for family in 0..=255 {
        for length in [0, 1, 216] {
            assert_eq!(parse(&binary(LOCAL, family, &vec![0xff; length])), nobody(HEAD + length));
        }
    }
}

#[test]
fn commands_and_families_that_do_not_exist_are_refused() {
    for command in (0..=255).filter(|command| ![LOCAL, PROXY].contains(command)) {
        assert!(refused(&binary(command, TCP4, &FOUR)), "{command:#x}");
    }
    for family in (0..=255).filter(|family| ![UNSPEC, TCP4, 0x12, TCP6, 0x22, 0x31, 0x32].contains(family)) {
        assert!(refused(&binary(PROXY, family, &[0; 216])), "{family:#x}");
    }
}

#[test]
fn a_binary_header_has_a_greatest_length() {
    let extension = |length: u16| [&[0x04][..], &length.to_be_bytes(), &vec![0; usize::from(length)]].concat();
    let room = (LONGEST - HEAD - FOUR.len() - 3) as u16;
    assert_eq!(parse(&with_extensions(&extension(room))), header(LONGEST, "192.0.2.1:56324"));
    assert!(refused(&with_extensions(&extension(room + 1))));
}

#[test]
fn extensions_fill_the_header_to_its_end() {
    assert_eq!(parse(&with_extensions(&[0x04, 0, 0])), header(31, "192.0.2.1:56324"));
    assert_eq!(parse(&with_extensions(&[0x01, 0, 2, b'h', b'2', 0xea, 0, 1, 7])), header(37, "192.0.2.1:56324"));
    for broken in [&[0x01][..], &[0x01, 0], &[0x01, 0, 1], &[0x01, 0, 0, 0x02], &[0x01, 0xff, 0xff, 0]] {
        assert!(refused(&with_extensions(broken)), "{broken:?}");
    }
}

#[test]
fn a_checksum_is_verified() {
    let bytes = with_checksum();
    assert_eq!(parse(&bytes), header(bytes.len(), "192.0.2.1:56324"));
    for at in HEAD..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 0x10;
        // A kind that is no longer a checksum's is an extension that we do not know.
        assert!(refused(&broken) || at == HEAD + FOUR.len(), "byte {at}");
    }
    assert!(refused(&with_extensions(&[CHECKSUM, 0, 3, 0, 0, 0])));
    assert!(refused(&with_extensions(&[CHECKSUM, 0, 0])));
}

// The check value of the catalog of CRCs, and one of RFC 3720, section B.4.
#[test]
fn the_checksum_is_crc_32c() {
    for (bytes, expected) in [(&b"123456789"[..], 0xe306_9283), (&[0; 32], 0x8a91_36aa), (b"", 0)] {
        let mut sum = Crc::default();
        sum.add(bytes);
        assert_eq!(sum.finish(), expected);
    }
}

#[test]
fn a_probe_says_that_it_is_ours() {
    assert_eq!(local(), *b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
    assert_eq!(parse(&local()), nobody(16));
}

#[test]
fn a_backend_is_told_who_the_client_is() {
    let (client, server) = ("192.0.2.1:56324", "198.51.100.1:443");
    let parse_address = |text: &str| text.parse::<SocketAddr>().expect("an address");
    assert_eq!(encode(parse_address(client), parse_address(server)), binary(PROXY, TCP4, &FOUR));
    let mixed = encode(parse_address(client), parse_address("[2001:db8::1]:443"));
    assert_eq!((mixed[13], mixed.len()), (TCP6, 52));
    assert_eq!(mixed[16..32], Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped().octets());
    assert_eq!(parse(&mixed), header(52, client));
    let both = encode(parse_address("[::ffff:192.0.2.1]:56324"), parse_address(server));
    assert_eq!(both, binary(PROXY, TCP4, &FOUR));
}

/// Headers, and what is nearly one.
fn nearly() -> impl Strategy<Value = Vec<u8>> {
    let seed = prop_oneof![
        Just(b"PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n".to_vec()),
        Just(b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n".to_vec()),
        Just(b"PROXY UNKNOWN ffff::1 ffff::2 1 2\r\n".to_vec()),
        Just(format!("PROXY UNKNOWN {}\r\n", "y".repeat(91)).into_bytes()),
        Just(b"GET / HTTP/1.1\r\nHost: example.com\r\n\r\n".to_vec()),
        Just(with_checksum()),
        Just(local().to_vec()),
        (any::<u8>(), any::<u8>(), proptest::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(c, f, b)| binary(c, f, &b)),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|block| binary(PROXY, TCP4, &block)),
        proptest::collection::vec(any::<u8>(), 0..300).prop_map(|block| binary(PROXY, TCP6, &block)),
        proptest::collection::vec(any::<u8>(), 0..300),
    ];
    let changes = proptest::collection::vec((any::<Index>(), prop_oneof![any::<u8>(), Just(b'\r'), Just(b' ')]), 0..3);
    (seed, changes, proptest::collection::vec(any::<u8>(), 0..120)).prop_map(|(mut bytes, changes, after)| {
        for (at, byte) in changes {
            if !bytes.is_empty() {
                let at = at.index(bytes.len());
                bytes[at] = byte;
            }
        }
        bytes.extend(after);
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    // However the bytes arrive, the answer is the same: it is given once, and what follows does not change it.
    #[test]
    fn any_split_gives_the_same(bytes in nearly()) {
        let mut decided = None;
        for length in 0..=bytes.len() {
            let seen = parse(&bytes[..length]);
            match decided {
                None if seen == Parsed::Incomplete => prop_assert!(length < LONGEST),
                None => {
                    if let Parsed::Header { length: end, .. } = seen {
                        prop_assert_eq!(end, length, "not a byte later than it could be");
                    }
                    decided = Some(seen);
                }
                // Which reason is given may change with what else is there to see.
                Some(Parsed::Invalid(_)) => prop_assert!(matches!(seen, Parsed::Invalid(_))),
                Some(header) => prop_assert_eq!(seen, header),
            }
        }
    }

    #[test]
    fn what_we_write_we_read(client: SocketAddr, server: SocketAddr, body in proptest::collection::vec(any::<u8>(), 0..50)) {
        let written = encode(client, server);
        let length = written.len();
        let source = Some(canonical(client));
        prop_assert_eq!(parse(&[written, body].concat()), Parsed::Header { length, source });
    }

    #[test]
    fn what_a_sender_writes_as_text_we_read(client: SocketAddr, server: SocketAddr) {
        let family = if client.is_ipv4() && server.is_ipv4() { "TCP4" } else { "TCP6" };
        let text = |address: SocketAddr| match (family, address.ip()) {
            ("TCP6", ip) => mapped(ip).to_string(),
            (_, ip) => ip.to_string(),
        };
        let line = format!("PROXY {family} {} {} {} {}\r\n", text(client), text(server), client.port(), server.port());
        prop_assert_eq!(parse(line.as_bytes()), Parsed::Header { length: line.len(), source: Some(canonical(client)) });
    }
}
