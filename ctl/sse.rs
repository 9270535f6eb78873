//! Reads server-sent events, as the WHATWG standard defines the format, from bytes that are cut anywhere.

/// The longest event taken; those of the daemon are a thousandth of it, but for a receipt full of cut requests.
const LARGEST: usize = 16 << 20;

/// Puts events together.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    after_cr: bool,
    id: String,
    last_id: String,
    data: String,
}

/// An event that does not end.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event larger than {LARGEST} bytes")]
pub(crate) struct TooLarge;

impl Parser {
    /// Takes the next bytes and gives the data of the events that they complete. The data says of what kind it is, so
    /// the stream's `event` field is not needed.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<String>, TooLarge> {
        let mut events = Vec::new();
        for &byte in bytes {
            match byte {
                // The second half of a CR LF: the line has ended already.
                b'\n' if self.after_cr => {}
                b'\n' | b'\r' => events.extend(self.end_line()),
                _ => self.line.push(byte),
            }
            self.after_cr = byte == b'\r';
        }
        if self.line.len() + self.data.len() > LARGEST {
            return Err(TooLarge);
        }
        Ok(events)
    }

    /// What to send as `Last-Event-ID` to go on from here. A stream may say so before its first event.
    pub(crate) fn last_id(&self) -> &str {
        &self.last_id
    }

    fn end_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            self.id.clone_into(&mut self.last_id);
            let mut data = std::mem::take(&mut self.data);
            // Each data line ended in a newline; without any this was an id or a comment, and no event.
            data.pop()?;
            return Some(data);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            // A comment, `event`, `retry`, or what a later standard adds.
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_wherever_the_bytes_are_cut() {
        let stream =
            b": hello\n\nid: 7\nevent: switched\ndata: {\"a\":\ndata: 1}\n\nid:8\r\ndata:x\r\n\r\nretry: 5\rdata\r\r";
        for cut in 0..stream.len() {
            let mut parser = Parser::default();
            let mut events = parser.push(&stream[..cut]).unwrap();
            events.extend(parser.push(&stream[cut..]).unwrap());
            assert_eq!(events, ["{\"a\":\n1}", "x", ""], "cut at {cut}");
            assert_eq!(parser.last_id(), "8");
        }
    }

    #[test]
    fn an_unfinished_event_is_not_given_and_not_skipped_on_resuming() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(b"id: 7\n\n"), Ok(vec![]));
        assert_eq!(parser.push(b"id: 8\ndata: half\n"), Ok(vec![]));
        assert_eq!(parser.last_id(), "7");
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(&vec![b'x'; LARGEST + 1]), Err(TooLarge));
    }
}
