//! Who calls: the one URI of a client's certificate, as the certificate itself says it or as a
//! sidecar does.
//!
//! SPIFFE, X.509-SVID section 2: one URI names the workload. Envoy, x-forwarded-client-cert: elements
//! separated by commas, the last one the sidecar's own; pairs separated by semicolons.

use std::fmt;
use std::sync::Arc;

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, ParsedExtension, X509Certificate};

/// Somebody who is named by a URI.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity(Arc<str>);

impl Identity {
    pub(crate) fn new(uri: &str) -> Self {
        Self(uri.into())
    }

    /// Returns the URI.
    #[must_use]
    pub fn uri(&self) -> &str {
        &self.0
    }

    /// Returns the last segment of the URI: a node's id.
    #[must_use]
    pub fn id(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why nobody knows who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unknown {
    #[error("no client certificate was given")]
    NoCertificate,
    #[error("the client certificate cannot be read")]
    Unreadable,
    #[error("the client certificate names no URI")]
    NoUri,
    #[error("the client certificate names more than one URI")]
    ManyUris,
    #[error("x-forwarded-client-cert cannot be read")]
    Header,
}

fn only<'a>(uris: impl IntoIterator<Item = &'a str>) -> Result<Identity, Unknown> {
    let mut uris = uris.into_iter();
    match (uris.next(), uris.next()) {
        (Some(uri), None) => Ok(Identity::new(uri)),
        (None, _) => Err(Unknown::NoUri),
        (Some(_), Some(_)) => Err(Unknown::ManyUris),
    }
}

/// Reads who a certificate is for.
pub(crate) fn of_certificate(certificate: &CertificateDer<'_>) -> Result<Identity, Unknown> {
    let (_, certificate) =
        X509Certificate::from_der(certificate).map_err(|_| Unknown::Unreadable)?;
    let names = certificate.extensions().iter().filter_map(|extension| {
        let ParsedExtension::SubjectAlternativeName(names) = extension.parsed_extension() else {
            return None;
        };
        Some(&names.general_names)
    });
    only(names.flatten().filter_map(|name| {
        let GeneralName::URI(uri) = name else {
            return None;
        };
        Some(*uri)
    }))
}

/// Reads whom a sidecar saw, from the last of its headers.
pub(crate) fn of_forwarded(header: &str) -> Result<Identity, Unknown> {
    let element = split(header, ',').pop().ok_or(Unknown::Header)?;
    let mut uris = Vec::new();
    for pair in split(element, ';') {
        let (key, value) = pair.split_once('=').ok_or(Unknown::Header)?;
        if key.trim().eq_ignore_ascii_case("uri") {
            uris.push(value.trim().trim_matches('"'));
        }
    }
    only(uris.into_iter().filter(|uri| !uri.is_empty()))
}

/// Splits a text at a separator outside of quotes.
fn split(text: &str, separator: char) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = text.split(|c: char| {
        let is_escaped = std::mem::take(&mut escaped);
        match c {
            '\\' if quoted && !is_escaped => escaped = true,
            '"' if !is_escaped => quoted = !quoted,
            _ => {}
        }
        c == separator && !quoted
    });
    parts.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_segment_is_a_nodes_id() {
        let identity = Identity::new("spiffe://example.com/tandem/node/sbc-1");
        assert_eq!(identity.id(), "sbc-1");
    }

    #[test]
    fn the_sidecars_own_word_is_the_last() {
        let said = |header: &str| of_forwarded(header).map(|identity| identity.uri().to_owned());
        let anna = "spiffe://a/tandem/operator/anna";
        for header in [
            format!("URI={anna}"),
            format!("By=spiffe://a/x;Hash=00ff;Subject=\"CN=a, O=\\\"b;c\\\"\";URI={anna}"),
            format!("URI=spiffe://a/tandem/operator/forged,By=x;uri=\"{anna}\";DNS=a;DNS=b"),
            format!("Subject=\"URI=spiffe://a/b\";URI={anna}"),
        ] {
            assert_eq!(said(&header), Ok(anna.to_owned()), "{header}");
        }
        assert_eq!(said("By=spiffe://a/x;Hash=00"), Err(Unknown::NoUri));
        assert_eq!(said("URI=a;URI=b"), Err(Unknown::ManyUris));
        assert_eq!(said("URI="), Err(Unknown::NoUri));
        for bad in ["", "URI", "URI=spiffe://a/b,"] {
            assert_eq!(said(bad), Err(Unknown::Header), "{bad}");
        }
    }

    #[test]
    fn what_is_no_certificate_names_nobody() {
        let nothing = of_certificate(&CertificateDer::from(vec![0x30, 0x82]));
        assert_eq!(nothing, Err(Unknown::Unreadable));
    }
}
