//! How does a demo backend speak websocket? It says back what it is told, with its color before it. Short messages in
//! one frame only, as the demo's page sends them.

use std::io;

use bgproxy_conf::Color;
use http::header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE};
use http::{HeaderValue, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::page::{Body, text};
use crate::serve::websocket::{accept_key, close_frame};

/// The first byte of a frame that is a whole message or a control frame (RFC 6455, section 5.2).
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

/// The longest message that is said back: with a color before it, its length still has one byte.
const LONGEST: usize = 80;

/// Answers 101 and says back what comes then.
pub(super) fn open(request: Request<Incoming>, color: Color) -> Response<Body> {
    let accept = request.headers().get(SEC_WEBSOCKET_KEY).filter(|_| request.headers().contains_key(UPGRADE));
    let Some(Ok(accept)) = accept.map(|key| HeaderValue::try_from(accept_key(key.as_bytes()))) else {
        return text(StatusCode::UPGRADE_REQUIRED, "only websockets are served here\n".to_owned());
    };
    // The backend's runtime owns it, and ends it.
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        if let Err(error) = echo(TokioIo::new(upgraded), &color).await {
            tracing::debug!(%error, %color, "demo backend: a tunnel ended early");
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, String::new());
    let headers = response.headers_mut();
    headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    response
}

async fn echo(mut client: impl AsyncRead + AsyncWrite + Unpin, color: &Color) -> io::Result<()> {
    loop {
        let [first, length] = [client.read_u8().await?, client.read_u8().await? & 0x7f];
        if usize::from(length) > LONGEST {
            return client.write_all(&close_frame(1009, "too long for the demo")).await;
        }
        let mut mask = [0; 4];
        client.read_exact(&mut mask).await?;
        let mut words = vec![0; usize::from(length)];
        client.read_exact(&mut words).await?;
        words.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        let (first, words) = match first {
            TEXT => (TEXT, [color.as_str().as_bytes(), b" ", &words].concat()),
            PING => (PONG, words),
            PONG => continue,
            CLOSE => (CLOSE, words),
            _ => return client.write_all(&close_frame(1003, "only short texts in the demo")).await,
        };
        client.write_all(&[&[first, words.len() as u8], words.as_slice()].concat()).await?;
        if first == CLOSE {
            return client.shutdown().await;
        }
    }
}
