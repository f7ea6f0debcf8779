//! What passes through the SBC, as its tap tells it.

use control::sbc::v1::tap_response::Event;
use control::sbc::v1::tap_service_client::TapServiceClient;
use control::sbc::v1::{TapMessage, TapRequest};
use tokio::time::timeout;

use crate::system::{PATIENCE, System};

/// Reads a tap until it has seen enough.
pub(crate) fn tap(
    system: &System,
    request: TapRequest,
    enough: impl Fn(&[TapMessage]) -> bool + Sync,
) -> Vec<TapMessage> {
    system.ask("sbc", async |channel| {
        let mut client = TapServiceClient::new(channel);
        let mut stream = client.tap(request).await.unwrap().into_inner();
        let mut seen = Vec::new();
        while !enough(&seen) {
            let next = timeout(PATIENCE, stream.message()).await;
            let next = next.unwrap_or_else(|_| panic!("nothing more came after {seen:#?}"));
            match next.unwrap().expect("the tap ended").event.unwrap() {
                Event::Message(message) => seen.push(message),
                Event::Cut(cut) => panic!("{cut:?}"),
            }
        }
        seen
    })
}
