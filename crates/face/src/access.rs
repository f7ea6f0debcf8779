//! Who calls, and whether that is enough.

use http::HeaderMap;
use tonic::{Code, Status};

use crate::config::FaceConfig;
use crate::errors::{Reason, because};
use crate::identity::{Identity, Unknown, of_forwarded};
use crate::methods::Need;
use crate::peer::Peer;
use crate::roles::{Role, Roles};

/// Where a sidecar says whose certificate it saw.
const FORWARDED: &str = "x-forwarded-client-cert";

/// Decides who may call what.
pub(crate) struct Access {
    roles: Roles,
    trusts_sidecar: bool,
    knows_callers: bool,
}

impl Access {
    pub(crate) fn new(config: &FaceConfig) -> Self {
        Self {
            roles: config.roles.clone(),
            trusts_sidecar: config.trust_forwarded_client_cert,
            knows_callers: config.knows_callers(),
        }
    }

    /// Returns who calls. A sidecar is one that connects from loopback; its word goes over the
    /// certificate of the connection, which is its own.
    pub(crate) fn identify(&self, peer: &Peer, headers: &HeaderMap) -> Result<Identity, Unknown> {
        let forwarded = headers.get_all(FORWARDED).iter().next_back();
        match forwarded {
            Some(header) if self.trusts_sidecar && peer.address.ip().is_loopback() => {
                of_forwarded(header.to_str().map_err(|_| Unknown::Header)?)
            }
            Some(_) | None => peer.identity.clone(),
        }
    }

    /// Refuses who may not.
    pub(crate) fn admit(
        &self,
        need: Need,
        identity: &Result<Identity, Unknown>,
    ) -> Result<(), Status> {
        let Need::Role(role) = need else {
            return Ok(());
        };
        if !self.knows_callers {
            return Ok(());
        }
        let name = role.to_string();
        let identity = identity.as_ref().map_err(|unknown| {
            let message = format!("{unknown}; role {role} is needed");
            let facts = [("role", name.as_str())];
            because(
                Code::Unauthenticated,
                message,
                Reason::IdentityMissing,
                &facts,
            )
        })?;
        if self.roles.has(identity, role) {
            return Ok(());
        }
        let message = format!("{identity} has not the role {role}, see grpc.roles.{role}");
        let facts = [("role", name.as_str()), ("identity", identity.uri())];
        Err(because(
            Code::PermissionDenied,
            message,
            Reason::RoleMissing,
            &facts,
        ))
    }

    /// Returns the node that may speak for itself alone.
    pub(crate) fn node(
        &self,
        need: Need,
        identity: &Result<Identity, Unknown>,
    ) -> Option<Identity> {
        let is_node = need == Need::Role(Role::Node);
        let identity = identity.as_ref().ok().cloned();
        identity.filter(|_| is_node && self.knows_callers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_sidecar_on_loopback_is_believed() {
        let mut headers = HeaderMap::new();
        headers.append(
            FORWARDED,
            "URI=spiffe://a/tandem/operator/forged".parse().unwrap(),
        );
        headers.append(
            FORWARDED,
            "By=x;URI=spiffe://a/tandem/viewer/v".parse().unwrap(),
        );
        let sees = |trust_forwarded_client_cert, address: &str| {
            let access = Access::new(&FaceConfig {
                trust_forwarded_client_cert,
                ..FaceConfig::default()
            });
            let peer = Peer {
                address: address.parse().unwrap(),
                identity: Err(Unknown::NoCertificate),
            };
            access.identify(&peer, &headers)
        };
        let viewer = Ok(Identity::new("spiffe://a/tandem/viewer/v"));
        assert_eq!(sees(true, "127.0.0.6:1"), viewer);
        assert_eq!(sees(true, "[::1]:1"), viewer);
        assert_eq!(sees(true, "192.0.2.1:1"), Err(Unknown::NoCertificate));
        assert_eq!(sees(false, "127.0.0.6:1"), Err(Unknown::NoCertificate));
    }
}
