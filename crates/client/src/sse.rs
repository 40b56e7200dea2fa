//! Reads `text/event-stream` from chunks of any size (WHATWG HTML, section 9.2.6).

/// A message is at most so large; a log piece is a few hundred KiB in base64.
const MAX_MESSAGE_BYTES: usize = 8 << 20;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// `message` when the stream names none.
    pub event: String,
    pub data: String,
    /// The last id seen on this stream, which a message without one inherits.
    pub id: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct TooLarge;

#[derive(Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    /// The last byte was a CR: a LF that follows belongs to it.
    after_cr: bool,
    begun: bool,
    event: String,
    data: Vec<String>,
    data_bytes: usize,
    id: Option<String>,
}

impl Parser {
    /// Takes a chunk, gives the messages that it completes.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<Message>, TooLarge> {
        let mut messages = Vec::new();
        for &byte in chunk {
            let follows_cr = std::mem::take(&mut self.after_cr);
            match byte {
                b'\n' if follows_cr => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    messages.extend(self.end_line());
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data_bytes > MAX_MESSAGE_BYTES {
                return Err(TooLarge);
            }
        }
        Ok(messages)
    }

    fn end_line(&mut self) -> Option<Message> {
        let bytes = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&bytes);
        let mut text: &str = &text;
        if !std::mem::replace(&mut self.begun, true) {
            text = text.strip_prefix('\u{feff}').unwrap_or(text);
        }
        if text.is_empty() {
            return self.dispatch();
        }
        let (field, value) = text.split_once(':').unwrap_or((text, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event = value.to_owned(),
            "data" => {
                self.data_bytes += value.len() + 1;
                self.data.push(value.to_owned());
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            // A comment (an empty field name), `retry`, or something newer.
            _ => {}
        }
        None
    }

    fn dispatch(&mut self) -> Option<Message> {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        self.data_bytes = 0;
        if data.is_empty() {
            return None;
        }
        let event = if event.is_empty() { "message".to_owned() } else { event };
        Some(Message { event, data: data.join("\n"), id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(event: &str, data: &str, id: Option<&str>) -> Message {
        Message { event: event.into(), data: data.into(), id: id.map(str::to_owned) }
    }

    const STREAM: &str = "\u{feff}: hello\n\nid: 7\nevent: placed\ndata: {\"a\":1}\n\ndata:x\r\ndata: é\r\n\r\nid\ndata: y\rdata\r\r: ping\n\nevent: nothing\n\n";

    fn expected() -> Vec<Message> {
        vec![
            message("placed", "{\"a\":1}", Some("7")),
            message("message", "x\né", Some("7")),
            message("message", "y\n", Some("")),
        ]
    }

    #[test]
    fn a_stream_reads_the_same_however_it_is_cut() {
        for size in [1, 2, 3, 7, STREAM.len()] {
            let mut parser = Parser::default();
            let mut messages = Vec::new();
            for chunk in STREAM.as_bytes().chunks(size) {
                messages.extend(parser.push(chunk).expect("within the limit"));
            }
            assert_eq!(messages, expected(), "chunks of {size}");
        }
    }

    #[test]
    fn an_unfinished_message_is_not_given() {
        let mut parser = Parser::default();
        assert_eq!(parser.push(b"id: 1\ndata: half").expect("within the limit"), []);
    }

    #[test]
    fn a_message_without_an_end_does_not_fill_the_memory() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; 1 << 20];
        assert!((0..20).any(|_| parser.push(&chunk).is_err()));
    }
}
