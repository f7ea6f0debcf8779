//! What passed through the SBC, as its tap told it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use control::sbc::v1::tap_response::Event;
use control::sbc::v1::tap_service_client::TapServiceClient;
use control::sbc::v1::{TapDirection, TapMessage, TapRequest};
use sip_types::{Index, Message};
use tokio::task::JoinHandle;

use super::nanos_now;
use super::system::System;

/// One message at the SBC.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    /// Nanoseconds since 1970.
    pub(crate) at: u64,
    /// Whether it came in; it left otherwise.
    pub(crate) came: bool,
    /// The other end.
    pub(crate) remote: SocketAddr,
    /// Method of a request, or of the request that a response answers.
    pub(crate) method: String,
    /// Status code and reason of a response.
    pub(crate) status: Option<(u16, String)>,
}

/// Every call's messages in their order.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    calls: BTreeMap<String, Vec<Seen>>,
    routers: [Option<SocketAddr>; 2],
}

impl Traffic {
    pub(crate) fn calls(&self) -> impl Iterator<Item = (&String, &Vec<Seen>)> {
        self.calls
            .iter()
            .filter(|(_, seen)| seen.iter().any(|seen| seen.method == "INVITE"))
    }

    pub(crate) fn call(&self, call_id: &str) -> &[Seen] {
        self.calls.get(call_id).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn first_call(&self) -> Option<String> {
        let first = self
            .calls()
            .min_by_key(|(_, seen)| seen.first().map(|seen| seen.at))?;
        Some(first.0.clone())
    }

    /// Returns which router an address is.
    pub(crate) fn router(&self, address: SocketAddr) -> Option<usize> {
        self.routers
            .iter()
            .position(|router| *router == Some(address))
    }

    /// Returns the router that got the first INVITE of a call.
    pub(crate) fn first_router(&self, seen: &[Seen]) -> Option<usize> {
        seen.iter()
            .filter(|seen| !seen.came && seen.status.is_none() && seen.method == "INVITE")
            .find_map(|seen| self.router(seen.remote))
    }
}

/// Reads the tap in the background.
pub(crate) struct Recorder {
    traffic: Arc<Mutex<Traffic>>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Recorder {
    pub(crate) async fn start(system: &System) -> anyhow::Result<Self> {
        let mut client = TapServiceClient::new(system.sbc_channel().await?);
        let mut stream = client
            .tap(TapRequest::default())
            .await
            .context("tapping the SBC")?
            .into_inner();
        let routers = system.routers().map(Some);
        let traffic = Arc::new(Mutex::new(Traffic {
            routers,
            ..Traffic::default()
        }));
        let shared = traffic.clone();
        let task = tokio::spawn(async move {
            while let Some(response) = stream.message().await? {
                match response.event {
                    Some(Event::Message(message)) => {
                        let mut traffic = shared.lock().unwrap_or_else(PoisonError::into_inner);
                        record(&mut traffic, &message);
                    }
                    Some(Event::Cut(cut)) => bail!(
                        "the tap was cut ({:?}); {} messages were missed",
                        cut.reason(),
                        cut.missed
                    ),
                    None => {}
                }
            }
            Ok(())
        });
        Ok(Self { traffic, task })
    }

    /// Returns a call that was answered a moment ago and is held for `left` or so, and its router,
    /// which is `on` if there is one.
    pub(crate) fn held_call(&self, left: Duration, on: Option<usize>) -> Option<(String, usize)> {
        let traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = nanos_now().saturating_sub(left.as_nanos() as u64);
        let mut held = traffic.calls().filter(|(_, seen)| {
            let answered = seen.iter().find(|seen| {
                !seen.came
                    && seen.method == "INVITE"
                    && is_2xx(seen)
                    && traffic.router(seen.remote).is_none()
            });
            let acknowledged = seen.iter().any(|seen| seen.came && seen.method == "ACK");
            acknowledged
                && answered.is_some_and(|seen| seen.at > recent)
                && !seen.iter().any(|seen| seen.method == "BYE")
        });
        held.find_map(|(call, seen)| {
            let router = traffic.first_router(seen)?;
            let is_wanted = on.is_none_or(|on| on == router);
            is_wanted.then(|| (call.clone(), router))
        })
    }

    pub(crate) fn finish(self) -> anyhow::Result<Traffic> {
        if self.task.is_finished() {
            bail!("the tap ended early: calls cannot be followed");
        }
        self.task.abort();
        Ok(std::mem::take(
            &mut *self.traffic.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }
}

pub(crate) fn is_2xx(seen: &Seen) -> bool {
    seen.status
        .as_ref()
        .is_some_and(|(status, _)| (200..300).contains(status))
}

fn record(traffic: &mut Traffic, tapped: &TapMessage) {
    let mut index = Index::new();
    let Ok(message) = Message::parse(&tapped.raw, &mut index) else {
        return;
    };
    let Ok(remote) = tapped.remote_address.parse() else {
        return;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let seen = Seen {
        at: tapped.at_nanos,
        came: tapped.direction() == TapDirection::In,
        remote,
        method: text(message.method().as_bytes()),
        status: message
            .status()
            .map(|status| (status, text(message.reason()))),
    };
    traffic
        .calls
        .entry(text(message.call_id()))
        .or_default()
        .push(seen);
}
