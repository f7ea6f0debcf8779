//! Looks at the messages of a request while they pass: how large they are, what they name, and
//! whether a node speaks for itself.
//!
//! gRPC over HTTP/2, Length-Prefixed-Message. A message is looked at before its last byte goes on,
//! so nobody acts on what is refused here.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, ReflectMessage};
use tonic::body::Body;
use tonic::{Code, Status};

use crate::config::MESSAGE_BYTES_MAX;
use crate::errors::{Reason, because};
use crate::identity::Identity;

/// Most names that are remembered of one call: as many as one change may have.
const NAMES_MAX: usize = 60;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// The resources that a call named so far. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names(Arc<Mutex<Vec<String>>>);

impl Names {
    fn add(&self, names: Vec<String>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let room = NAMES_MAX.saturating_sub(all.len());
        all.extend(names.into_iter().take(room));
    }

    pub(crate) fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What is looked for in messages.
pub(crate) struct Look {
    pub(crate) input: MessageDescriptor,
    /// Fields that name resources, separated by spaces.
    pub(crate) fields: &'static str,
    pub(crate) names: Names,
    /// The node that must not name another member than itself.
    pub(crate) node: Option<Identity>,
}

impl Look {
    fn at(&self, message: &[u8]) -> Result<(), Status> {
        let mut names = Vec::new();
        match DynamicMessage::decode(self.input.clone(), message) {
            Ok(message) => {
                for field in self.fields.split_whitespace() {
                    collect(&message, field, &mut names);
                }
            }
            // What is no such message is refused by the service, too.
            Err(error) => return Err(Status::invalid_argument(error.to_string())),
        }
        if let Some(node) = &self.node {
            let own = format!("members/{}", node.id());
            if let Some(other) = names.iter().find(|name| **name != own) {
                return Err(not_yourself(node, other));
            }
        }
        self.names.add(names);
        Ok(())
    }
}

fn not_yourself(node: &Identity, other: &str) -> Status {
    let message = format!(
        "{node} may speak for members/{} only, not for {other:?}",
        node.id()
    );
    let facts = [("identity", node.uri()), ("resource", other)];
    because(Code::PermissionDenied, message, Reason::NotYourself, &facts)
}

/// Gathers the texts at a path of fields; what is not set leads nowhere.
fn collect(message: &DynamicMessage, path: &str, names: &mut Vec<String>) {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let fields: Vec<_> = message.descriptor().fields().collect();
    for field in fields {
        let chosen = first == "*" || first == field.name();
        let is_message = matches!(field.kind(), Kind::Message(_));
        if !chosen || is_message && !message.has_field(&field) {
            continue;
        }
        let value = message.get_field(&field);
        let one = std::slice::from_ref(value.as_ref());
        for value in value.as_list().unwrap_or(one) {
            if let Some(inner) = value.as_message() {
                collect(inner, rest, names);
            } else if let Some(text) = value.as_str().filter(|_| rest.is_empty()) {
                names.push(text.to_owned());
            }
        }
    }
}

/// A request's body whose messages are looked at.
pub(crate) struct Watched {
    body: Body,
    look: Option<Look>,
    prefix: [u8; PREFIX_BYTES],
    /// How much of the prefix is there.
    prefix_bytes: usize,
    /// How much of the message after it is to come.
    missing: usize,
    /// What is there of it, if it is looked at.
    message: Vec<u8>,
}

impl Watched {
    pub(crate) fn new(body: Body, look: Option<Look>) -> Self {
        Self {
            body,
            look,
            prefix: [0; PREFIX_BYTES],
            prefix_bytes: 0,
            missing: 0,
            message: Vec::new(),
        }
    }

    fn take(&mut self, mut data: &[u8]) -> Result<(), Status> {
        while !data.is_empty() {
            if self.prefix_bytes < PREFIX_BYTES {
                let (byte, rest) = (data[0], &data[1..]);
                self.prefix[self.prefix_bytes] = byte;
                self.prefix_bytes += 1;
                data = rest;
                if self.prefix_bytes < PREFIX_BYTES {
                    continue;
                }
                self.begin()?;
            }
            let (now, rest) = data.split_at(self.missing.min(data.len()));
            if self.look.is_some() {
                self.message.extend_from_slice(now);
            }
            self.missing -= now.len();
            data = rest;
            if self.missing == 0 {
                self.prefix_bytes = 0;
                let message = std::mem::take(&mut self.message);
                self.look
                    .as_ref()
                    .map_or(Ok(()), |look| look.at(&message))?;
            }
        }
        Ok(())
    }

    fn begin(&mut self) -> Result<(), Status> {
        let [compressed, length @ ..] = self.prefix;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > MESSAGE_BYTES_MAX {
            let most = MESSAGE_BYTES_MAX.to_string();
            let message = format!("a message of {length} bytes; {most} are the limit");
            let (reason, facts) = (Reason::MessageTooLarge, [("bytes_max", most.as_str())]);
            return Err(because(Code::ResourceExhausted, message, reason, &facts));
        }
        if compressed != 0 {
            return Err(Status::unimplemented("compressed messages are not read"));
        }
        self.missing = length;
        Ok(())
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(frame.map(|frame| {
            let frame = frame?;
            if let Some(data) = frame.data_ref() {
                self.take(data)?;
            }
            Ok(frame)
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use control::registry::v1::{
        Hello, KeepAliveRequest, Member, RegisterRequest, SyncConfigRequest, sync_config_request,
    };
    use prost::Message;

    use super::*;
    use crate::methods::Methods;

    const SERVICE: &str = "/tandem.registry.v1.MemberService";

    fn watched(path: &str, node: Option<&str>) -> (Watched, Names) {
        let methods = Methods::all();
        let method = methods.find(path);
        let names = Names::default();
        let look = Look {
            input: method.input.clone().unwrap(),
            fields: method.names,
            names: names.clone(),
            node: node.map(Identity::new),
        };
        (Watched::new(Body::empty(), Some(look)), names)
    }

    fn framed(message: &impl Message) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend(u32::try_from(message.encoded_len()).unwrap().to_be_bytes());
        bytes.extend(message.encode_to_vec());
        bytes
    }

    fn keep_alive(name: &str) -> Vec<u8> {
        framed(&KeepAliveRequest {
            name: name.to_owned(),
            session: "s".to_owned(),
            leaving: false,
        })
    }

    #[test]
    fn messages_are_found_however_the_bytes_come() {
        let bytes = [
            keep_alive("members/a"),
            framed(&KeepAliveRequest::default()),
        ]
        .concat();
        let bytes = [bytes, keep_alive("members/b")].concat();
        for size in 1..=bytes.len() {
            let (mut watched, names) = watched(&format!("{SERVICE}/KeepAlive"), None);
            for part in bytes.chunks(size) {
                watched.take(part).unwrap();
            }
            assert_eq!(names.take(), ["members/a", "", "members/b"], "{size}");
        }
    }

    #[test]
    fn a_node_speaks_for_itself_alone() {
        let node = Some("spiffe://example.com/tandem/node/a");
        let path = format!("{SERVICE}/KeepAlive");
        for (name, good) in [("members/a", true), ("members/b", false), ("", false)] {
            let (mut watched, _) = watched(&path, node);
            let taken = watched.take(&keep_alive(name));
            let code = taken.err().map(|status| status.code());
            assert_eq!(code, (!good).then_some(Code::PermissionDenied), "{name}");
        }
        let register = |name: &str| {
            framed(&RegisterRequest {
                member: Some(Member {
                    name: name.to_owned(),
                    ..Member::default()
                }),
                incarnation: 1,
            })
        };
        let path = format!("{SERVICE}/Register");
        assert!(watched(&path, node).0.take(&register("members/a")).is_ok());
        assert!(
            watched(&path, node)
                .0
                .take(&register("members/aa"))
                .is_err()
        );
        let hello = framed(&SyncConfigRequest {
            message: Some(sync_config_request::Message::Hello(Hello {
                node: "members/b".to_owned(),
                ..Hello::default()
            })),
        });
        let path = "/tandem.registry.v1.ConfigService/SyncConfig";
        assert!(watched(path, node).0.take(&hello).is_err());
        assert!(watched(path, None).0.take(&hello).is_ok());
    }

    #[test]
    fn what_is_too_large_compressed_or_no_message_is_refused() {
        let refused = |bytes: &[u8]| {
            let (mut watched, _) = watched(&format!("{SERVICE}/KeepAlive"), None);
            watched.take(bytes).unwrap_err().code()
        };
        assert_eq!(refused(&[0, 0, 16, 0, 1]), Code::ResourceExhausted);
        assert_eq!(refused(&[1, 0, 0, 0, 1]), Code::Unimplemented);
        assert_eq!(refused(&[0, 0, 0, 0, 1, 0xff]), Code::InvalidArgument);
        let mut unwatched = Watched::new(Body::empty(), None);
        assert!(unwatched.take(&[0, 0, 16, 0, 0]).is_ok());
        assert!(unwatched.take(&vec![0; 1024 * 1024]).is_ok());
        assert!(unwatched.take(&[0, 0, 16, 0, 1]).is_err());
    }
}
