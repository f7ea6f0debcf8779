//! `tandem ready`: asks a process for `/readyz`, for health checks where there is no curl.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use anyhow::Context;
use control::settings::Span;

/// Options of the question.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Options {
    /// Where the process serves HTTP (`http.listen`), such as 127.0.0.1:7482.
    #[arg(value_name = "ADDRESS:PORT")]
    address: SocketAddr,
    /// How long it may take to answer.
    #[arg(long, default_value = "2s")]
    timeout: Span,
}

/// The longest answer that is read, bytes.
const ANSWER_MAX: u64 = 64 << 10;

/// Prints what a process says of its parts; tells whether it is ready.
pub(crate) fn run(options: &Options) -> anyhow::Result<bool> {
    let Options { address, timeout } = options;
    let mut stream = TcpStream::connect_timeout(address, timeout.0)
        .with_context(|| format!("connecting to {address}"))?;
    stream.set_read_timeout(Some(timeout.0))?;
    write!(stream, "GET /readyz HTTP/1.0\r\nHost: {address}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream
        .take(ANSWER_MAX)
        .read_to_end(&mut answer)
        .with_context(|| format!("reading from {address}"))?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("{address} does not speak HTTP"))?;
    print!("{body}");
    Ok(is_ok(head))
}

/// Tells whether the head of an HTTP response has status 200.
fn is_ok(head: &str) -> bool {
    head.split(' ').nth(1) == Some("200")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_200_is_ready() {
        assert!(is_ok("HTTP/1.1 200 OK\r\ncontent-type: text/plain"));
        assert!(!is_ok("HTTP/1.1 503 Service Unavailable\r\n"));
        assert!(!is_ok("SSH-2.0-OpenSSH"));
    }
}
