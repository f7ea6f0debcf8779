//! SIP by hand, for what no honest user agent would send.

use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

/// A socket that speaks SIP as it is told to.
pub(crate) struct Raw(UdpSocket);

/// How long an answer may take, and how long silence must last to be called so.
const ANSWER_MAX: Duration = Duration::from_secs(2);
const SILENCE: Duration = Duration::from_millis(400);

impl Raw {
    pub(crate) fn bind(address: impl Into<SocketAddr>) -> Self {
        Self(UdpSocket::bind(address.into()).unwrap())
    }

    /// Sends a request with a Call-ID of this name; `to` follows the To URI, `more` is whole headers.
    pub(crate) fn send(&self, proxy: SocketAddr, method: &str, call: &str, to: &str, more: &str) {
        let local = self.0.local_addr().unwrap();
        let request = format!(
            "{method} sip:15145550199@{proxy} SIP/2.0\r\n\
             Via: SIP/2.0/UDP {local};branch=z9hG4bK-{call}-{method};rport\r\n\
             From: <sip:100@{local}>;tag=raw\r\nTo: <sip:15145550199@{proxy}>{to}\r\n\
             Call-ID: {call}@{local}\r\nCSeq: 7 {method}\r\nContact: <sip:100@{local}>\r\n\
             Max-Forwards: 70\r\n{more}Content-Length: 0\r\n\r\n"
        );
        self.transmit(proxy, &request);
    }

    /// Sends a message as it stands.
    pub(crate) fn transmit(&self, to: SocketAddr, message: &str) {
        self.0.send_to(message.as_bytes(), to).unwrap();
    }

    /// Answers a request with a copy of the headers that a response must copy.
    pub(crate) fn respond(&self, request: &(String, SocketAddr), status: &str) {
        self.respond_as("raw-callee", request, status, "");
    }

    /// The same with a To tag, for a request without one, and `more` header lines, each with its CRLF.
    pub(crate) fn respond_as(
        &self,
        tag: &str,
        (text, source): &(String, SocketAddr),
        status: &str,
        more: &str,
    ) {
        let copied = ["Via:", "Record-Route:", "From:", "To:", "Call-ID:", "CSeq:"];
        let mut response = format!("SIP/2.0 {status}\r\n");
        for line in text.lines().take_while(|line| !line.is_empty()) {
            if !copied.iter().any(|name| line.starts_with(name)) {
                continue;
            }
            response += line;
            if line.starts_with("To:") && !line.contains(";tag=") {
                response += &format!(";tag={tag}");
            }
            response += "\r\n";
        }
        response += &format!("{more}Content-Length: 0\r\n\r\n");
        self.transmit(*source, &response);
    }

    /// Receives the next message whose first line has this in it.
    pub(crate) fn receive(&self, wanted: &str) -> (String, SocketAddr) {
        loop {
            let received = self.next(ANSWER_MAX);
            let (text, source) = received.unwrap_or_else(|| panic!("{wanted:?} never came"));
            if text
                .lines()
                .next()
                .is_some_and(|line| line.contains(wanted))
            {
                return (text, source);
            }
        }
    }

    /// Receives the next message whose first line begins like this; nothing once the socket is closed
    /// or silent for long.
    pub(crate) fn receive_any(&self, wanted: &str) -> Option<(String, SocketAddr)> {
        loop {
            let received = self.next(Duration::from_secs(60))?;
            if received.0.starts_with(wanted) {
                return Some(received);
            }
        }
    }

    /// Receives the next final response to a request.
    pub(crate) fn receive_final(&self) -> String {
        loop {
            let (text, _) = self.next(ANSWER_MAX).expect("no final response came");
            if !text.starts_with("SIP/2.0 1") {
                return text;
            }
        }
    }

    pub(crate) fn assert_silence(&self) {
        if let Some((text, source)) = self.next(SILENCE) {
            panic!("from {source} came\n{text}");
        }
    }

    fn next(&self, patience: Duration) -> Option<(String, SocketAddr)> {
        let mut buffer = [0; 65_536];
        self.0.set_read_timeout(Some(patience)).unwrap();
        match self.0.recv_from(&mut buffer) {
            Ok((length, source)) => Some((
                String::from_utf8_lossy(&buffer[..length]).into_owned(),
                source,
            )),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
                None
            }
        }
    }
}
