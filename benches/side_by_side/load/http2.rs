//! How is one GET asked by HTTP/2, and no more? By the bytes of RFC 9113 themselves: a connection that idles must not
//! cost the bench much.

use std::io::{Read, Write};

use anyhow::{Context, bail, ensure};

use crate::site::HOST;

const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const CONTINUATION: u8 = 9;

pub(crate) const END_STREAM: u8 = 1;
pub(crate) const ACK: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

/// What a client says first.
pub(crate) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a connection begins with: the preface, and settings without any.
pub(crate) fn begin(to: &mut impl Write) -> anyhow::Result<()> {
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &[]));
    Ok(to.write_all(&bytes)?)
}

/// A small GET on this stream; fails unless it is answered with 200.
pub(crate) fn get(on: &mut (impl Read + Write), stream: u32) -> anyhow::Result<()> {
    // RFC 7541: `:method: GET`, `:scheme: https`, `:path: /` by their places in the static table; `:authority` in full.
    let mut head = vec![0x82, 0x87, 0x84, 0x01, HOST.len() as u8];
    head.extend(HOST.bytes());
    on.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &head))?;
    loop {
        let mut head = [0; 9];
        on.read_exact(&mut head)?;
        let [a, b, c, kind, flags, id @ ..] = head;
        let mut body = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        on.read_exact(&mut body)?;
        let (is_ours, is_last) = (u32::from_be_bytes(id) == stream, flags & END_STREAM != 0);
        match kind {
            HEADERS if is_ours => ensure!(is_well(&body)?, "not answered with 200: {}", body.escape_ascii()),
            SETTINGS | PING if flags & ACK == 0 => {
                let answer = if kind == PING { body } else { Vec::new() };
                on.write_all(&frame(kind, ACK, 0, &answer))?;
            }
            RST_STREAM | GOAWAY => bail!("ended: frame {kind}, {}", body.escape_ascii()),
            _ => {}
        }
        if is_ours && is_last && matches!(kind, DATA | HEADERS) {
            return Ok(());
        }
    }
}

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let [_, a, b, c] = (body.len() as u32).to_be_bytes();
    let mut bytes = vec![a, b, c, kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(body);
    bytes
}

/// Whether `:status: 200` is the first field, by its place in the static table.
fn is_well(head: &[u8]) -> anyhow::Result<bool> {
    // The sender may first say how large its table is: 001, and a number.
    let mut rest = head;
    while let [first @ 0x20..0x40, more @ ..] = rest {
        let long =
            if *first == 0x3f { more.iter().position(|byte| byte & 0x80 == 0).context("no end")? + 1 } else { 0 };
        rest = &more[long..];
    }
    Ok(rest.first() == Some(&0x88))
}
