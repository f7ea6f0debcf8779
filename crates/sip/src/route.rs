//! Route sets, and peers that still route strictly: RFC 3261 sections 16.4, 16.6 step 6 and 16.12.

use sip_types::{HeaderName, Message, Splice, Uri};

/// Undoes what a strict router upstream did to a request, if one did: its Request-URI is a
/// Record-Route of ours, and the real one stands last in Route. Appends the request as it was meant.
///
/// `is_own` tells whether a URI names this element.
#[must_use]
pub fn undo_strict(message: &Message<'_>, is_own: impl Fn(&Uri<'_>) -> bool) -> Option<Vec<u8>> {
    let uri = Uri::parse(message.request_uri()).ok()?;
    if uri.user.is_some() || !uri.is_loose() || !is_own(&uri) {
        return None;
    }
    let routes = message.routes().count();
    let last = message.routes().last()?.ok()?;
    let mut edits = Splice::new();
    edits.replace(message.request_uri_range(), last.uri);
    // Dropping the last element is keeping the others: they are written again.
    let kept: Vec<&[u8]> = message
        .routes()
        .take(routes - 1)
        .map(|route| Some(&message.bytes()[route.ok()?.range]))
        .collect::<Option<_>>()?;
    let at = message.insertion_point(HeaderName::Route);
    edits.remove_headers(message, HeaderName::Route);
    for route in kept {
        edits.insert_with(at, |out| {
            out.extend_from_slice(b"Route: ");
            out.extend_from_slice(route);
            out.extend_from_slice(b"\r\n");
        });
    }
    let mut out = Vec::with_capacity(message.bytes().len());
    edits.apply(message.bytes(), &mut out);
    Some(out)
}

/// Counts the Routes from the first on for whose URI `counts` holds.
#[must_use]
pub fn leading(message: &Message<'_>, counts: impl Fn(&[u8]) -> bool) -> usize {
    message
        .routes()
        .take_while(|route| route.as_ref().is_ok_and(|route| counts(route.uri)))
        .count()
}

/// Takes the first `count` Routes off a request. When the next one is a strict router, the request
/// is made ready for it: its URI becomes the Request-URI, which in turn goes to the end of Route.
pub fn pass_routes(edits: &mut Splice, message: &Message<'_>, count: usize) {
    let next = message.routes().nth(count).and_then(Result::ok);
    let strict = next
        .filter(|route| !route.parsed_uri().is_ok_and(|uri| uri.is_loose()))
        .filter(|route| route.parsed_uri().is_ok());
    let Some(strict) = strict else {
        if count > 0 {
            edits.remove_leading(message, HeaderName::Route, count);
        }
        return;
    };
    edits.remove_leading(message, HeaderName::Route, count + 1);
    let last = message.headers_named(HeaderName::Route).last();
    let at = last.map_or(message.headers_end(), |header| header.line_range().end);
    edits.insert_with(at, |out| {
        out.extend_from_slice(b"Route: <");
        out.extend_from_slice(message.request_uri());
        out.extend_from_slice(b">\r\n");
    });
    edits.replace(message.request_uri_range(), strict.uri);
}

#[cfg(test)]
mod tests {
    use super::*;
    use sip_types::Index;

    fn request(uri: &str, routes: &str) -> String {
        format!(
            "BYE {uri} SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1;branch=z9hG4bK1\r\n{routes}\
             From: <sip:a@a>;tag=a\r\nTo: <sip:b@b>;tag=b\r\nCall-ID: x\r\nCSeq: 2 BYE\r\n\r\n"
        )
    }

    fn passed(text: &str, count: usize) -> String {
        let mut index = Index::new();
        let message = Message::parse(text.as_bytes(), &mut index).unwrap();
        let mut edits = Splice::new();
        pass_routes(&mut edits, &message, count);
        let mut out = Vec::new();
        edits.apply(message.bytes(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn what_a_strict_router_did_is_undone() {
        let strict = request(
            "sip:127.0.0.9;lr",
            "Route: <sip:127.0.0.8;lr>, <sip:b@127.0.0.7>\r\n",
        );
        let mut index = Index::new();
        let message = Message::parse(strict.as_bytes(), &mut index).unwrap();
        let own = |uri: &Uri<'_>| uri.host == b"127.0.0.9";
        let meant = undo_strict(&message, own).unwrap();
        let expected = request("sip:b@127.0.0.7", "Route: <sip:127.0.0.8;lr>\r\n");
        assert_eq!(String::from_utf8(meant).unwrap(), expected);
        assert!(undo_strict(&message, |_| false).is_none());
    }

    #[test]
    fn a_strict_router_gets_its_uri_as_request_uri() {
        let routes =
            "Route: <sip:127.0.0.9;lr>\r\nRoute: <sip:127.0.0.8>\r\nRoute: <sip:127.0.0.6;lr>\r\n";
        let expected = request(
            "sip:127.0.0.8",
            "Route: <sip:127.0.0.6;lr>\r\nRoute: <sip:b@b>\r\n",
        );
        assert_eq!(passed(&request("sip:b@b", routes), 1), expected);
    }

    #[test]
    fn loose_routes_are_just_taken_off() {
        let routes = "Route: <sip:127.0.0.9;lr>, <sip:127.0.0.8;lr>\r\n";
        let expected = request("sip:b@b", "Route: <sip:127.0.0.8;lr>\r\n");
        assert_eq!(passed(&request("sip:b@b", routes), 1), expected);
        assert_eq!(passed(&request("sip:b@b", ""), 0), request("sip:b@b", ""));
    }
}
