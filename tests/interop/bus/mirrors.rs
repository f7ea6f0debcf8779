//! What is told of the states of dialogs, as the mirrors of the Tandem routers show it.

use std::fmt::{self, Display, Formatter};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use control::mirror::v1::body::Kind;
use control::mirror::v1::mirror_service_client::MirrorServiceClient;
use control::mirror::v1::stream_messages_response::Event;
use control::mirror::v1::{DialogAction, Direction, Message, StreamMessagesRequest};
use tonic::transport::Endpoint;

use super::held::CONFIRMED;
use crate::quiet::say;
use crate::system::{PATIENCE, Places};

/// Slot and number of a dialog.
pub(super) type Numbers = (u32, u32);

/// That a dialog is confirmed, told by or to a router.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    /// Nanoseconds since 1970.
    pub(super) at: u64,
    pub(super) router: &'static str,
    pub(super) direction: Direction,
    /// Who told the router, or whom the router told.
    pub(super) other: SocketAddr,
    pub(super) dialog: Numbers,
}

impl Display for Told {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let Self {
            at, router, other, ..
        } = self;
        match self.direction {
            Direction::Out => write!(f, "{at}: {router} told {other}"),
            Direction::In | Direction::Unspecified => write!(f, "{at}: {other} told {router}"),
        }
    }
}

/// Everything of that kind since the routers were started.
#[derive(Clone, Debug, Default)]
pub(super) struct Mirrors(Arc<Mutex<Heard>>);

#[derive(Debug, Default)]
struct Heard {
    told: Vec<Told>,
    /// Something was missed.
    is_incomplete: bool,
}

impl Mirrors {
    /// Listens to a router, from when it answers until it ends.
    pub(super) fn listen(&self, places: &Places, router: &'static str) {
        let endpoint = format!("http://{}", places.grpc(router));
        let endpoint = Endpoint::from_shared(endpoint).unwrap();
        let mirrors = self.clone();
        // It ends with the router.
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(mirrors.read(endpoint, router));
        });
    }

    async fn read(&self, endpoint: Endpoint, router: &'static str) {
        let deadline = Instant::now() + PATIENCE;
        let channel = loop {
            match endpoint.connect().await {
                Ok(channel) => break channel,
                Err(error) if Instant::now() > deadline => {
                    return self.miss(&format!("the mirror of {router} was not read: {error}"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        };
        let request = StreamMessagesRequest {
            channels: vec!["dialog".to_owned()],
            ..StreamMessagesRequest::default()
        };
        let stream = MirrorServiceClient::new(channel)
            .stream_messages(request)
            .await;
        let mut stream = match stream {
            Ok(stream) => stream.into_inner(),
            Err(status) => {
                return self.miss(&format!("the mirror of {router} was not read: {status}"));
            }
        };
        // Killed routers say no word.
        while let Ok(Some(response)) = stream.message().await {
            match response.event {
                Some(Event::Message(message)) => self.add(confirmed(router, &message)),
                Some(Event::Cut(cut)) => {
                    return self.miss(&format!("the mirror of {router} ended: {cut:?}"));
                }
                None => {}
            }
        }
    }

    pub(super) fn add(&self, told: Option<Told>) {
        self.heard().told.extend(told);
    }

    pub(super) fn miss(&self, why: &str) {
        say(why);
        self.heard().is_incomplete = true;
    }

    /// Tells whether a Tandem told a node since then that a dialog is confirmed, or may have.
    pub(super) fn may_have_told(&self, node: SocketAddr, dialog: Numbers, since: u64) -> bool {
        let is_it = |told: &Told| told.direction == Direction::Out && told.other == node;
        self.heard().is_incomplete || self.of(dialog, since).iter().any(is_it)
    }

    /// Returns how often a Tandem told anybody that a dialog is confirmed.
    pub(super) fn told_by_us(&self) -> usize {
        let heard = self.heard();
        let told = heard.told.iter();
        told.filter(|told| told.direction == Direction::Out).count()
    }

    /// Returns what was told of a dialog since then.
    pub(super) fn of(&self, dialog: Numbers, since: u64) -> Vec<Told> {
        let heard = self.heard();
        let wanted = heard.told.iter();
        let wanted = wanted.filter(|told| told.dialog == dialog && told.at >= since);
        wanted.copied().collect()
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads a message that tells that a dialog is confirmed.
fn confirmed(router: &'static str, message: &Message) -> Option<Told> {
    let Some(Kind::Dialog(dialog)) = &message.body.as_ref()?.kind else {
        return None;
    };
    let tells = matches!(dialog.action(), DialogAction::State | DialogAction::Update);
    (message.status == 0 && tells && u64::from(dialog.state) == CONFIRMED).then(|| Told {
        at: message.at_nanos,
        router,
        direction: message.direction(),
        other: message.node.parse().expect("it is an address"),
        dialog: (dialog.h_entry, dialog.h_id),
    })
}
