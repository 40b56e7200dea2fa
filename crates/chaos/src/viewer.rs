//! Somebody who follows a log over a line of their own, as slowly as they like, and knows what came whole.

use crate::inside::run;
use anyhow::Context as _;
use base64::{Engine as _, prelude::BASE64_STANDARD};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
};

/// A line over which nothing comes for so long has nothing more to say.
const SILENT: Duration = Duration::from_secs(20);

pub struct Viewer {
    line: TcpStream,
    read: Vec<u8>,
}

/// What came whole until the line was over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Viewed {
    pub bytes: Vec<u8>,
    /// The id of the last whole message: where one goes on.
    pub cursor: Option<String>,
    /// The log's end was told.
    pub is_over: bool,
}

impl Viewer {
    /// Asks for the events of `path`: from the beginning over a line that keeps little, or quickly after `cursor`.
    pub async fn open(base: &str, path: &str, token: &str, cursor: Option<&str>) -> anyhow::Result<Self> {
        let address = base.trim_start_matches("http://");
        let socket = TcpSocket::new_v4()?;
        if cursor.is_none() {
            socket.set_recv_buffer_size(4_096)?;
        }
        let mut line = socket.connect(address.parse()?).await?;
        let after = cursor.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\naccept: text/event-stream\r\nconnection: close\r\n{after}\r\n"
        );
        line.write_all(request.as_bytes()).await?;
        Ok(Self { line, read: Vec::new() })
    }

    /// Errors: the line is over, or nothing comes.
    pub async fn take_a_byte(&mut self) -> anyhow::Result<()> {
        self.read.push(tokio::time::timeout(SILENT, self.line.read_u8()).await??);
        Ok(())
    }

    /// Whether the other end still holds the line. What it has sent may still be under way.
    pub fn is_served(&self) -> anyhow::Result<bool> {
        let (server, here) = (self.line.peer_addr()?.port(), self.line.local_addr()?.port());
        let filter = format!("sport = :{server} and dport = :{here}");
        Ok(!run("ss", &["-Htn", "state", "established", &filter])?.trim().is_empty())
    }

    /// Reads on as fast as it can until the line is over, however it ends.
    pub async fn rest(mut self) -> anyhow::Result<Viewed> {
        let mut buffer = vec![0; 256 * 1024];
        while let Ok(count @ 1..) =
            tokio::time::timeout(SILENT, self.line.read(&mut buffer)).await.context("the line hangs")?
        {
            self.read.extend_from_slice(&buffer[..count]);
        }
        view(&self.read)
    }
}

/// The events of an answer that may be cut anywhere.
fn view(answer: &[u8]) -> anyhow::Result<Viewed> {
    let text = std::str::from_utf8(answer).context("events are text")?;
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no whole answer: {text}"))?;
    anyhow::ensure!(head.starts_with("HTTP/1.1 200"), "{text}");
    let body = unchunked(body)?;
    let mut viewed = Viewed::default();
    // What follows the last empty line is no whole message.
    let whole = body.rsplit_once("\n\n").map_or("", |(whole, _)| whole);
    for message in whole.split("\n\n") {
        let field = |name: &str| message.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        match field("event") {
            Some("log") => {
                let piece: serde_json::Value = serde_json::from_str(field("data").context("data")?)?;
                viewed.bytes.extend(BASE64_STANDARD.decode(piece["data"].as_str().context("bytes")?)?);
            }
            Some("end") => viewed.is_over = true,
            _ => {}
        }
        if let Some(id) = field("id") {
            viewed.cursor = Some(id.to_owned());
        }
    }
    Ok(viewed)
}

fn unchunked(mut body: &str) -> anyhow::Result<String> {
    let mut whole = String::new();
    while let Some((size, rest)) = body.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).context("a chunk's size")?;
        let (chunk, rest) = rest.split_at(size.min(rest.len()));
        whole += chunk;
        body = rest.strip_prefix("\r\n").unwrap_or_default();
    }
    Ok(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_cut_in_the_middle_of_a_message_counts_up_to_the_message_before() {
        let messages = [
            "id: 1.0\nevent: log\ndata: {\"data\":\"YWI=\"}\n\n",
            "id: 1.1\nevent: log\ndata: {\"data\":\"Y2Q=\"}\n\n",
            "event: end\ndata: {}\n\n",
        ];
        let body = messages.concat();
        let answer = format!(
            "HTTP/1.1 200 OK\r\n\r\n5\r\n{}\r\n{:x}\r\n{}\r\n0\r\n\r\n",
            &body[..5],
            body.len() - 5,
            &body[5..]
        );
        let all = view(answer.as_bytes()).expect("whole");
        assert_eq!(all, Viewed { bytes: b"abcd".to_vec(), cursor: Some("1.1".into()), is_over: true });
        let cut = answer.find("Y2Q").expect("there");
        let part = view(&answer.as_bytes()[..cut]).expect("a part");
        assert_eq!(part, Viewed { bytes: b"ab".to_vec(), cursor: Some("1.0".into()), is_over: false });
        assert!(view(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
    }
}
