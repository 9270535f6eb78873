//! What is behind the websockets? A backend that answers every upgrade with 101, and every message with itself.
//!
//! It runs as a process of its own (`side_by_side --echo SOCKET`), for its CPU is not to be mistaken for the load's.
//! What it sends is not masked, as RFC 6455 wants it from a server: a proxy may look at frames.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::load::talk::Message;
use crate::process::Running;

/// Starts one on this socket.
pub(crate) fn start(socket: &Path) -> anyhow::Result<Running> {
    let dir = socket.parent().context("a directory for the socket")?;
    let mut running = Running::start(Command::new(std::env::current_exe()?).arg("--echo").arg(socket), dir, "echo")?;
    running.wait_for(|| std::os::unix::net::UnixStream::connect(socket).is_ok())?;
    Ok(running)
}

/// Is one.
pub(crate) fn serve(socket: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let listener = UnixListener::bind(socket)?;
        loop {
            let (stream, _) = listener.accept().await?;
            // Ends with its connection.
            tokio::spawn(async move {
                if let Err(error) = converse(stream).await {
                    eprintln!("{error:#}");
                }
            });
        }
    })
}

async fn converse(stream: UnixStream) -> anyhow::Result<()> {
    let mut stream = BufReader::with_capacity(32 * 1024, stream);
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            // Whoever looked whether somebody is there.
            Err(_) if head.is_empty() => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    let answer = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                  Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
    stream.write_all(answer.as_bytes()).await?;
    let mut bytes = Vec::new();
    loop {
        let mut begin = [0; 2];
        if stream.read_exact(&mut begin).await.is_err() {
            return Ok(());
        }
        ensure!(begin[0] == 0x82 && begin[1] & 0x80 != 0, "not a masked binary message in one frame: {begin:02x?}");
        let size = match begin[1] & 0x7f {
            126 => stream.read_u16().await?.into(),
            size if size < 126 => size.into(),
            _ => anyhow::bail!("a message of 64 KiB or more"),
        };
        stream.read_u32().await?;
        bytes.clear();
        bytes.extend(Message { size, mask: None }.head());
        let begin = bytes.len();
        bytes.resize(begin + size, 0);
        stream.read_exact(&mut bytes[begin..]).await?;
        stream.write_all(&bytes).await?;
    }
}
