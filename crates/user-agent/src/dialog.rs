//! One side of a dialog, RFC 3261 section 12.

use std::net::SocketAddr;

use crate::message::{Extra, Head, Method, NewRequest, address_of};
use crate::records::CallId;

/// What is needed to send requests within a dialog.
#[derive(Clone, Debug)]
pub(crate) struct Dialog {
    call_id: CallId,
    /// From of our requests, with our tag.
    local: String,
    /// To of our requests, with their tag.
    remote: String,
    pub(crate) local_tag: String,
    pub(crate) remote_tag: String,
    target: String,
    routes: Vec<String>,
    pub(crate) cseq: u32,
}

impl Dialog {
    /// The caller's side (section 12.1.2): `None` if the response makes no dialog.
    pub(crate) fn of_caller(response: &Head) -> Option<Self> {
        Some(Self {
            call_id: response.call_id.clone(),
            local: response.from.clone(),
            remote: response.to.clone(),
            local_tag: response.from_tag.clone(),
            remote_tag: response.to_tag.clone()?,
            target: response.contact.clone()?,
            routes: response.record_route.iter().rev().cloned().collect(),
            cseq: response.cseq,
        })
    }

    /// The callee's side (section 12.1.1): `None` if the request has no Contact.
    pub(crate) fn of_callee(request: &Head, local_tag: &str) -> Option<Self> {
        Some(Self {
            call_id: request.call_id.clone(),
            local: format!("{};tag={local_tag}", request.to),
            remote: request.from.clone(),
            local_tag: local_tag.to_owned(),
            remote_tag: request.from_tag.clone(),
            target: request.contact.clone()?,
            routes: request.record_route.clone(),
            cseq: 0,
        })
    }

    /// Tells whether a request from the other side belongs here.
    pub(crate) fn owns(&self, request: &Head) -> bool {
        request.to_tag.as_deref() == Some(self.local_tag.as_str())
            && request.from_tag == self.remote_tag
    }

    /// Takes the Contact of a target refresh request or of its answer.
    pub(crate) fn refresh(&mut self, head: &Head) {
        if let Some(contact) = &head.contact {
            self.target.clone_from(contact);
        }
    }

    /// Makes the next request within the dialog, and says where it goes: along the route set, all
    /// of it loose. `None` if that is no numeric address.
    pub(crate) fn request(
        &mut self,
        method: Method,
        contact: &str,
        extra: Extra,
    ) -> Option<(SocketAddr, NewRequest)> {
        self.cseq += 1;
        self.numbered(method, self.cseq, Some(contact.to_owned()), extra)
    }

    /// Makes the ACK to the 2xx of the INVITE numbered `cseq`.
    pub(crate) fn ack(&self, cseq: u32) -> Option<(SocketAddr, NewRequest)> {
        self.numbered(Method::Ack, cseq, None, Extra::default())
    }

    fn numbered(
        &self,
        method: Method,
        cseq: u32,
        contact: Option<String>,
        extra: Extra,
    ) -> Option<(SocketAddr, NewRequest)> {
        let next_hop = address_of(self.routes.first().unwrap_or(&self.target))?;
        let request = NewRequest {
            method,
            uri: self.target.clone(),
            from: self.local.clone(),
            to: self.remote.clone(),
            call_id: self.call_id.clone(),
            cseq,
            routes: self.routes.clone(),
            contact,
            extra,
        };
        Some((next_hop, request))
    }
}
