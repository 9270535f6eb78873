//! What is written where: answers to standard output, all else to standard error, drawings only where a terminal is.

use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;

use tokio::io::Interest;
use tokio::net::unix::pipe;

use crate::fault::Fault;
use crate::words::Paint;

/// Writes an answer, at once.
pub(crate) fn say(text: impl AsRef<[u8]>) -> Result<(), Fault> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref()).and_then(|()| out.flush()).map_err(Fault::Output)
}

/// Writes what the daemon said as it said it.
pub(crate) fn say_raw(json: &[u8]) -> Result<(), Fault> {
    say(line(json))
}

/// The same bytes; only a missing newline is added, for the next line's sake.
pub(crate) fn line(json: &[u8]) -> Vec<u8> {
    let mut line = json.to_vec();
    if !line.ends_with(b"\n") {
        line.push(b'\n');
    }
    line
}

/// Waits until nobody reads the answers anymore: `bgctl events | grep -m1 switched` ends with grep, not at some later
/// event.
pub(crate) async fn reader_gone() {
    // On a descriptor of our own, and without making it non-blocking, which standard output would be too then. A file
    // cannot lose its reader, and the kernel refuses to watch it.
    if let Ok(out) = io::stdout().as_fd().try_clone_to_owned()
        && let Ok(out) = pipe::Sender::from_owned_fd_unchecked(out)
        && out.ready(Interest::ERROR).await.is_ok()
    {
        return;
    }
    std::future::pending().await
}

/// Writes a remark. Where standard error is closed there is nobody to tell.
pub(crate) fn note(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Whether answers may be painted.
pub(crate) fn paint() -> Paint {
    Paint::when(io::stdout().is_terminal() && wants_colors())
}

/// Whether remarks may be painted.
pub(crate) fn paint_notes() -> Paint {
    Paint::when(io::stderr().is_terminal() && wants_colors())
}

/// Whether somebody looks at the progress line.
pub(crate) fn shows_progress() -> bool {
    io::stderr().is_terminal() && !dumb()
}

// https://no-color.org: any value but the empty one.
fn wants_colors() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty()) && !dumb()
}

fn dumb() -> bool {
    std::env::var_os("TERM").is_some_and(|term| term == "dumb")
}

/// One line on standard error that is drawn over and over; gone when dropped.
#[derive(Debug, Default)]
pub(crate) struct Line {
    drawn: bool,
}

impl Line {
    /// Draws it anew. A text that would not fit on one row is cut, since only one row can be drawn over.
    pub(crate) fn show(&mut self, text: &str) {
        let width = size(&io::stderr()).map_or(80, |(columns, _)| columns);
        let text: String = text.chars().take(width.saturating_sub(1)).collect();
        note(&format!("\r\x1b[2K{text}"));
        self.drawn = true;
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if self.drawn {
            note("\r\x1b[2K");
        }
    }
}

/// A page that is drawn over and over: on a terminal in place, elsewhere one after the other.
#[derive(Debug)]
pub(crate) struct Page {
    terminal: bool,
    first: bool,
    last: String,
}

impl Page {
    /// On a terminal, opens the alternate screen, so that what was there before comes back in the end.
    pub(crate) fn open() -> Result<Self, Fault> {
        let terminal = io::stdout().is_terminal() && !dumb();
        if terminal {
            say("\x1b[?1049h\x1b[?25l")?;
        }
        Ok(Page { terminal, first: true, last: String::new() })
    }

    /// Draws it anew. What does not fit on the screen is left out: it would scroll, and then nothing is in its place.
    pub(crate) fn show(&mut self, text: &str) -> Result<(), Fault> {
        if !self.terminal {
            let first = std::mem::replace(&mut self.first, false);
            // JSON is one page a line already.
            return say(if first || text.starts_with('{') { text.to_owned() } else { format!("\n{text}") });
        }
        let rows = size(&io::stdout()).map_or(24, |(_, rows)| rows);
        let mut frame = String::from("\x1b[H");
        for (row, line) in text.lines().take(rows).enumerate() {
            frame.push_str(if row == 0 { "" } else { "\r\n" });
            // Without wrapping, one line is one row, whatever the width.
            frame.push_str(&format!("\x1b[?7l{line}\x1b[?7h\x1b[K"));
        }
        frame.push_str("\x1b[J");
        text.clone_into(&mut self.last);
        say(frame)
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if self.terminal {
            // The last state stays readable. A reader that went away ends us elsewhere.
            let _ = say(format!("\x1b[?25h\x1b[?1049l{}", self.last));
        }
    }
}

fn size(terminal: &impl AsFd) -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(terminal).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then(|| (size.ws_col.into(), size.ws_row.into()))
}
