//! Who answers? A thread per connection on a unix socket, at once, with as much as the path asks for.

use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;

/// Each path, and how long a body it is answered with.
const BODIES: [(&str, usize); 3] = [("/", 612), ("/16k", 16 << 10), ("/1m", 1 << 20)];

/// Answers on this socket for as long as the bench runs.
pub(super) fn start(socket: &Path) -> io::Result<()> {
    let listener = UnixListener::bind(socket)?;
    let answers = Arc::new(BODIES.map(|(path, length)| (path, answer(length))));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answers = answers.clone();
            // It ends when the door closes the connection; what went wrong, the client sees.
            std::thread::spawn(move || serve(stream, &*answers));
        }
    });
    Ok(())
}

/// As nginx would answer.
fn answer(length: usize) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Sat, 01 Jan 2022 00:00:00 GMT\r\nContent-Type: text/html\r\n\
         Content-Length: {length}\r\nLast-Modified: Sat, 01 Jan 2022 00:00:00 GMT\r\nConnection: keep-alive\r\n\
         ETag: \"61cf9980-264\"\r\nAccept-Ranges: bytes\r\n\r\n"
    );
    let mut answer = head.into_bytes();
    answer.resize(answer.len() + length, b'x');
    answer
}

fn serve(mut stream: UnixStream, answers: &[(&str, Vec<u8>)]) -> io::Result<()> {
    let mut buffer = vec![0; 256 << 10];
    let mut filled = 0;
    loop {
        let head = loop {
            if let Some(end) = buffer[..filled].windows(4).position(|four| four == b"\r\n\r\n") {
                break end + 4;
            }
            match stream.read(&mut buffer[filled..])? {
                0 => return Ok(()),
                length => filled += length,
            }
        };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let path = text.split(' ').nth(1).unwrap_or_default();
        let found = answers.iter().find(|(known, _)| *known == path).ok_or(io::ErrorKind::NotFound)?;
        let length = text.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut got = filled - head;
        while got < length {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                length => got += length,
            }
        }
        filled = 0;
        stream.write_all(&found.1)?;
    }
}
