//! Header names: which ones this crate knows, their compact forms, and how a line's name is told.
//!
//! A name is classified by its length and first letter and then compared, so that the usual header
//! costs one comparison and the unusual one none.

/// A header this crate knows by name. Everything else is [`HeaderName::Other`] and passes unread.
macro_rules! header_names {
    ($($(#[$doc:meta])* $variant:ident = $text:literal $(| $compact:literal)?,)*) => {
        /// The name of a header, whatever its case and whether written in full or compact.
        #[derive(Copy, Clone, PartialEq, Eq, Debug, Hash)]
        #[repr(u8)]
        pub enum HeaderName {
            $($(#[$doc])* #[doc = concat!("`", $text, "`", $(", compact `", $compact, "`",)? ".")] $variant,)*
            /// A header with another name; see [`Message::header_other`](crate::Message::header_other).
            Other,
        }

        impl HeaderName {
            /// Returns the name in full, as RFCs write it; empty for `Other`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(HeaderName::$variant => $text,)*
                    HeaderName::Other => "",
                }
            }

            /// Returns how a reason phrase names what is wrong with a header of this name.
            pub(crate) const fn phrases(self) -> Phrases {
                match self {
                    $(HeaderName::$variant => Phrases {
                        missing: concat!("Missing ", $text),
                        duplicate: concat!("More Than One ", $text),
                        malformed: concat!("Bad ", $text),
                        too_long: concat!($text, " Too Long"),
                    },)*
                    HeaderName::Other => Phrases {
                        missing: "Missing Header",
                        duplicate: "Duplicate Header",
                        malformed: "Bad Header",
                        too_long: "Header Too Long",
                    },
                }
            }
        }

        const SPELLINGS: &[(&str, HeaderName)] = &[
            $(($text, HeaderName::$variant), $(($compact, HeaderName::$variant),)?)*
        ];
    };
}

header_names! {
    Via = "Via" | "v",
    From = "From" | "f",
    To = "To" | "t",
    CallId = "Call-ID" | "i",
    CSeq = "CSeq",
    MaxForwards = "Max-Forwards",
    Route = "Route",
    RecordRoute = "Record-Route",
    Contact = "Contact" | "m",
    ContentLength = "Content-Length" | "l",
    ContentType = "Content-Type" | "c",
    ContentEncoding = "Content-Encoding" | "e",
    UserAgent = "User-Agent",
    Server = "Server",
    RetryAfter = "Retry-After",
    Reason = "Reason",
    Supported = "Supported" | "k",
    Require = "Require",
    ProxyRequire = "Proxy-Require",
    Unsupported = "Unsupported",
    Expires = "Expires",
    Event = "Event" | "o",
    RSeq = "RSeq",
    RAck = "RAck",
    Authorization = "Authorization",
    ProxyAuthorization = "Proxy-Authorization",
    WwwAuthenticate = "WWW-Authenticate",
    ProxyAuthenticate = "Proxy-Authenticate",
    Allow = "Allow",
    Accept = "Accept",
    XDestinationUri = "X-Destination-URI",
    XForwardedFor = "X-Forwarded-For",
    XAuthUsername = "X-Auth-Username",
    XAuthPassword = "X-Auth-Password",
    XAuthRealm = "X-Auth-Realm",
    Date = "Date",
    Warning = "Warning",
    Timestamp = "Timestamp",
    Subject = "Subject" | "s",
    ReferTo = "Refer-To" | "r",
    Replaces = "Replaces",
    SessionExpires = "Session-Expires" | "x",
    MinSe = "Min-SE",
    Path = "Path",
    Privacy = "Privacy",
    PAssertedIdentity = "P-Asserted-Identity",
    Diversion = "Diversion",
}

/// Reason phrases about one header.
pub(crate) struct Phrases {
    pub(crate) missing: &'static str,
    pub(crate) duplicate: &'static str,
    pub(crate) malformed: &'static str,
    pub(crate) too_long: &'static str,
}

/// How many names there are, `Other` included.
pub(crate) const HEADER_NAMES: usize = HeaderName::Other as usize + 1;

const BUCKETS: usize = 32 * 32;
const NONE: u8 = u8::MAX;

/// The first spelling with a given length and first letter, and for every spelling the next one.
static CHAINS: ([u8; BUCKETS], [u8; SPELLINGS.len()]) = {
    let mut first = [NONE; BUCKETS];
    let mut next = [NONE; SPELLINGS.len()];
    let mut at = 0;
    while at < SPELLINGS.len() {
        let text = SPELLINGS[at].0.as_bytes();
        assert!(text.len() < 32, "a spelling is too long for its bucket");
        let bucket = bucket(text.len(), text[0]);
        next[at] = first[bucket];
        first[bucket] = at as u8;
        at += 1;
    }
    (first, next)
};

const fn bucket(length: usize, letter: u8) -> usize {
    ((length & 31) << 5) | (letter & 31) as usize
}

impl HeaderName {
    /// Names a header from what stands before its colon.
    pub fn from_bytes(bytes: &[u8]) -> Self {
        let [letter, ..] = bytes else {
            return HeaderName::Other;
        };
        let mut at = CHAINS.0[bucket(bytes.len(), *letter)];
        while at != NONE {
            let (text, name) = SPELLINGS[usize::from(at)];
            if text.as_bytes() == bytes || text.as_bytes().eq_ignore_ascii_case(bytes) {
                return name;
            }
            at = CHAINS.1[usize::from(at)];
        }
        HeaderName::Other
    }

    /// Whether a message may carry only one header of this name that an element reads.
    pub(crate) const fn is_single(self) -> bool {
        matches!(
            self,
            HeaderName::From
                | HeaderName::To
                | HeaderName::CallId
                | HeaderName::CSeq
                | HeaderName::MaxForwards
                | HeaderName::ContentLength
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_is_told_in_any_case() {
        for (text, name) in SPELLINGS {
            assert_eq!(HeaderName::from_bytes(text.as_bytes()), *name, "{text}");
            assert_eq!(
                HeaderName::from_bytes(text.to_ascii_uppercase().as_bytes()),
                *name
            );
            assert_eq!(
                HeaderName::from_bytes(text.to_ascii_lowercase().as_bytes()),
                *name
            );
        }
    }

    #[test]
    fn other_names_are_other() {
        for text in ["", "z", "Vib", "X-Auth-Usernama", "C%6Fntact", "Call_ID"] {
            assert_eq!(
                HeaderName::from_bytes(text.as_bytes()),
                HeaderName::Other,
                "{text}"
            );
        }
        // Same bucket as From: the length is taken modulo 32.
        let long = [b'f'; 36];
        assert_eq!(HeaderName::from_bytes(&long), HeaderName::Other);
    }
}
