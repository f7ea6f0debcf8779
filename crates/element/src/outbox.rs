//! Datagrams waiting to be sent, in one growing buffer that is reused.

use std::net::SocketAddr;

use crate::FlowId;

/// One datagram to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit<'a> {
    /// The listen address to send from.
    pub flow: FlowId,
    /// Where to.
    pub destination: SocketAddr,
    /// The payload.
    pub bytes: &'a [u8],
}

#[derive(Clone, Copy, Debug)]
struct Queued {
    flow: FlowId,
    destination: SocketAddr,
    end: usize,
}

/// A queue of datagrams in the order in which they must leave.
///
/// The bytes of all of them stand one behind the other in one buffer: queueing a datagram costs a
/// copy and, once the buffers have grown, no allocation. It is bounded by what one turn can cause:
/// a driver flushes at the end of every turn.
#[derive(Debug, Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    queued: Vec<Queued>,
}

impl Outbox {
    /// Creates an empty outbox.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Queues one datagram whose bytes `write` appends to the buffer it is given.
    ///
    /// `write` must only append.
    pub fn push_with(
        &mut self,
        flow: FlowId,
        destination: SocketAddr,
        write: impl FnOnce(&mut Vec<u8>),
    ) {
        write(&mut self.bytes);
        self.queued.push(Queued {
            flow,
            destination,
            end: self.bytes.len(),
        });
    }

    /// Queues one datagram.
    pub fn push(&mut self, flow: FlowId, destination: SocketAddr, bytes: &[u8]) {
        self.push_with(flow, destination, |buffer| buffer.extend_from_slice(bytes));
    }

    /// Returns the queued datagrams in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Transmit<'_>> + '_ {
        (0..self.queued.len()).map(|i| self.nth(i))
    }

    /// Returns the datagram that was queued last.
    #[must_use]
    pub fn last(&self) -> Option<Transmit<'_>> {
        self.queued.len().checked_sub(1).map(|i| self.nth(i))
    }

    fn nth(&self, i: usize) -> Transmit<'_> {
        let start = if i == 0 { 0 } else { self.queued[i - 1].end };
        let queued = &self.queued[i];
        Transmit {
            flow: queued.flow,
            destination: queued.destination,
            bytes: &self.bytes[start..queued.end],
        }
    }

    /// Returns how many datagrams are queued.
    #[must_use]
    pub fn len(&self) -> usize {
        self.queued.len()
    }

    /// Tells whether nothing is queued.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.queued.is_empty()
    }

    /// Empties the queue and keeps its buffers.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.queued.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn datagrams_come_back_in_order_with_their_own_bytes() {
        let mut outbox = Outbox::new();
        let to: SocketAddr = "127.0.0.1:5060".parse().unwrap();
        outbox.push(FlowId(0), to, b"first");
        outbox.push(FlowId(1), to, b"");
        outbox.push(FlowId(0), to, b"third");
        let bytes: Vec<_> = outbox
            .iter()
            .map(|t| (t.flow.0, t.bytes.to_vec()))
            .collect();
        assert_eq!(
            bytes,
            [(0, b"first".to_vec()), (1, vec![]), (0, b"third".to_vec())]
        );
        assert_eq!(outbox.last().unwrap().bytes, b"third");
        outbox.clear();
        assert!(outbox.is_empty() && outbox.last().is_none());
    }
}
