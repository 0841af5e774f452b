//! Bytes as they arrive, and HTTP/1.1's pieces taken from their front. The client and the origin
//! both read with it, and neither shares it with the gateway.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt};

/// A stream and what has been read from it, but not taken yet.
pub(super) struct Wire<S> {
    pub(super) stream: S,
    pub(super) unread: Vec<u8>,
}

/// A chunked body and its trailer fields.
pub(super) type Chunked = (Vec<u8>, Vec<(String, String)>);

impl<S: AsyncRead + Unpin> Wire<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, unread: Vec::new() }
    }

    /// Reads what is there; false at the end of the stream.
    pub(super) async fn read_more(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.unread).await? > 0)
    }

    /// Reads what is there; the end of the stream is an error.
    pub(super) async fn need_more(&mut self) -> io::Result<()> {
        if self.read_more().await? { Ok(()) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
    }

    pub(super) async fn take(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.unread.len() < count {
            self.need_more().await?;
        }
        Ok(self.unread.drain(..count).collect())
    }

    pub(super) async fn take_to_end(&mut self) -> io::Result<Vec<u8>> {
        while self.read_more().await? {}
        Ok(std::mem::take(&mut self.unread))
    }

    /// RFC 9112 §7.1, without leniency for anything a sender may not write.
    pub(super) async fn take_chunks(&mut self) -> io::Result<Chunked> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line().await?;
            let size = usize::from_str_radix(line.split(';').next().unwrap_or_default(), 16);
            let size = size.map_err(|_| invalid("a chunk's size"))?;
            if size == 0 {
                break;
            }
            body.extend(self.take(size).await?);
            if !self.take_line().await?.is_empty() {
                return Err(invalid("a chunk's end"));
            }
        }
        let mut trailers = Vec::new();
        loop {
            let line = self.take_line().await?;
            let Some((name, value)) = line.split_once(':') else { return Ok((body, trailers)) };
            trailers.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    async fn take_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = self.unread.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(end + 2).await?;
                return Ok(text(&line[..end]));
            }
            self.need_more().await?;
        }
    }
}

pub(super) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub(super) fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("cannot read {what}"))
}
